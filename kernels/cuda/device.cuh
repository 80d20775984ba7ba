// The instructions of the GPU that the kernels use, and launches. A program that runs the kernels elsewhere, as the host
// tests do, brings its own in place of this file's: it is read by nvcc alone.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <cstdint>

namespace seg::cuda {

// Starts a kernel on a stream and gives the launch's error.
template <typename... P, typename... A>
cudaError_t launch(void (*kernel)(P...), int64_t blocks, int threads, size_t shared_bytes, cudaStream_t stream,
                   A... arguments) {
  if (shared_bytes > 48 << 10) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream>>>(arguments...);
  return cudaGetLastError();
}

// What the current device has.
struct Device {
  int multiprocessors, shared_bytes, major;
};

inline cudaError_t read_device(Device& device) {
  int index = 0;
  cudaError_t error = cudaGetDevice(&index);
  const auto read = [&](int& value, cudaDeviceAttr attribute) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(&value, attribute, index);
  };
  read(device.multiprocessors, cudaDevAttrMultiProcessorCount);
  read(device.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin);
  read(device.major, cudaDevAttrComputeCapabilityMajor);
  return error;
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

// Adds four neighbouring floats, at an address divisible by 16.
__device__ __forceinline__ void atomic_add_four(float* to, float a, float b, float c, float d) {
#if __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
#else
  atomicAdd(to, a);
  atomicAdd(to + 1, b);
  atomicAdd(to + 2, c);
  atomicAdd(to + 3, d);
#endif
}

// Copies 16 bytes to shared memory; they are there after the thread's wait_for_copies and a barrier. Where there is
// nothing to copy it writes zeros and reads nothing.
__device__ __forceinline__ void copy_vector(void* to, const void* from, bool exists = true) {
#if __CUDA_ARCH__ >= 800
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(exists ? 16 : 0)
               : "memory");
#endif
}

__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// Loads four matrices of 8 rows of 16 bytes; lane i names row i % 8 of matrix i / 8. Of each, lane i gets the four bytes
// i % 4 of row i / 4.
__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

// The same with every matrix of 8 x 8 elements of 16 bits transposed.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

// sum += a x b on tensor cores: 16 x 8 sums in float, of 16 products each (8 for TF32).
__device__ __forceinline__ void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ void mma_f16(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ void mma_tf32(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ __forceinline__ uint32_t bits_of(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float float_of(uint32_t bits) { return __uint_as_float(bits); }

__device__ __forceinline__ float round_to_tf32(float value) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return float_of(bits);
#else
  return value;
#endif
}

}  // namespace seg::cuda

#endif
