// Gradient of the weight on tensor cores: samples go straight into shared memory, and the sum runs over the pixels.
#include "fused.h"
#include "gather.cuh"

namespace seg::cuda {

namespace {

constexpr int kFusedThreads = 256;
constexpr int kWarps = kFusedThreads / kWarp;
constexpr int kRowsAtOnce = kFusedThreads / kVectors;  // of samples, that the block's threads gather in a substep
static_assert(kRowsAtOnce * kSubsteps == kBlockColumns);

struct Arguments {
  Samples samples;
  WeightDivision division;
  const void* grad;
  float* turns;
};

// One block's turns, of one tile after another.
template <typename T, int BlockOutputs>
class WeightBlock {
  static constexpr int kElement = sizeof(T), kStepPixels = kRowBytes / kElement;
  static constexpr int kParts = kBlockColumns / kStepPixels;  // a row of samples has as many channels as a step pixels
  static constexpr int kWarpColumns = 512 / BlockOutputs;     // warps beside each other; each has 64 outputs
  static constexpr int kRows = 4, kColumns = kBlockColumns / kWarpColumns / 8;
  static constexpr int kTileBytes = kBlockColumns * kRowBytes, kGradBytes = BlockOutputs * kRowBytes;
  static_assert(kWarps / kWarpColumns * kRows * 16 == BlockOutputs);
  static_assert(kParts * sizeof(Column) <= 2 * kRowBytes);

 public:
  __device__ __forceinline__ WeightBlock(const Arguments& args, unsigned char* memory)
      : args_(args), pixels_(static_cast<int>(args.samples.conv.batch * args.samples.conv.pixels())) {
    columns_ = reinterpret_cast<Column*>(memory);
    unsigned char* plan = memory + 2 * kRowBytes;
    plan_.cells = reinterpret_cast<Pack<int32_t, 4>*>(plan);
    plan_.shares = reinterpret_cast<Pack<float, 4>*>(plan + 2 * kBlockColumns * kVectorBytes);
    samples_ = plan + 4 * kBlockColumns * kVectorBytes;
    grads_ = samples_ + 2 * kTileBytes;
  }

  __device__ __forceinline__ void run() {
    const int64_t last = args_.division.first_step(int64_t(blockIdx.x) + 1);
    for (int64_t at = args_.division.first_step(blockIdx.x); at < last; at += turn_.end - turn_.begin) {
      turn_ = turn_at(args_.division, at, last);
      const int begin = static_cast<int>(turn_.begin), end = static_cast<int>(turn_.end);
      begin_turn(begin);
      for (int step = begin; step < end; ++step) {
        const int now = (step - begin) % 2;
        if (step + 1 < end) {
          copy_grad(step + 1, 1 - now);
          make_step_plan(step + 2, now);
          advance(now);
        } else {
#pragma unroll
          for (int i = 0; i < kSubsteps; ++i) multiply(i, now);
        }
        wait_for_copies();
        synchronize();
      }
      store_turn();
    }
  }

 private:
  // The first step's tiles, and the plans of the first two. All threads have passed a barrier since the last turn.
  __device__ __forceinline__ void begin_turn(int step) {
    products_.clear();
    const int64_t all = args_.samples.conv.group_outputs(), begin = turn_.outputs * BlockOutputs;
    outputs_ = all - begin < BlockOutputs ? static_cast<int>(all - begin) : BlockOutputs;
    grad_ = static_cast<const Stored<T>*>(args_.grad) + turn_.group * all + begin;
    if (threadIdx.x < kParts) columns_[threadIdx.x] = column_of(args_.samples.conv, turn_, threadIdx.x, kElement);
    synchronize();
    copy_grad(step, 0);
    make_step_plan(step, 0);
    make_step_plan(step + 1, 1);
    synchronize();
#pragma unroll
    for (int i = 0; i < kSubsteps; ++i) put(gather_row(i, 0), i, 0);
    wait_for_copies();
    synchronize();
  }

  // Cells and shares for the samples of a step, which the gathering of the step before it no longer reads.
  __device__ __forceinline__ void make_step_plan(int step, int to) {
    const int row = threadIdx.x;
    if (row >= kBlockColumns) return;
    const Column& column = columns_[row / kStepPixels];
    plan_sample(args_.samples, step * kStepPixels + row % kStepPixels, column.offset_group, column.tap, plan_,
                to * kBlockColumns + row);
  }

  // Starts the copies of a step's rows of the output's gradient; those that do not exist are zero.
  __device__ __forceinline__ void copy_grad(int step, int to) {
    const Conv& conv = args_.samples.conv;
    constexpr int wide = kVectorBytes / kElement, across = BlockOutputs / wide;  // vectors of a pixel
    unsigned char* tiles = grads_ + to * kGradBytes;
#pragma unroll 2
    for (int i = 0; i < kStepPixels * across / kFusedThreads; ++i) {
      const int number = i * kFusedThreads + threadIdx.x, row = number / across, output = number % across * wide;
      const int flat = step * kStepPixels + row;
      copy_vector(tiles + crossed_place(row, output, kElement), grad_ + flat * conv.outputs + output,
                    flat < pixels_ && output < outputs_);
    }
  }

  // A share of the samples of a planned step, one vector for each thread.
  __device__ __forceinline__ Gathered<T> gather_row(int substep, int from) const {
    const int row = substep * kRowsAtOnce + threadIdx.x / kVectors;
    const Chunk& chunk = columns_[substep * kRowsAtOnce / kStepPixels].chunk;
    return gather(static_cast<const T*>(args_.samples.input), args_.samples.conv.channels, chunk, plan_,
                  from * kBlockColumns + row, threadIdx.x % kVectors);
  }

  __device__ __forceinline__ void put(const Gathered<T>& found, int substep, int to) {
    const int row = substep * kRowsAtOnce + threadIdx.x / kVectors;
    unsigned char* tile = samples_ + to * kTileBytes;  // the rows of one part behind those of the other
    store(blend(found), reinterpret_cast<T*>(tile + crossed_offset(row, threadIdx.x % kVectors, kElement)));
  }

  __device__ __forceinline__ void multiply(int substep, int now) {
    multiply_crossed<T>(products_, grads_ + now * kGradBytes, samples_ + now * kTileBytes, first_row(), first_column(),
                        substep);
  }

  // Multiplies the present step while the cells of the next one are on their way.
  __device__ __forceinline__ void advance(int now) {
#pragma unroll
    for (int i = 0; i < kSubsteps; ++i) {
      const Gathered<T> found = gather_row(i, 1 - now);
      multiply(i, now);
      put(found, i, 1 - now);
    }
  }

  __device__ __forceinline__ int first_row() const { return threadIdx.x / kWarp / kWarpColumns * kRows * 16; }
  __device__ __forceinline__ int first_column() const { return threadIdx.x / kWarp % kWarpColumns * kColumns * 8; }

  __device__ __forceinline__ void store_turn() const {
    const int lane = threadIdx.x % kWarp;
    float* sums = args_.turns + args_.division.slot(blockIdx.x, turn_.tile) * BlockOutputs * kBlockColumns;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int half = 0; half < 4; half += 2) {
          const int row = first_row() + i * 16 + product_row(lane, half);
          const int column = first_column() + j * 8 + product_column(lane, half);
          const Pack<float, 2> pair{{products_.sum[i][j][half], products_.sum[i][j][half + 1]}};
          store(pair, sums + row * kBlockColumns + column);
        }
      }
    }
  }

  const Arguments& args_;
  const int pixels_;  // of the batch
  Turn turn_;
  int outputs_;            // of the turn's tile that exist
  const Stored<T>* grad_;  // of the first of them
  Column* columns_;  // of the turn's tile, by parts
  TilePlan plan_;
  unsigned char *samples_, *grads_;  // two steps' tiles each, in turns
  Products<kRows, kColumns> products_;
};

template <typename T, int BlockOutputs>
__global__ void __launch_bounds__(kFusedThreads, 1) weight_gradient(const __grid_constant__ Arguments args) {
  WeightBlock<T, BlockOutputs>(args, shared_memory<unsigned char>()).run();
}

constexpr int kSumRows = 32;  // of a tile, that a block sums

// Sums the turns at a tile in the order of their blocks, which is always the same; four channels for each thread.
__global__ void __launch_bounds__(kThreads) sum_turns(const Conv conv, const WeightDivision division, int element,
                                                      int block_outputs, const float* turns, float* weight) {
  constexpr int across = kBlockColumns / 4;
  const int64_t bands = block_outputs / kSumRows, tile = quotient(blockIdx.x, bands);
  const int64_t begin = tile * division.steps, end = begin + division.steps;
  const Turn whole = turn_at(division, begin, end);
  const int64_t at = threadIdx.x % across * 4, part_channels = chunk_channels(element);
  const Column column = column_of(conv, whole, at / part_channels, element);
  const int64_t channel = column.chunk.begin + at % part_channels;
  if (channel >= column.chunk.end) return;
  const int64_t first = division.block_of(begin), last = division.block_of(end - 1);
  for (int64_t i = threadIdx.x / across; i < kSumRows; i += kThreads / across) {
    const int64_t row = blockIdx.x % bands * kSumRows + i, output = whole.outputs * block_outputs + row;
    if (output >= conv.group_outputs()) return;
    Pack<float, 4> sums{{0, 0, 0, 0}};
    for (int64_t block = first; block <= last; ++block) {
      const int64_t from = (division.slot(block, tile) * block_outputs + row) * kBlockColumns + at;
      const Pack<float, 4> turn = load<float, 4>(turns + from);
#pragma unroll
      for (int c = 0; c < 4; ++c) sums.values[c] += turn.values[c];
    }
    const int64_t to = (whole.group * conv.group_outputs() + output) * conv.taps() + column.tap;
    store(sums, weight + to * conv.group_channels() + channel - whole.group * conv.group_channels());
  }
}

template <typename T>
cudaError_t launch_all(const FusedWeight& from, const WeightPlan& plan, cudaStream_t stream) {
  const WeightDivision& division = plan.division;
  const Arguments args{from.samples, division, from.grad, from.turns};
  const int64_t bytes = weight_shared_bytes(plan.block_outputs);
  const cudaError_t error =
      plan.block_outputs == 256
          ? launch(weight_gradient<T, 256>, division.blocks, kFusedThreads, bytes, stream, args)
          : launch(weight_gradient<T, 128>, division.blocks, kFusedThreads, bytes, stream, args);
  if (error != cudaSuccess) return error;
  return launch(sum_turns, division.tiles() * (plan.block_outputs / kSumRows), kThreads, 0, stream, from.samples.conv,
                division, static_cast<int>(sizeof(T)), plan.block_outputs, static_cast<const float*>(from.turns),
                from.weight);
}

}  // namespace

cudaError_t plan_weight(const Conv& conv, Type type, bool tf32, const void* input, const void* grad, WeightPlan& plan) {
  plan = WeightPlan{};
  Device device{};
  const cudaError_t error = read_device(device);
  const int64_t element = core_element(type, tf32, device);
  if (error != cudaSuccess || element == 0) return error;
  plan.block_outputs = conv.group_outputs() > 128 && weight_shared_bytes(256) <= device.shared_bytes ? 256 : 128;
  const uint64_t addresses = reinterpret_cast<uint64_t>(input) | reinterpret_cast<uint64_t>(grad);
  if (!fits_fused(conv, element, addresses, device.shared_bytes, weight_shared_bytes(plan.block_outputs))) return error;
  if (conv.group_outputs() * element % kVectorBytes != 0) return error;
  plan.division = divide_weight(conv, element, plan.block_outputs, device.multiprocessors);
  plan.turn_bytes = turn_bytes(plan.division, plan.block_outputs);
  plan.possible = turns_are_full(conv, plan.division, plan.block_outputs);
  return error;
}

cudaError_t launch_fused_weight(const FusedWeight& args, const WeightPlan& plan, cudaStream_t stream) {
  return with_core_type(args.samples.type,
                        [&](auto element) { return launch_all<decltype(element)>(args, plan, stream); });
}

}  // namespace seg::cuda
