// Forward on tensor cores: samples go straight into shared memory, no matrix of them is ever in device memory.
#include "fused.h"
#include "gather.cuh"

namespace seg::cuda {

namespace {

constexpr int kFusedThreads = 256;
constexpr int kWarps = kFusedThreads / kWarp;
constexpr int kPixelsAtOnce = kFusedThreads / kVectors;  // whose samples the block's threads gather in a substep
static_assert(kPixelsAtOnce * kSubsteps == kTilePixels);

// Rows of weights as packed_row orders them; channels and outputs that do not exist are zero.
template <typename T>
__global__ void __launch_bounds__(kThreads) pack_weight(const Conv conv, const Division division, int block_outputs,
                                                        const Stored<T>* weight, T* packed) {
  constexpr int wide = kVectorBytes / sizeof(T);  // channels that a thread moves at once
  const int64_t count = packed_row(division, division.groups, 0, 0, 0, block_outputs) * kVectors;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    int64_t rest = quotient(i, kVectors);
    const int64_t row = rest_of(rest, block_outputs);
    rest = quotient(rest, block_outputs);
    const int64_t step = rest_of(rest, division.steps);
    rest = quotient(rest, division.steps);
    const int64_t group = quotient(rest, division.output_blocks);
    const int64_t output = (rest - group * division.output_blocks) * block_outputs + row;
    const int64_t index = quotient(step, conv.taps()), tap = step - index * conv.taps();
    const Chunk chunk = chunk_at(conv, group, index, sizeof(T));
    const int64_t channel = chunk.begin + i % kVectors * wide;
    const bool exists = output < conv.group_outputs() && channel < chunk.end;
    const int64_t from = ((group * conv.group_outputs() + output) * conv.taps() + tap) * conv.group_channels() +
                         channel - group * conv.group_channels();
    Pack<T, wide> values;
#pragma unroll
    for (int c = 0; c < wide; ++c) narrow(exists ? widen(weight[from + c]) : 0.0f, values.values[c]);
    store(values, packed + i * wide);
  }
}

struct Arguments {
  Samples samples;
  Division division;
  const void* packed;
  const void* bias;
  float* partial;
  void* output;
};

// One block's product, from its first step to its last.
template <typename T, int BlockOutputs>
class ForwardBlock {
  // warps in rows and columns of the tile; each has 64 outputs
  static constexpr int kWarpColumns = BlockOutputs / 64, kWarpRows = kWarps / kWarpColumns;
  static constexpr int kRows = kTilePixels / kWarpRows / 16, kColumns = 8;
  static constexpr int kVectorsOfWeights = BlockOutputs * kVectors;

 public:
  __device__ __forceinline__ ForwardBlock(const Arguments& args, unsigned char* memory)
      : args_(args),
        work_(work_of(args.division, blockIdx.x)),
        group_(-1),
        index_(quotient(work_.begin, args.samples.conv.taps())),
        tap_(static_cast<int>(work_.begin - index_ * args.samples.conv.taps())) {
    chunk_ = chunk_at(args.samples.conv, work_.group, index_, sizeof(T));
    const int64_t entries = args.samples.conv.taps() * kTilePixels;
    plan_.cells = reinterpret_cast<Pack<int32_t, 4>*>(memory);
    plan_.shares = reinterpret_cast<Pack<float, 4>*>(memory + entries * kVectorBytes);
    samples_ = memory + entries * 2 * kVectorBytes;
    weights_ = samples_ + 2 * kTilePixels * kRowBytes;
  }

  __device__ __forceinline__ void run() {
    products_.clear();
    prepare(work_.begin, 0);
#pragma unroll
    for (int i = 0; i < kSubsteps; ++i) put(gather_row(i), i, 0);
    wait_for_copies();
    synchronize();
    for (int64_t step = work_.begin; step < work_.end; ++step) {
      const int now = (step - work_.begin) % 2;
      if (step + 1 < work_.end) {
        prepare(step + 1, 1 - now);
        advance(now);
      } else {
#pragma unroll
        for (int i = 0; i < kSubsteps; ++i) multiply(i, now);
      }
      wait_for_copies();
      synchronize();
    }
    if (args_.partial != nullptr) {
      store_partial();
    } else {
      store_output();
    }
  }

 private:
  // Starts the copy of the weights of the next step, and makes its plan where an offset group begins. All threads have
  // passed a barrier since the last step that read either.
  __device__ __forceinline__ void prepare(int64_t step, int to) {
    const Conv& conv = args_.samples.conv;
    const T* from = static_cast<const T*>(args_.packed) +
                    packed_row(args_.division, work_.group, work_.outputs, step, 0, BlockOutputs) * (kRowBytes / sizeof(T));
    unsigned char* tile = weights_ + to * BlockOutputs * kRowBytes;
#pragma unroll
    for (int i = 0; i < kVectorsOfWeights / kFusedThreads; ++i) {
      const int vector = i * kFusedThreads + threadIdx.x;
      copy_vector(tile + tile_offset(vector / kVectors, vector % kVectors),
                  reinterpret_cast<const unsigned char*>(from) + vector * kVectorBytes);
    }
    if (step > work_.begin && ++tap_ == conv.taps()) {
      tap_ = 0;
      chunk_ = chunk_at(conv, work_.group, ++index_, sizeof(T));
    }
    if (step > work_.begin && tap_ > 0) return;  // in the chunk of the step before
    const int64_t group = quotient(chunk_.begin, conv.offset_group_channels());
    if (group == group_) return;
    group_ = group;
    make_plan(args_.samples, work_.pixels * kTilePixels, group, plan_);
    synchronize();
  }

  // A share of the samples of the prepared step, one vector for each thread.
  __device__ __forceinline__ Gathered<T> gather_row(int substep) const {
    const int entry = tap_ * kTilePixels + substep * kPixelsAtOnce + threadIdx.x / kVectors;
    return gather(static_cast<const T*>(args_.samples.input), args_.samples.conv.channels, chunk_, plan_, entry,
                  threadIdx.x % kVectors);
  }

  __device__ __forceinline__ void put(const Gathered<T>& found, int substep, int to) {
    const int pixel = substep * kPixelsAtOnce + threadIdx.x / kVectors;
    unsigned char* row = samples_ + to * kTilePixels * kRowBytes;
    store(blend(found), reinterpret_cast<T*>(row + tile_offset(pixel, threadIdx.x % kVectors)));
  }

  __device__ __forceinline__ void multiply(int substep, int now) {
    multiply_substep<T>(products_, samples_ + now * kTilePixels * kRowBytes, weights_ + now * BlockOutputs * kRowBytes,
                        first_row(), first_column(), substep);
  }

  // Multiplies the present step while the cells of the next one are on their way.
  __device__ __forceinline__ void advance(int now) {
#pragma unroll
    for (int i = 0; i < kSubsteps; ++i) {
      const Gathered<T> found = gather_row(i);
      multiply(i, now);
      put(found, i, 1 - now);
    }
  }

  __device__ __forceinline__ int first_row() const { return threadIdx.x / kWarp / kWarpColumns * kRows * 16; }
  __device__ __forceinline__ int first_column() const { return threadIdx.x / kWarp % kWarpColumns * kColumns * 8; }

  // Calls write(pixel, output, two neighbouring sums, how many of them exist).
  template <typename F>
  __device__ __forceinline__ void for_pairs(const F& write) const {
    const Conv& conv = args_.samples.conv;
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int half = 0; half < 4; half += 2) {
          const int64_t pixel = work_.pixels * kTilePixels + first_row() + i * 16 + product_row(lane, half);
          const int64_t output = work_.outputs * BlockOutputs + first_column() + j * 8 + product_column(lane, half);
          const int64_t left = conv.group_outputs() - output;
          if (pixel >= conv.batch * conv.pixels() || left <= 0) continue;
          write(pixel, work_.group * conv.group_outputs() + output, products_.sum[i][j] + half, left > 1 ? 2 : 1);
        }
      }
    }
  }

  __device__ __forceinline__ void store_output() const {
    const int64_t outputs = args_.samples.conv.outputs;
    const Stored<T>* bias = static_cast<const Stored<T>*>(args_.bias);
    const bool even = args_.samples.conv.group_outputs() % 2 == 0;
    for_pairs([&](int64_t pixel, int64_t output, const float* sums, int count) {
      Stored<T>* to = static_cast<Stored<T>*>(args_.output) + pixel * outputs + output;
      Pack<Stored<T>, 2> pair;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float added = bias == nullptr || i >= count ? 0.0f : widen(bias[output + i]);
        narrow(sums[i] + added, pair.values[i]);
      }
      if (even) {
        store(pair, to);
      } else {
        for (int i = 0; i < count; ++i) to[i] = pair.values[i];
      }
    });
  }

  __device__ __forceinline__ void store_partial() const {
    const Conv& conv = args_.samples.conv;
    float* partial = args_.partial + work_.split * conv.batch * conv.pixels() * conv.outputs;
    for_pairs([&](int64_t pixel, int64_t output, const float* sums, int count) {
      for (int i = 0; i < count; ++i) partial[pixel * conv.outputs + output + i] = sums[i];
    });
  }

  const Arguments& args_;
  const Work work_;
  int64_t group_;  // offset group of the plan
  int64_t index_;  // of the prepared step's chunk, and its tap
  int tap_;
  Chunk chunk_;
  TilePlan plan_;
  unsigned char *samples_, *weights_;  // two tiles each, in turns
  Products<kRows, kColumns> products_;
};

template <typename T, int BlockOutputs>
__global__ void __launch_bounds__(kFusedThreads, 1) forward(const __grid_constant__ Arguments args) {
  ForwardBlock<T, BlockOutputs>(args, shared_memory<unsigned char>()).run();
}

// Sums the splits in their order, which is always the same.
template <typename T>
__global__ void __launch_bounds__(kThreads) sum_splits(const float* partial, int64_t splits, int64_t count,
                                                       const T* bias, int64_t outputs, T* output) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
    float sum = bias == nullptr ? 0.0f : widen(bias[i % outputs]);
    for (int64_t split = 0; split < splits; ++split) sum += partial[split * count + i];
    narrow(sum, output[i]);
  }
}

template <typename T>
cudaError_t launch_forward(const Arguments& args, const ForwardPlan& plan, cudaStream_t stream) {
  const int64_t blocks = plan.division.blocks();
  const int64_t bytes = forward_shared_bytes(args.samples.conv, plan.block_outputs);
  return plan.block_outputs == 256 ? launch(forward<T, 256>, blocks, kFusedThreads, bytes, stream, args)
                                   : launch(forward<T, 128>, blocks, kFusedThreads, bytes, stream, args);
}

template <typename T>
cudaError_t launch_all(const FusedForward& from, const ForwardPlan& plan, cudaStream_t stream) {
  using Out = Stored<T>;
  const Conv& conv = from.samples.conv;
  const int64_t packed = plan.packed_bytes / kVectorBytes, count = conv.batch * conv.pixels() * conv.outputs;
  cudaError_t error =
      launch(pack_weight<T>, blocks_for(packed, kThreads), kThreads, 0, stream, conv, plan.division, plan.block_outputs,
             static_cast<const Out*>(from.weight), static_cast<T*>(from.packed));
  if (error != cudaSuccess) return error;
  const Arguments args{from.samples, plan.division, from.packed, from.bias, from.partial, from.output};
  error = launch_forward<T>(args, plan, stream);
  if (error != cudaSuccess || plan.partial_bytes == 0) return error;
  return launch(sum_splits<Out>, blocks_for(count, kThreads), kThreads, 0, stream,
                static_cast<const float*>(from.partial), plan.division.splits, count,
                static_cast<const Out*>(from.bias), conv.outputs, static_cast<Out*>(from.output));
}

}  // namespace

cudaError_t plan_forward(const Conv& conv, Type type, bool tf32, const void* input, ForwardPlan& plan) {
  plan = ForwardPlan{};
  Device device{};
  const cudaError_t error = read_device(device);
  const int64_t element = core_element(type, tf32, device);
  if (error != cudaSuccess || element == 0) return error;
  plan.block_outputs = conv.group_outputs() > 128 ? 256 : 128;
  const uint64_t address = reinterpret_cast<uint64_t>(input);
  if (!fits_fused(conv, element, address, device.shared_bytes, forward_shared_bytes(conv, plan.block_outputs))) {
    return error;
  }
  plan.division = divide_forward(conv, element, plan.block_outputs, device.multiprocessors);
  plan.packed_bytes = packed_row(plan.division, conv.groups, 0, 0, 0, plan.block_outputs) * kRowBytes;
  if (plan.division.splits > 1) {
    plan.partial_bytes = plan.division.splits * conv.batch * conv.pixels() * conv.outputs * sizeof(float);
  }
  plan.possible = plan.division.blocks() <= INT64_C(0x7fffffff) && fits_int32(plan.packed_bytes / kVectorBytes);
  return error;
}

cudaError_t launch_fused_forward(const FusedForward& args, const ForwardPlan& plan, cudaStream_t stream) {
  return with_core_type(args.samples.type,
                        [&](auto element) { return launch_all<decltype(element)>(args, plan, stream); });
}

}  // namespace seg::cuda
