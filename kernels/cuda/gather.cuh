// Samples for the tensor cores: the plan of a tile's pixels, and rows of samples into shared memory.
#pragma once

#include "field.cuh"
#include "tensor_core.cuh"

namespace seg::cuda {

// Cells, counted through the batch, and shares of the four corners of every tap and pixel of a tile.
struct TilePlan {
  int32_t (*cells)[4];
  float (*shares)[4];
};

__device__ __forceinline__ void make_corners(const Samples& samples, int64_t flat, int64_t group, int64_t tap,
                                             int32_t (&cells)[4], float (&shares)[4]) {
  const Conv& conv = samples.conv;
  Corners<float> corners{{kRing, kRing, kRing, kRing}, {0, 0, 0, 0}};  // behind the last pixel: zeros, of no cell
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
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    cells[i] = corners.cell[i];
    shares[i] = corners.share[i];
  }
}

// The plan of all taps for one offset group; a barrier has to follow.
__device__ __forceinline__ void make_plan(const Samples& samples, int64_t first, int64_t group, const TilePlan& plan) {
  for (int i = threadIdx.x; i < samples.conv.taps() * kTilePixels; i += blockDim.x) {
    make_corners(samples, first + i % kTilePixels, group, i / kTilePixels, plan.cells[i], plan.shares[i]);
  }
}

// Neighbouring channels of the four corners of a sample, on their way from memory.
template <typename T>
struct Gathered {
  static constexpr int kChannels = kVectorBytes / sizeof(T);
  Pack<T, kChannels> corner[4];
  float share[4];
};

// `entry` of the plan; channels that the chunk does not have are zero.
template <typename T>
__device__ __forceinline__ Gathered<T> gather(const T* input, int64_t channels, const Chunk& chunk, const TilePlan& plan,
                                              int entry, int vector) {
  Gathered<T> found;
  const int64_t channel = chunk.begin + vector * Gathered<T>::kChannels;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int32_t cell = channel < chunk.end ? plan.cells[entry][i] : kRing;
    found.share[i] = channel < chunk.end ? plan.shares[entry][i] : 0.0f;
    found.corner[i] = load_cell<T, Gathered<T>::kChannels>(input + channel, cell, channels);
  }
  return found;
}

// The samples, rounded to the type of the tensor cores.
template <typename T>
__device__ __forceinline__ Pack<T, Gathered<T>::kChannels> blend(const Gathered<T>& found) {
  Pack<T, Gathered<T>::kChannels> samples;
#pragma unroll
  for (int c = 0; c < Gathered<T>::kChannels; ++c) {
    float value = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) value += found.share[i] * widen(found.corner[i].values[c]);
    narrow(value, samples.values[c]);
  }
  return samples;
}

}  // namespace seg::cuda
