// Samples for the tensor cores: the plan of a tile's pixels, and rows of samples into shared memory.
#pragma once

#include "field.cuh"
#include "tensor_core.cuh"

namespace seg::cuda {

// Cells, counted through the batch, and shares of the four corners of samples, in shared memory.
struct TilePlan {
  Pack<int32_t, 4>* cells;
  Pack<float, 4>* shares;
};

// The plan of one sample; behind the last pixel there are zeros, of no cell.
__device__ __forceinline__ void plan_sample(const Samples& samples, int64_t flat, int64_t group, int64_t tap,
                                            const TilePlan& plan, int entry) {
  const Conv& conv = samples.conv;
  Corners<float> corners{{kRing, kRing, kRing, kRing}, {0, 0, 0, 0}};
  if (flat < conv.batch * conv.pixels()) {
    const Place place = place_at<uint32_t>(conv, flat, tap, group);
    const Sample<float> found = sample_at<float>(conv, samples.offset, samples.mask, place);
    corners =
        corners_of(found.square, found.mask, static_cast<int32_t>(conv.height), static_cast<int32_t>(conv.width));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (corners.cell[i] != kRing) corners.cell[i] += static_cast<int32_t>(place.image * conv.cells());
    }
  }
  plan.cells[entry] = Pack<int32_t, 4>{{corners.cell[0], corners.cell[1], corners.cell[2], corners.cell[3]}};
  plan.shares[entry] = Pack<float, 4>{{corners.share[0], corners.share[1], corners.share[2], corners.share[3]}};
}

// The plan of all taps for one offset group; a barrier has to follow.
__device__ __forceinline__ void make_plan(const Samples& samples, int64_t first, int64_t group, const TilePlan& plan) {
  for (int i = threadIdx.x; i < samples.conv.taps() * kTilePixels; i += blockDim.x) {
    plan_sample(samples, first + i % kTilePixels, group, i / kTilePixels, plan, i);
  }
}

// Neighbouring channels of the four corners of a sample, on their way from memory: 16 bytes of each.
template <typename T>
struct Gathered {
  static constexpr int kChannels = kVectorBytes / sizeof(T);
  Pack<uint32_t, 4> corner[4];
  Pack<float, 4> shares;
};

// `entry` of the plan; channels that the chunk does not have are zero.
template <typename T>
__device__ __forceinline__ Gathered<T> gather(const T* input, int64_t channels, const Chunk& chunk, const TilePlan& plan,
                                              int entry, int vector) {
  Gathered<T> found;
  const int64_t channel = chunk.begin + vector * Gathered<T>::kChannels;
  const bool exists = channel < chunk.end;
  const Pack<int32_t, 4> cells = plan.cells[entry];
  found.shares = plan.shares[entry];
  const unsigned char* from = reinterpret_cast<const unsigned char*>(input + channel);
  const int32_t cell_bytes = static_cast<int32_t>(channels * sizeof(T));  // 32 bits by 32 are one instruction
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (!exists) found.shares.values[i] = 0;
    found.corner[i] = Pack<uint32_t, 4>{{0, 0, 0, 0}};
    if (exists && cells.values[i] != kRing) {
      found.corner[i] =
          load<uint32_t, 4>(reinterpret_cast<const uint32_t*>(from + int64_t(cells.values[i]) * cell_bytes));
    }
  }
  return found;
}

// The samples, rounded to the type of the tensor cores.
template <typename T>
__device__ __forceinline__ Pack<T, Gathered<T>::kChannels> blend(const Gathered<T>& found) {
  constexpr int of_word = 4 / sizeof(T);
  Pack<T, Gathered<T>::kChannels> samples;
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    float sums[of_word] = {}, values[of_word];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      widen_word(found.corner[i].values[word], values, T{});
#pragma unroll
      for (int c = 0; c < of_word; ++c) sums[c] += found.shares.values[i] * values[c];
    }
#pragma unroll
    for (int c = 0; c < of_word; ++c) narrow(sums[c], samples.values[word * of_word + c]);
  }
  return samples;
}

}  // namespace seg::cuda
