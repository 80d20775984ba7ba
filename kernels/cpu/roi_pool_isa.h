// RoI pooling for one instruction set: a file that defines SEG_ISA and is compiled with that set's flags includes this.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <type_traits>
#include <utility>

#include "roi_pool.h"

namespace seg::SEG_ISA {

#include "simd.h"

// The cells that a bin reads along one axis, each once.
template <typename T>
struct RoiAxis {
  int32_t* cell;
  T* share;
  T* slope;
  int32_t size;
};

// Private memory of a thread: two axes, sums by cell (which are zero between calls), and one box.
template <typename T>
struct RoiScratch {
  RoiAxis<T> y, x;
  T *shares, *slopes;
  T* box;

  static int64_t longest(const RoiPool& pool) { return (pool.height > pool.width ? pool.height : pool.width) + 2; }

  static size_t bytes(const RoiPool& pool) {
    return (6 * longest(pool) + pool.bins() * pool.outputs) * sizeof(T) + 2 * longest(pool) * sizeof(int32_t);
  }

  RoiScratch(const RoiPool& pool, void* memory) {
    const int64_t length = longest(pool);
    T* values = static_cast<T*>(memory);
    shares = values, slopes = values + length;
    for (int64_t i = 0; i < 2 * length; ++i) values[i] = T(0);
    y = {nullptr, values + 2 * length, values + 3 * length, 0};
    x = {nullptr, values + 4 * length, values + 5 * length, 0};
    box = values + 6 * length;
    y.cell = reinterpret_cast<int32_t*>(box + pool.bins() * pool.outputs);
    x.cell = y.cell + length;
  }

  // What the mean over a grid weighs each cell of an axis.
  void fill(RoiAxis<T>& axis, T first, T step, int32_t count, int32_t size, Border border) {
    int32_t lowest = size, highest = -1, kept = 0;
    for (int32_t i = 0; i < count; ++i) {
      const Neighbours<T> at = neighbours_at(grid_position(first, step, i), size, border);
      if (!at.read) continue;
      ++kept;
      shares[at.low + 1] += T(1) - at.share, shares[at.low + 2] += at.share;
      slopes[at.low + 1] -= at.slope, slopes[at.low + 2] += at.slope;
      lowest = at.low < lowest ? at.low : lowest;
      highest = at.low + 1 > highest ? at.low + 1 : highest;
    }
    const int32_t divisor = border == Border::kept ? kept : count;
    compress(axis, lowest, highest, size, T(1) / T(divisor > 0 ? divisor : 1));
  }

 private:
  void compress(RoiAxis<T>& axis, int32_t lowest, int32_t highest, int32_t size, T factor) {
    axis.size = 0;
    for (int32_t cell = lowest; cell <= highest; ++cell) {
      const T share = shares[cell + 1], slope = slopes[cell + 1];
      shares[cell + 1] = slopes[cell + 1] = T(0);
      if (cell < 0 || cell >= size || (share == T(0) && slope == T(0))) continue;
      axis.cell[axis.size] = cell;
      axis.share[axis.size] = share * factor;
      axis.slope[axis.size] = slope * factor;
      ++axis.size;
    }
  }
};

// Looks up one bin of one class: false where its position is not a number, and nothing may be read.
template <typename T>
bool look_up(const RoiPoolTask& task, int64_t box, int64_t k, int64_t bin, RoiScratch<T>& scratch) {
  const RoiPool& pool = task.pool;
  const T* first = static_cast<const T*>(task.first) + ((box * pool.classes + k) * pool.bins() + bin) * 2;
  const T* step = static_cast<const T*>(task.step) + box * 2;
  const int32_t* count = task.count + (box * pool.bins() + bin) * 2;
  scratch.y.size = scratch.x.size = 0;
  if (first[0] != first[0] || first[1] != first[1]) return false;
  scratch.fill(scratch.y, first[0], step[0], count[0], static_cast<int32_t>(pool.height), pool.border);
  scratch.fill(scratch.x, first[1], step[1], count[1], static_cast<int32_t>(pool.width), pool.border);
  return true;
}

template <typename T>
T mask_of(const RoiPoolTask& task, int64_t box, int64_t k, int64_t bin) {
  const RoiPool& pool = task.pool;
  return task.mask ? static_cast<const T*>(task.mask)[(box * pool.classes + k) * pool.bins() + bin] : T(1);
}

// Index of the first element of a bin's map.
inline int64_t map_at(const RoiPoolTask& task, int64_t box, int64_t bin) {
  const RoiPool& pool = task.pool;
  const int64_t groups = pool.group_rows * pool.group_columns;
  return (task.image[box] * groups + pool.group(bin)) * pool.cells() * pool.outputs;
}

template <typename S>
SEG_HD auto load_wide(const S* from) {
  if constexpr (sizeof(S) >= 4) {
    return load<S>(from);
  } else {
    return load(from);
  }
}

// Sums of `vectors` neighbouring vectors of channels over a bin's cells.
template <int vectors, typename S, typename T>
void sum_cells(const S* map, const RoiPool& pool, const RoiScratch<T>& bin, T factor, T* out) {
  V<T> sums[vectors] = {};
  for (int32_t i = 0; i < bin.y.size; ++i) {
    const S* row = map + bin.y.cell[i] * pool.width * pool.outputs;
    for (int32_t j = 0; j < bin.x.size; ++j) {
      const S* from = row + bin.x.cell[j] * pool.outputs;
      const T share = bin.y.share[i] * bin.x.share[j];
      if (share == T(0)) continue;  // a neighbour that counts for the slope alone, whose value may not be finite
      const V<T> weight = splat<T>(share);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sums[v] += weight * load_wide(from + v * kLanes<T>);
    }
  }
#pragma GCC unroll 8
  for (int v = 0; v < vectors; ++v) store<T>(sums[v] * splat<T>(factor), out + v * kLanes<T>);
}

template <typename S, typename T>
void pool_bin(const S* map, const RoiPool& pool, const RoiScratch<T>& bin, int64_t channels, T factor, T* out) {
  int64_t c = 0;
  for (; c + 8 * kLanes<T> <= channels; c += 8 * kLanes<T>) sum_cells<8>(map + c, pool, bin, factor, out + c);
  for (; c + kLanes<T> <= channels; c += kLanes<T>) sum_cells<1>(map + c, pool, bin, factor, out + c);
  for (; c < channels; ++c) {
    T sum = T(0);
    for (int32_t i = 0; i < bin.y.size; ++i) {
      for (int32_t j = 0; j < bin.x.size; ++j) {
        const int64_t cell = bin.y.cell[i] * pool.width + bin.x.cell[j];
        const T share = bin.y.share[i] * bin.x.share[j];
        if (share == T(0)) continue;  // as above
        sum += share * static_cast<T>(widen(map[cell * pool.outputs + c]));
      }
    }
    out[c] = sum * factor;
  }
}

// Rows of `from` [rows, columns] as columns of `to` [columns, rows].
template <typename T, typename S>
void write_transposed(const T* from, int64_t rows, int64_t columns, S* to) {
  constexpr int lanes = kLanes<T>;
  int64_t column = 0;
  if constexpr (std::is_same_v<T, S>) {
    for (; column + lanes <= columns && rows >= lanes; column += lanes) {
      for (int64_t row = 0; row < rows; row += lanes) {
        const int64_t at = row + lanes <= rows ? row : rows - lanes;  // the last square overlaps the one before
        V<T> square[lanes];
        for (int i = 0; i < lanes; ++i) square[i] = load<T>(from + (at + i) * columns + column);
        transpose<T>(square);
        for (int i = 0; i < lanes; ++i) store<T>(square[i], to + (column + i) * rows + at);
      }
    }
  }
  for (; column < columns; ++column) {
    for (int64_t row = 0; row < rows; ++row) narrow(from[row * columns + column], to[column * rows + row]);
  }
}

template <typename S>
void roi_forward(const RoiPoolTask& task, int64_t begin, int64_t end, void* memory) {
  using T = Compute<S>;
  const RoiPool& pool = task.pool;
  RoiScratch<T> scratch(pool, memory);
  const int64_t channels = pool.class_outputs(), size = pool.bins() * pool.outputs;
  for (int64_t box = begin; box < end; ++box) {
    for (int64_t bin = 0; bin < pool.bins(); ++bin) {
      const S* map = static_cast<const S*>(task.maps) + map_at(task, box, bin);
      for (int64_t k = 0; k < pool.classes; ++k) {
        T* out = scratch.box + bin * pool.outputs + k * channels;
        if (look_up(task, box, k, bin, scratch)) {
          pool_bin(map + k * channels, pool, scratch, channels, mask_of<T>(task, box, k, bin), out);
        } else {
          for (int64_t c = 0; c < channels; ++c) out[c] = static_cast<T>(__builtin_nan(""));
        }
      }
    }
    S* output = static_cast<S*>(task.output) + box * size;
    if (task.channels_last) {
      for (int64_t i = 0; i < size; ++i) narrow(scratch.box[i], output[i]);
    } else {
      write_transposed(scratch.box, pool.bins(), pool.outputs, output);
    }
  }
}

// Adds a bin's gradient to a block of channels of all cells that it read.
template <typename T>
void spread_bin(const T* grad, const RoiPool& pool, const RoiScratch<T>& bin, int64_t channels, T factor, T* map) {
  for (int32_t i = 0; i < bin.y.size; ++i) {
    for (int32_t j = 0; j < bin.x.size; ++j) {
      const T weight = bin.y.share[i] * bin.x.share[j] * factor;
      if (weight == T(0)) continue;  // a neighbour that counts for the slope alone
      T* to = map + (bin.y.cell[i] * pool.width + bin.x.cell[j]) * pool.outputs;
      int64_t c = 0;
      for (; c + kLanes<T> <= channels; c += kLanes<T>) {
        store<T>(load<T>(to + c) + splat<T>(weight) * load<T>(grad + c), to + c);
      }
      for (; c < channels; ++c) to[c] += weight * grad[c];
    }
  }
}

template <typename S>
void roi_backward_maps(const RoiPoolTask& task, int64_t begin, int64_t end, void* memory) {
  using T = Compute<S>;
  const RoiPool& pool = task.pool;
  RoiScratch<T> scratch(pool, memory);
  const int64_t blocks = (pool.outputs + kRoiBlock - 1) / kRoiBlock, channels = pool.class_outputs();
  for (int64_t number = begin; number < end; ++number) {
    const int64_t image = number / blocks, low = number % blocks * kRoiBlock;
    const int64_t high = low + kRoiBlock < pool.outputs ? low + kRoiBlock : pool.outputs;
    for (int64_t box = 0; box < pool.boxes; ++box) {
      if (task.image[box] != image) continue;
      for (int64_t bin = 0; bin < pool.bins(); ++bin) {
        T* map = static_cast<T*>(task.grad_maps) + map_at(task, box, bin);
        const T* grad = static_cast<const T*>(task.grad) + (box * pool.bins() + bin) * pool.outputs;
        for (int64_t k = low / channels; k * channels < high; ++k) {
          if (!look_up(task, box, k, bin, scratch)) continue;
          const int64_t from = k * channels > low ? k * channels : low;
          const int64_t to = (k + 1) * channels < high ? (k + 1) * channels : high;
          spread_bin(grad + from, pool, scratch, to - from, mask_of<T>(task, box, k, bin), map + from);
        }
      }
    }
  }
}

template <typename S, typename T>
T dot(const S* a, const T* b, int64_t count) {
  V<T> sums[4] = {};
  int64_t c = 0;
  for (; c + 4 * kLanes<T> <= count; c += 4 * kLanes<T>) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) sums[v] += load_wide(a + c + v * kLanes<T>) * load<T>(b + c + v * kLanes<T>);
  }
  for (; c + kLanes<T> <= count; c += kLanes<T>) sums[0] += load_wide(a + c) * load<T>(b + c);
  const V<T> all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  T sum = T(0);
  for (int i = 0; i < kLanes<T>; ++i) sum += all[i];
  for (; c < count; ++c) sum += static_cast<T>(widen(a[c])) * b[c];
  return sum;
}

template <typename S>
void roi_backward_positions(const RoiPoolTask& task, int64_t begin, int64_t end, void* memory) {
  using T = Compute<S>;
  const RoiPool& pool = task.pool;
  RoiScratch<T> scratch(pool, memory);
  const int64_t channels = pool.class_outputs();
  for (int64_t box = begin; box < end; ++box) {
    for (int64_t bin = 0; bin < pool.bins(); ++bin) {
      const S* map = static_cast<const S*>(task.maps) + map_at(task, box, bin);
      const T* grad = static_cast<const T*>(task.grad) + (box * pool.bins() + bin) * pool.outputs;
      for (int64_t k = 0; k < pool.classes; ++k) {
        look_up(task, box, k, bin, scratch);
        T by_y = T(0), by_x = T(0), by_mask = T(0);
        for (int32_t i = 0; i < scratch.y.size; ++i) {
          for (int32_t j = 0; j < scratch.x.size; ++j) {
            const int64_t cell = scratch.y.cell[i] * pool.width + scratch.x.cell[j];
            const T product = dot(map + cell * pool.outputs + k * channels, grad + k * channels, channels);
            by_y += product * scratch.y.slope[i] * scratch.x.share[j];
            by_x += product * scratch.y.share[i] * scratch.x.slope[j];
            by_mask += product * scratch.y.share[i] * scratch.x.share[j];
          }
        }
        const int64_t at = (box * pool.classes + k) * pool.bins() + bin;
        const T factor = mask_of<T>(task, box, k, bin);
        static_cast<T*>(task.grad_first)[2 * at] = by_y * factor;
        static_cast<T*>(task.grad_first)[2 * at + 1] = by_x * factor;
        static_cast<T*>(task.grad_mask)[at] = by_mask;
      }
    }
  }
}

template <typename S>
constexpr RoiKernels make_roi_kernels() {
  return {RoiScratch<Compute<S>>::bytes, roi_forward<S>, roi_backward_maps<S>, roi_backward_positions<S>};
}

// The element types in the order of `Type`.
inline const RoiKernels& roi_kernels_of(Type type) {
  static constexpr RoiKernels table[] = {make_roi_kernels<float>(), make_roi_kernels<double>(),
                                         make_roi_kernels<BF16>(), make_roi_kernels<F16>()};
  return table[static_cast<int>(type)];
}

}  // namespace seg::SEG_ISA
