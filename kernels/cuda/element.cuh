// Element types on the GPU: stored in 16, 32 or 64 bits, computed in float, or double for double.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "device.cuh"
#include "plain.h"

namespace seg::cuda {

template <typename T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <typename T>
using Compute = typename ComputeOf<T>::type;

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ double widen(double value) { return value; }
__device__ __forceinline__ float widen(__half value) { return __half2float(value); }
__device__ __forceinline__ float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void narrow(float value, float& out) { out = value; }
__device__ __forceinline__ void narrow(double value, double& out) { out = value; }
__device__ __forceinline__ void narrow(float value, __half& out) { out = __float2half_rn(value); }
__device__ __forceinline__ void narrow(float value, __nv_bfloat16& out) { out = __float2bfloat16_rn(value); }

// Neighbouring channels that are read and written at once.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T values[N];
};

template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

template <typename T, int N>
__device__ __forceinline__ void store(const Pack<T, N>& pack, T* to) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// The channels of a cell, or zeros of the ring.
template <typename T, int N>
__device__ __forceinline__ Pack<T, N> load_cell(const T* image, int32_t cell, int64_t channels) {
  if (cell != kRing) return load<T, N>(image + cell * channels);
  Pack<T, N> zeros;
#pragma unroll
  for (int i = 0; i < N; ++i) narrow(Compute<T>(0), zeros.values[i]);
  return zeros;
}

}  // namespace seg::cuda
