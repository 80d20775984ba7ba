// Confusion matrix of a pair of label maps, counted as pairs of bytes.
#include <cstring>
#include <memory>
#include <mutex>

#include "operators.h"

namespace seg {

namespace {

constexpr int64_t kBlock = 4096;       // pixels that are narrowed to bytes at a time
constexpr int64_t kGrain = 1 << 18;    // blocks' pixels below which another thread does not pay
constexpr int64_t kCounted = 1 << 30;  // pixels after which 32-bit counters are emptied
constexpr int64_t kBytes = 256;

// Rows of truth, columns of prediction, and which labels count.
struct Counts {
  int64_t classes, ignore;
  std::vector<int64_t> cells;
  bool found_invalid = false;
  int64_t invalid = 0;  // a truth that is neither a class nor to be ignored

  Counts(int64_t classes, int64_t ignore) : classes(classes), ignore(ignore), cells(classes * (classes + 1)) {}

  void add(int64_t truth, int64_t prediction, int64_t count) {
    if (truth == ignore) return;
    if (truth < 0 || truth >= classes) {
      found_invalid = true;
      invalid = truth;
      return;
    }
    const bool is_class = prediction >= 0 && prediction < classes;
    cells[truth * (classes + 1) + (is_class ? prediction : classes)] += count;
  }

  void add(const Counts& other) {
    for (size_t i = 0; i < cells.size(); ++i) cells[i] += other.cells[i];
    if (other.found_invalid) found_invalid = true, invalid = other.invalid;
  }
};

// A pair of bytes as one number. The prediction is shifted about within its row of 1 KiB of counters, because the first
// counters of all rows would share the same few sets of the cache.
uint16_t pair_of(uint8_t truth, uint8_t prediction) {
  return static_cast<uint16_t>(truth << 8 | static_cast<uint8_t>(prediction ^ truth << 4));
}

// Writes the pairs of two runs of labels; false where a label does not fit into a byte.
template <typename T, typename P>
bool to_pairs(const T* truth, const P* prediction, int64_t count, uint16_t* pairs) {
  uint64_t all = 0;
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (sizeof(T) > 1) all |= static_cast<uint64_t>(truth[i]);
    if constexpr (sizeof(P) > 1) all |= static_cast<uint64_t>(prediction[i]);
    pairs[i] = pair_of(static_cast<uint8_t>(truth[i]), static_cast<uint8_t>(prediction[i]));
  }
  return all < kBytes;
}

// Counters of all pairs of bytes. Neighbouring pixels mostly repeat a pair: they count in different tables, so that an
// increment does not wait for the one before.
class PairTable {
 public:
  void add(const uint16_t* pairs, int64_t count) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) add_eight(pairs + i);
    for (; i < count; ++i) ++counters_[0][pairs[i]];
  }

  // Leaves the table at zero, ready for the next pair of maps.
  void empty_into(Counts& counts) {
    for (int64_t truth = 0; truth < kBytes; ++truth) {
      if (!is_used(truth)) continue;
      for (int64_t prediction = 0; prediction < kBytes; ++prediction) {
        const int64_t count = take(pair_of(static_cast<uint8_t>(truth), static_cast<uint8_t>(prediction)));
        if (count > 0) counts.add(truth, prediction, count);
      }
    }
  }

 private:
  bool is_used(int64_t truth) const {
    uint32_t any = 0;
    for (const auto& counters : counters_) {
      for (int64_t i = truth * kBytes; i < (truth + 1) * kBytes; ++i) any |= counters[i];
    }
    return any != 0;
  }

  int64_t take(uint16_t pair) {
    int64_t count = 0;
    for (auto& counters : counters_) {
      count += counters[pair];
      counters[pair] = 0;
    }
    return count;
  }

  void add_eight(const uint16_t* pairs) {
    uint64_t words[2];
    std::memcpy(words, pairs, sizeof words);
    if (words[0] == words[1] && words[0] == (words[0] << 16 | words[0] >> 48)) {
      counters_[0][pairs[0]] += 8;
      return;
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) ++counters_[i % 4][pairs[i]];
  }

  uint32_t counters_[4][kBytes * kBytes] = {};
};

template <typename T, typename P>
void count_range(const T* truth, const P* prediction, int64_t begin, int64_t end, Counts& counts) {
  thread_local const auto table = std::make_unique<PairTable>();
  uint16_t pairs[kBlock];
  int64_t counted = 0;
  for (int64_t at = begin; at < end; at += kBlock) {
    const int64_t count = std::min(kBlock, end - at);
    if (to_pairs(truth + at, prediction + at, count, pairs)) {
      table->add(pairs, count);
      counted += count;
    } else {
      for (int64_t i = at; i < at + count; ++i) counts.add(truth[i], prediction[i], 1);
    }
    if (counted >= kCounted) table->empty_into(counts), counted = 0;
  }
  table->empty_into(counts);
}

template <typename T, typename P>
void count_pairs(const Tensor& truth, const Tensor& prediction, Counts& total) {
  const T* truths = static_cast<const T*>(truth.const_data_ptr());
  const P* predictions = static_cast<const P*>(prediction.const_data_ptr());
  std::mutex mutex;
  torch::stable::parallel_for(0, truth.numel(), kGrain, [&](int64_t begin, int64_t end) {
    Counts counts(total.classes, total.ignore);
    count_range(truths, predictions, begin, end, counts);
    const std::lock_guard<std::mutex> lock(mutex);
    total.add(counts);
  });
}

bool is_bytes(const char* name, const Tensor& labels) {
  const ScalarType type = labels.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Byte || type == ScalarType::Long, name, " must be uint8 or int64");
  return type == ScalarType::Byte;
}

bool same_sizes(const Tensor& a, const Tensor& b) {
  bool same = a.dim() == b.dim();
  for (int64_t dim = 0; same && dim < a.dim(); ++dim) same = a.size(dim) == b.size(dim);
  return same;
}

}  // namespace

Tensor confusion(const Tensor& truth, const Tensor& prediction, int64_t classes, int64_t ignore) {
  STD_TORCH_CHECK(classes > 0, "classes must be positive, got ", classes);
  STD_TORCH_CHECK(same_sizes(truth, prediction), "truth and prediction must have the same shape");
  const bool truth_bytes = is_bytes("truth", truth), prediction_bytes = is_bytes("prediction", prediction);
  const Tensor truths = torch::stable::contiguous(truth), predictions = torch::stable::contiguous(prediction);
  Counts counts(classes, ignore);
  if (truth_bytes) {
    prediction_bytes ? count_pairs<uint8_t, uint8_t>(truths, predictions, counts)
                     : count_pairs<uint8_t, int64_t>(truths, predictions, counts);
  } else {
    prediction_bytes ? count_pairs<int64_t, uint8_t>(truths, predictions, counts)
                     : count_pairs<int64_t, int64_t>(truths, predictions, counts);
  }
  STD_TORCH_CHECK(!counts.found_invalid, "truth holds the label ", counts.invalid, ", expected 0 to ", classes - 1,
                  " or ", ignore, " (ignored)");
  Tensor out = empty_like(truth, {classes, classes + 1}, ScalarType::Long);
  std::memcpy(out.mutable_data_ptr(), counts.cells.data(), counts.cells.size() * sizeof(int64_t));
  return out;
}

}  // namespace seg
