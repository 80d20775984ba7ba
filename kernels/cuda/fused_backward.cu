// Gradients of the input, the offset and the mask on tensor cores: the gradients of the samples stay in shared memory.
#include "fused.h"
#include "gather.cuh"

namespace seg::cuda {

namespace {

constexpr int kFusedThreads = 256;
constexpr int kWarps = kFusedThreads / kWarp;
constexpr int kLaneChannels = kBlockChannels / kWarp;
static_assert(kLaneChannels == 4);
// the product of two tiles takes the place of both factors' tiles
static_assert(kTilePixels * kBlockChannels * 4 <= 2 * (kTilePixels + kBlockChannels) * kRowBytes);

// Rows of weights as backward_row orders them: one row for each channel, of neighbouring outputs.
template <typename T>
__global__ void __launch_bounds__(kThreads) pack_weight(const Conv conv, const BackwardDivision division,
                                                        const Stored<T>* weight, T* packed) {
  const int64_t row_outputs = chunk_channels(sizeof(T)), stride = int64_t(gridDim.x) * blockDim.x;
  const int64_t count = backward_row(division, division.channel_blocks, 0, 0, 0) * row_outputs;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride) {
    int64_t rest = i / row_outputs;
    const int64_t row = rest % kBlockChannels;
    rest /= kBlockChannels;
    const int64_t step = rest % division.steps;
    rest /= division.steps;
    const int64_t tap = rest % division.taps;
    const Chunk channels = block_channels(conv, rest / division.taps);
    const int64_t channel = channels.begin + row, output = step * row_outputs + i % row_outputs;
    float value = 0;
    if (channel < channels.end && output < conv.group_outputs()) {
      const int64_t group = channel / conv.group_channels(), row_of = group * conv.group_outputs() + output;
      value = widen(weight[(row_of * conv.taps() + tap) * conv.group_channels() + channel % conv.group_channels()]);
    }
    narrow(value, packed[i]);
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

template <typename T>
class BackwardBlock {
  // four warps in rows of pixels, two in columns of channels; each has 32 x 64
  static constexpr int kRows = 2, kColumns = 8, kWarpColumns = 2;

 public:
  __device__ __forceinline__ BackwardBlock(const Arguments& args, unsigned char* memory)
      : args_(args), memory_(memory) {
    const int64_t block = blockIdx.x, tiles = args.division.tiles;
    first_ = block % tiles * kTilePixels;
    tap_ = block / tiles % args.division.taps;
    number_ = block / tiles / args.division.taps;
    channels_ = block_channels(args.samples.conv, number_);
  }

  __device__ __forceinline__ void run() {
    products_.clear();
    copy(0);
    for (int64_t step = 0; step < args_.division.steps; ++step) {
      wait_for_copies();
      synchronize();  // the step's tiles are there, and nobody reads those before
      if (step + 1 < args_.division.steps) copy(step + 1);
#pragma unroll
      for (int i = 0; i < kSubsteps; ++i) {
        multiply_substep<T, true>(products_, left(step), right(step), first_row(), first_column(), i);
      }
    }
    synchronize();
    put_products();
    synchronize();
    for (int pixel = threadIdx.x / kWarp; pixel < kTilePixels; pixel += kWarps) scatter(pixel);
  }

 private:
  __device__ __forceinline__ unsigned char* left(int64_t step) const {
    return memory_ + step % 2 * kTilePixels * kRowBytes;
  }
  __device__ __forceinline__ unsigned char* right(int64_t step) const {
    return memory_ + (2 * kTilePixels + step % 2 * kBlockChannels) * kRowBytes;
  }
  __device__ __forceinline__ int first_row() const { return threadIdx.x / kWarp / kWarpColumns * kRows * 16; }
  __device__ __forceinline__ int first_column() const { return threadIdx.x / kWarp % kWarpColumns * kColumns * 8; }

  // Starts the copies of a step's rows of the output's gradient and of the weights; rows that do not exist are zero.
  __device__ __forceinline__ void copy(int64_t step) {
    const Conv& conv = args_.samples.conv;
    constexpr int wide = kVectorBytes / sizeof(T);
    const int64_t group = channels_.begin / conv.group_channels();
    const Stored<T>* grad = static_cast<const Stored<T>*>(args_.grad) + group * conv.group_outputs();
    const unsigned char* packed = static_cast<const unsigned char*>(args_.packed) +
                                  backward_row(args_.division, number_, tap_, step, 0) * kRowBytes;
    for (int i = threadIdx.x; i < kTilePixels * kVectors; i += kFusedThreads) {
      const int row = i / kVectors, vector = i % kVectors;
      const int64_t flat = first_ + row, output = (step * kVectors + vector) * wide;
      const bool exists = flat < conv.batch * conv.pixels() && output < conv.group_outputs();
      copy_or_clear(left(step) + tile_offset(row, vector), grad + flat * conv.outputs + output, exists);
    }
    for (int i = threadIdx.x; i < kBlockChannels * kVectors; i += kFusedThreads) {
      copy_vector(right(step) + tile_offset(i / kVectors, i % kVectors), packed + i * kVectorBytes);
    }
  }

  __device__ __forceinline__ float* product_at(int pixel, int channel) const {
    return reinterpret_cast<float*>(memory_) + pixel * kBlockChannels + channel;
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
    const Conv& conv = args_.samples.conv;
    const int64_t flat = first_ + pixel;
    if (flat >= conv.batch * conv.pixels()) return;
    const Place place =
        place_at<uint32_t>(conv, flat, tap_, quotient(channels_.begin, conv.offset_group_channels()));
    const Sample<float> found = sample_at<float>(conv, args_.samples.offset, args_.samples.mask, place);
    const Corners<float> corners =
        corners_of(found.square, found.mask, static_cast<int32_t>(conv.height), static_cast<int32_t>(conv.width));
    float dots[4] = {0, 0, 0, 0};
    const int lane = threadIdx.x % kWarp;
    if (channels_.begin + lane * kLaneChannels < channels_.end) pass(place, corners, pixel, lane, dots);
    if (args_.shares == nullptr) return;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        dots[i] += exchange(0xffffffffu, dots[i], distance);
      }
    }
    if (lane != 0) return;
    const PositionGradient<float> gradient = position_gradient(found.square, found.mask, dots);
    args_.shares[share_index(conv, number_, tap_, 0, flat)] = gradient.y;
    args_.shares[share_index(conv, number_, tap_, 1, flat)] = gradient.x;
    args_.shares[share_index(conv, number_, tap_, 2, flat)] = gradient.mask;
  }

  __device__ __forceinline__ void pass(const Place& place, const Corners<float>& corners, int pixel, int lane,
                                       float (&dots)[4]) const {
    const Conv& conv = args_.samples.conv;
    const int64_t channel = channels_.begin + lane * kLaneChannels;
    const int64_t origin = place.image * conv.cells() * conv.channels + channel;
    const Pack<float, 4> grad = load<float, 4>(product_at(pixel, lane * kLaneChannels));
    const Stored<T>* image = static_cast<const Stored<T>*>(args_.samples.input) + origin;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (args_.shares != nullptr) {
        const Pack<Stored<T>, 4> read = load_cell<Stored<T>, 4>(image, corners.cell[i], conv.channels);
#pragma unroll
        for (int c = 0; c < 4; ++c) dots[i] += grad.values[c] * widen(read.values[c]);
      }
      if (args_.input != nullptr && corners.cell[i] != kRing) {
        const float share = corners.share[i];
        atomic_add_four(args_.input + origin + corners.cell[i] * conv.channels, share * grad.values[0],
                        share * grad.values[1], share * grad.values[2], share * grad.values[3]);
      }
    }
  }

  const Arguments& args_;
  unsigned char* memory_;
  int64_t first_, tap_, number_;  // first pixel; number of the block of channels
  Chunk channels_;
  Products<kRows, kColumns> products_;
};

template <typename T>
__global__ void __launch_bounds__(kFusedThreads) backward(const __grid_constant__ Arguments args) {
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
  const int64_t packed = plan.packed_bytes / sizeof(T);
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
  plan.possible = plan.division.blocks() <= INT64_C(0x7fffffff);
  return error;
}

cudaError_t launch_fused_backward(const FusedBackward& args, const BackwardPlan& plan, cudaStream_t stream) {
  return with_core_type(args.samples.type,
                        [&](auto element) { return launch_all<decltype(element)>(args, plan, stream); });
}

}  // namespace seg::cuda
