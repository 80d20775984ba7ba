// Gradients of the input, the offset and the mask on tensor cores: the gradients of the samples stay in shared memory.
#include "fused.h"
#include "gather.cuh"

namespace seg::cuda {

namespace {

constexpr int kFusedThreads = 256;
constexpr int64_t kMaxShareBytes = INT64_C(1) << 28;  // of workspace: the plain path's is bounded as well
constexpr int kWarps = kFusedThreads / kWarp;
constexpr int kLaneChannels = kBlockChannels / kWarp;
static_assert(kLaneChannels == 4);
// the product of two tiles takes the place of both factors' tiles
static_assert(kTilePixels * kBlockChannels * 4 <= 2 * (kTilePixels + kBlockChannels) * kRowBytes);

// Rows of weights as backward_row orders them: one row for each channel, of neighbouring outputs. Neighbouring threads
// read neighbouring channels and write a vector of outputs each.
template <typename T>
__global__ void __launch_bounds__(kThreads) pack_weight(const Conv conv, const BackwardDivision division,
                                                        const Stored<T>* weight, T* packed) {
  constexpr int wide = kVectorBytes / sizeof(T);
  const int64_t count = backward_row(division, division.channel_blocks, 0, 0, 0) * kVectors;
  const int64_t stride = int64_t(gridDim.x) * blockDim.x, across = conv.taps() * conv.group_channels();
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    const int64_t row = i % kBlockChannels, vector = i / kBlockChannels % kVectors;
    int64_t rest = i / (kBlockChannels * kVectors);
    const int64_t step = rest_of(rest, division.steps);
    rest = quotient(rest, division.steps);
    const int64_t block = quotient(rest, division.taps), tap = rest - block * division.taps;
    const Chunk channels = block_channels(conv, block);
    const int64_t channel = channels.begin + row, output = (step * kVectors + vector) * wide;
    const int64_t group = quotient(channel, conv.group_channels());
    const bool exists = channel < channels.end && output < conv.group_outputs();
    const int64_t from = (group * conv.group_outputs() + output) * across + tap * conv.group_channels() + channel -
                         group * conv.group_channels();
    Pack<T, wide> values;
#pragma unroll
    for (int o = 0; o < wide; ++o) narrow(exists ? widen(weight[from + o * across]) : 0.0f, values.values[o]);
    store(values, packed + (backward_row(division, block, tap, step, row) * kVectors + vector) * wide);
  }
}

struct Arguments {
  Samples samples;
  BackwardDivision division;
  const void* grad;
  const void* packed;
  float* shares;
  float* input;
};

// Sums four values over a warp: every lane has that of lane / 8 in the end.
__device__ __forceinline__ float sum_four(const float (&values)[4]) {
  const unsigned all = 0xffffffffu;
  const bool upper = threadIdx.x & 16, odd = threadIdx.x & 8;
  const float even_sum = (upper ? values[2] : values[0]) + exchange(all, upper ? values[0] : values[2], 16);
  const float odd_sum = (upper ? values[3] : values[1]) + exchange(all, upper ? values[1] : values[3], 16);
  float sum = (odd ? odd_sum : even_sum) + exchange(all, odd ? even_sum : odd_sum, 8);
#pragma unroll
  for (int distance = 4; distance > 0; distance /= 2) sum += exchange(all, sum, distance);
  return sum;
}

// One block's product, and what becomes of it: a tile of pixels at one tap, by a block of channels.
template <typename T>
class BackwardBlock {
  // four warps in rows of pixels, two in columns of channels; each has 32 x 64
  static constexpr int kRows = 2, kColumns = 8, kWarpColumns = 2;
  static constexpr int kWide = kVectorBytes / sizeof(T);

 public:
  __device__ __forceinline__ BackwardBlock(const Arguments& args, unsigned char* memory) : args_(args) {
    const Conv& conv = args.samples.conv;
    const int64_t rest = quotient(blockIdx.x, args.division.tiles), number = quotient(rest, args.division.taps);
    first_ = static_cast<int>(blockIdx.x - rest * args.division.tiles) * kTilePixels;
    number_ = static_cast<int>(number);
    tap_ = static_cast<int>(rest - number * args.division.taps);
    pixels_ = static_cast<int>(conv.batch * conv.pixels());
    channels_ = block_channels(conv, number_);
    offset_group_ = static_cast<int>(quotient(channels_.begin, conv.offset_group_channels()));
    outputs_ = static_cast<int>(conv.group_outputs());
    grad_ = static_cast<const Stored<T>*>(args.grad) + quotient(channels_.begin, conv.group_channels()) * outputs_;
    plan_.cells = reinterpret_cast<Pack<int32_t, 4>*>(memory);
    plan_.shares = reinterpret_cast<Pack<float, 4>*>(memory + kTilePixels * kVectorBytes);
    dots_ = reinterpret_cast<float(*)[4]>(memory + 2 * kTilePixels * kVectorBytes);
    tiles_ = memory + 3 * kTilePixels * kVectorBytes;
  }

  __device__ __forceinline__ void run() {
    products_.clear();
    copy(0);
    if (threadIdx.x < kTilePixels) {
      plan_sample(args_.samples, first_ + threadIdx.x, offset_group_, tap_, plan_, threadIdx.x);
    }
    const int steps = static_cast<int>(args_.division.steps);
    for (int step = 0; step < steps; ++step) {
      wait_for_copies();
      synchronize();  // the step's tiles are there, and nobody reads those before
      if (step + 1 < steps) copy(step + 1);
#pragma unroll
      for (int i = 0; i < kSubsteps; ++i) {
        multiply_substep<T, true>(products_, left(step), right(step), first_row(), first_column(), i);
      }
    }
    synchronize();
    put_products();
    synchronize();
    for (int pixel = threadIdx.x / kWarp; pixel < kTilePixels; pixel += kWarps) scatter(pixel);
    if (args_.shares == nullptr) return;
    synchronize();
    if (threadIdx.x < kTilePixels) share(threadIdx.x);
  }

 private:
  __device__ __forceinline__ unsigned char* left(int step) const {
    return tiles_ + step % 2 * kTilePixels * kRowBytes;
  }
  __device__ __forceinline__ unsigned char* right(int step) const {
    return tiles_ + (2 * kTilePixels + step % 2 * kBlockChannels) * kRowBytes;
  }
  __device__ __forceinline__ int first_row() const { return threadIdx.x / kWarp / kWarpColumns * kRows * 16; }
  __device__ __forceinline__ int first_column() const { return threadIdx.x / kWarp % kWarpColumns * kColumns * 8; }

  // Starts the copies of a step's rows of the output's gradient and of the weights; rows that do not exist are zero.
  __device__ __forceinline__ void copy(int step) {
    const Conv& conv = args_.samples.conv;
    const int begin = step * kVectors * kWide;
    const unsigned char* packed = static_cast<const unsigned char*>(args_.packed) +
                                  backward_row(args_.division, number_, tap_, step, 0) * kRowBytes;
#pragma unroll
    for (int i = 0; i < kTilePixels * kVectors / kFusedThreads; ++i) {
      const int number = i * kFusedThreads + threadIdx.x, row = number / kVectors, vector = number % kVectors;
      const int flat = first_ + row, output = begin + vector * kWide;
      copy_vector(left(step) + tile_offset(row, vector), grad_ + flat * conv.outputs + output,
                    flat < pixels_ && output < outputs_);
    }
#pragma unroll
    for (int i = 0; i < kBlockChannels * kVectors / kFusedThreads; ++i) {
      const int number = i * kFusedThreads + threadIdx.x;
      copy_vector(right(step) + tile_offset(number / kVectors, number % kVectors), packed + number * kVectorBytes);
    }
  }

  // Rows that lanes write at the same time are spread over the banks.
  __device__ __forceinline__ float* product_at(int pixel, int channel) const {
    return reinterpret_cast<float*>(tiles_) + pixel * kBlockChannels + (channel ^ (pixel % 4 * 8));
  }

  __device__ __forceinline__ void put_products() const {
    const int lane = threadIdx.x % kWarp;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int half = 0; half < 4; half += 2) {
          const Pack<float, 2> pair{{products_.sum[i][j][half], products_.sum[i][j][half + 1]}};
          store(pair, product_at(first_row() + i * 16 + product_row(lane, half),
                                 first_column() + j * 8 + product_column(lane, half)));
        }
      }
    }
  }

  // One warp passes over the channels of one sample's gradient: four sums into the input's gradient, four products.
  __device__ __forceinline__ void scatter(int pixel) const {
    const int lane = threadIdx.x % kWarp;
    float dots[4] = {0, 0, 0, 0};
    if (channels_.begin + lane * kLaneChannels < channels_.end) pass(pixel, lane, dots);
    if (args_.shares == nullptr) return;
    const float sum = sum_four(dots);
    if (lane % 8 == 0) dots_[pixel][lane / 8] = sum;
  }

  __device__ __forceinline__ void pass(int pixel, int lane, float (&dots)[4]) const {
    const Conv& conv = args_.samples.conv;
    const int64_t channel = channels_.begin + lane * kLaneChannels;
    const Pack<float, 4> grad = load<float, 4>(product_at(pixel, lane * kLaneChannels));
    const Pack<int32_t, 4> cells = plan_.cells[pixel];
    const Pack<float, 4> shares = plan_.shares[pixel];
    const Stored<T>* input = static_cast<const Stored<T>*>(args_.samples.input) + channel;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int32_t cell = cells.values[i];
      if (args_.shares != nullptr) {
        const Pack<Stored<T>, 4> read = load_cell<Stored<T>, 4>(input, cell, conv.channels);
#pragma unroll
        for (int c = 0; c < 4; ++c) dots[i] += grad.values[c] * widen(read.values[c]);
      }
      if (args_.input != nullptr && cell != kRing) {
        const float share = shares.values[i];
        atomic_add_four(args_.input + channel + cell * conv.channels, share * grad.values[0], share * grad.values[1],
                        share * grad.values[2], share * grad.values[3]);
      }
    }
  }

  // The block's share of the gradients of a sample's position and mask.
  __device__ __forceinline__ void share(int pixel) const {
    const Conv& conv = args_.samples.conv;
    const int flat = first_ + pixel;
    if (flat >= pixels_) return;
    const Sample<float> found = sample_at<float>(conv, args_.samples.offset, args_.samples.mask,
                                                 place_at<uint32_t>(conv, flat, tap_, offset_group_));
    const PositionGradient<float> gradient = position_gradient(found.square, found.mask, dots_[pixel]);
    args_.shares[share_index(conv, number_, tap_, 0, flat)] = gradient.y;
    args_.shares[share_index(conv, number_, tap_, 1, flat)] = gradient.x;
    args_.shares[share_index(conv, number_, tap_, 2, flat)] = gradient.mask;
  }

  const Arguments& args_;
  unsigned char* tiles_;          // of both factors, and later their product
  int pixels_, first_;            // of the batch; the block's first one
  int tap_, number_;              // number of the block of channels
  int offset_group_, outputs_;    // of the channels; how many outputs their weight group has
  Chunk channels_;
  const Stored<T>* grad_;         // of the first of them
  TilePlan plan_;
  float (*dots_)[4];  // products of a sample's gradient with its four cells
  Products<kRows, kColumns> products_;
};

// two blocks to a multiprocessor: one multiplies while the other scatters
template <typename T>
__global__ void __launch_bounds__(kFusedThreads, 2) backward(const __grid_constant__ Arguments args) {
  BackwardBlock<T>(args, shared_memory<unsigned char>()).run();
}

// Sums the shares of an offset group's blocks in their order, which is always the same.
__global__ void __launch_bounds__(kThreads) sum_shares(const Conv conv, const float* shares, float* offset,
                                                       float* mask) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x, pixels = conv.pixels();
  const int64_t per_group = conv.offset_group_channels() / segment_channels(conv) * blocks_of_segment(conv);
  const int64_t channels = conv.offset_groups * conv.taps();
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < conv.batch * channels * pixels; i += step) {
    const int64_t pixel = i % pixels, channel = i / pixels % channels, image = i / pixels / channels;
    const int64_t group = channel / conv.taps(), tap = channel % conv.taps(), flat = image * pixels + pixel;
    float sums[3] = {0, 0, 0};
    for (int64_t block = group * per_group; block < (group + 1) * per_group; ++block) {
      for (int64_t j = 0; j < 3; ++j) sums[j] += shares[share_index(conv, block, tap, j, flat)];
    }
    if (offset != nullptr) {
      offset[map_index(conv, 2 * channels, image, 2 * channel, pixel)] = sums[0];
      offset[map_index(conv, 2 * channels, image, 2 * channel + 1, pixel)] = sums[1];
    }
    if (mask != nullptr) mask[map_index(conv, channels, image, channel, pixel)] = sums[2];
  }
}

template <typename T>
cudaError_t launch_all(const FusedBackward& from, const BackwardPlan& plan, cudaStream_t stream) {
  const Conv& conv = from.samples.conv;
  const int64_t packed = plan.packed_bytes / kVectorBytes;
  cudaError_t error = launch(pack_weight<T>, blocks_for(packed, kThreads), kThreads, 0, stream, conv, plan.division,
                             static_cast<const Stored<T>*>(from.weight), static_cast<T*>(from.packed));
  if (error != cudaSuccess) return error;
  const Arguments args{from.samples, plan.division, from.grad, from.packed, from.shares,
                       static_cast<float*>(from.gradients.input)};
  error = launch(backward<T>, plan.division.blocks(), kFusedThreads, backward_shared_bytes(), stream, args);
  if (error != cudaSuccess || from.shares == nullptr) return error;
  const int64_t count = conv.batch * conv.offset_groups * conv.taps() * conv.pixels();
  return launch(sum_shares, blocks_for(count, kThreads), kThreads, 0, stream, conv,
                static_cast<const float*>(from.shares), static_cast<float*>(from.gradients.offset),
                static_cast<float*>(from.gradients.mask));
}

}  // namespace

cudaError_t plan_backward(const Conv& conv, Type type, bool tf32, const void* input, const void* grad,
                          BackwardPlan& plan) {
  plan = BackwardPlan{};
  Device device{};
  const cudaError_t error = read_device(device);
  const int64_t element = core_element(type, tf32, device);
  if (error != cudaSuccess || element == 0) return error;
  const uint64_t addresses = reinterpret_cast<uint64_t>(input) | reinterpret_cast<uint64_t>(grad);
  if (!fits_fused(conv, element, addresses, device.shared_bytes, backward_shared_bytes())) return error;
  if (conv.group_outputs() * element % kVectorBytes != 0) return error;
  plan.division = divide_backward(conv, element);
  plan.packed_bytes = backward_row(plan.division, plan.division.channel_blocks, 0, 0, 0) * kRowBytes;
  plan.share_bytes = share_index(conv, plan.division.channel_blocks, 0, 0, 0) * sizeof(float);
  plan.possible = plan.division.blocks() <= INT64_C(0x7fffffff) && fits_int32(plan.packed_bytes / kVectorBytes) &&
                  plan.share_bytes <= kMaxShareBytes;
  return error;
}

cudaError_t launch_fused_backward(const FusedBackward& args, const BackwardPlan& plan, cudaStream_t stream) {
  return with_core_type(args.samples.type,
                        [&](auto element) { return launch_all<decltype(element)>(args, plan, stream); });
}

}  // namespace seg::cuda
