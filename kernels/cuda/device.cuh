// The instructions of the GPU that the kernels use, and launches. A program that runs the kernels elsewhere, as the host
// tests do, brings its own in place of this file's: it is read by nvcc alone.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

namespace seg::cuda {

// Starts a kernel on a stream and gives the launch's error.
template <typename... P, typename... A>
cudaError_t launch(void (*kernel)(P...), int64_t blocks, int threads, size_t shared_bytes, cudaStream_t stream,
                   A... arguments) {
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
}

// The block's shared memory, as many bytes as it was launched with.
template <typename T>
__device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

__device__ __forceinline__ void synchronize() { __syncthreads(); }

// The value of the thread whose number differs in the bits of `distance`; `team` names the threads that take part.
template <typename T>
__device__ __forceinline__ T exchange(unsigned team, T value, int distance) {
  return __shfl_xor_sync(team, value, distance);
}

template <typename T>
__device__ __forceinline__ void atomic_add(T* to, T value) {
  atomicAdd(to, value);
}

}  // namespace seg::cuda

#endif
