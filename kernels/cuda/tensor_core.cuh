// Element types on tensor cores: rounding to them, and products of small matrices in registers.
#pragma once

#include "element.cuh"
#include "kernels.h"
#include "tiles.h"

namespace seg::cuda {

// A float of which the tensor cores use the upper 19 bits.
struct TF32 {
  float value;
};

__device__ __forceinline__ float widen(TF32 value) { return value.value; }
__device__ __forceinline__ void narrow(float value, TF32& out) { out.value = round_to_tf32(value); }

// The type of a tensor whose elements are multiplied as T.
template <typename T>
struct StoredAs {
  using type = T;
};
template <>
struct StoredAs<TF32> {
  using type = float;
};
template <typename T>
using Stored = typename StoredAs<T>::type;

// Calls run(T{}) with the type that the tensor cores work in for a tensor's type.
template <typename F>
cudaError_t with_core_type(Type type, const F& run) {
  switch (type) {
    case Type::bf16: return run(__nv_bfloat16{});
    case Type::f16: return run(__half{});
    default: return run(TF32{});
  }
}

__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                             __nv_bfloat16) {
  mma_bf16(sum, a, b0, b1);
}
__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, __half) {
  mma_f16(sum, a, b0, b1);
}
__device__ __forceinline__ void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, TF32) {
  mma_tf32(sum, a, b0, b1);
}

// A warp's part of a product: `Rows` x 16 rows and `Columns` x 8 columns.
template <int Rows, int Columns>
struct Products {
  float sum[Rows][Columns][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < Rows * Columns * 4; ++i) sum[i / (Columns * 4)][i / 4 % Columns][i % 4] = 0;
  }
};

// Adds the product of two tiles' channels of one substep; the warp's part begins at `row` of the left tile and at
// `column`, a row of the right one.
template <typename T, int Rows, int Columns>
__device__ __forceinline__ void multiply_substep(Products<Rows, Columns>& products, const unsigned char* left,
                                                 const unsigned char* right, int row, int column, int substep) {
  static_assert(Columns % 2 == 0);
  const int lane = threadIdx.x % kWarp;
  uint32_t a[Rows][4];
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
    load_matrices(a[i], left + tile_offset(row + i * 16 + left_row(lane), 2 * substep + left_vector(lane)));
  }
#pragma unroll
  for (int j = 0; j < Columns; j += 2) {
    uint32_t b[4];
    load_matrices(b, right + tile_offset(column + j * 8 + right_row(lane), 2 * substep + right_vector(lane)));
#pragma unroll
    for (int i = 0; i < Rows; ++i) {
      multiply_add(products.sum[i][j], a[i], b[0], b[1], T{});
      multiply_add(products.sum[i][j + 1], a[i], b[2], b[3], T{});
    }
  }
}

}  // namespace seg::cuda
