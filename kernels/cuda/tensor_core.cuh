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

// The values in a word of memory, of 16 bits each or one of 32. An array's elements would cost twice the instructions.
__device__ __forceinline__ void widen_word(uint32_t word, float (&values)[2], __nv_bfloat16) {
  values[0] = float_of(word << 16);
  values[1] = float_of(word & 0xffff0000u);
}
__device__ __forceinline__ void widen_word(uint32_t word, float (&values)[2], __half) {
  values[0] = __half2float(__ushort_as_half(static_cast<unsigned short>(word)));
  values[1] = __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}
__device__ __forceinline__ void widen_word(uint32_t word, float (&values)[1], TF32) { values[0] = float_of(word); }

// Bytes of an element that the tensor cores multiply, or 0 where they must not: float32 may have to stay exact.
inline int64_t core_element(Type type, bool tf32, const Device& device) {
  if (device.major < 8 || type == Type::f64 || (type == Type::f32 && !tf32)) return 0;
  return type == Type::f32 ? 4 : 2;
}

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

// Adds the products with two neighbouring matrices of the right factor.
template <typename T, int Rows, int Columns>
__device__ __forceinline__ void multiply_pair(Products<Rows, Columns>& products, const uint32_t (&a)[Rows][4],
                                              const uint32_t (&b)[4], int column) {
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
    multiply_add(products.sum[i][column], a[i], b[0], b[1], T{});
    multiply_add(products.sum[i][column + 1], a[i], b[2], b[3], T{});
  }
}

// Floats as they came from memory, rounded: of what they bring beyond TF32 the tensor cores take no notice, which would
// make every product smaller.
template <typename T>
__device__ __forceinline__ void round_to_core(uint32_t (&values)[4]) {
  if constexpr (sizeof(T) == 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = bits_of(round_to_tf32(float_of(values[i])));
  }
}

// Adds the product of two tiles' channels of one substep; the warp's part begins at `row` of the left tile and at
// `column`, a row of the right one. `Raw`: the left tile's floats are not rounded yet.
template <typename T, bool Raw = false, int Rows, int Columns>
__device__ __forceinline__ void multiply_substep(Products<Rows, Columns>& products, const unsigned char* left,
                                                 const unsigned char* right, int row, int column, int substep) {
  static_assert(Columns % 2 == 0);
  const int lane = threadIdx.x % kWarp;
  uint32_t a[Rows][4];
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
    load_matrices(a[i], left + tile_offset(row + i * 16 + left_row(lane), 2 * substep + left_vector(lane)));
    if constexpr (Raw) round_to_core<T>(a[i]);
  }
#pragma unroll
  for (int j = 0; j < Columns; j += 2) {
    uint32_t b[4];
    load_matrices(b, right + tile_offset(column + j * 8 + right_row(lane), 2 * substep + right_vector(lane)));
    multiply_pair<T>(products, a, b, j);
  }
}

// What a lane holds of the left factor where its rows are a crossed tile's columns, from `row` on.
template <typename T>
__device__ __forceinline__ void load_crossed_left(uint32_t (&a)[4], const unsigned char* tiles, int row, int substep) {
  constexpr int size = sizeof(T);
  const int lane = threadIdx.x % kWarp;
  if constexpr (size == 2) {
    load_transposed(a, tiles + crossed_place(substep * 16 + right_row(lane), row + 8 * right_vector(lane), size));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int place = crossed_place(substep * 8 + lane % 4 + i / 2 * 4, row + lane / 4 + i % 2 * 8, size);
      a[i] = *reinterpret_cast<const uint32_t*>(tiles + place);
    }
  }
}

// The same of the right factor: two columns' registers for each of two neighbouring matrices.
template <typename T>
__device__ __forceinline__ void load_crossed_right(uint32_t (&b)[4], const unsigned char* tiles, int column,
                                                   int substep) {
  constexpr int size = sizeof(T);
  const int lane = threadIdx.x % kWarp;
  if constexpr (size == 2) {
    load_transposed(b, tiles + crossed_place(substep * 16 + left_row(lane), column + 8 * left_vector(lane), size));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int place = crossed_place(substep * 8 + lane % 4 + i % 2 * 4, column + lane / 4 + i / 2 * 8, size);
      b[i] = *reinterpret_cast<const uint32_t*>(tiles + place);
    }
  }
}

// Adds the product of two crossed tiles' columns over the rows of one substep; the left tile's floats are rounded here.
template <typename T, int Rows, int Columns>
__device__ __forceinline__ void multiply_crossed(Products<Rows, Columns>& products, const unsigned char* left,
                                                 const unsigned char* right, int row, int column, int substep) {
  static_assert(Columns % 2 == 0);
  uint32_t a[Rows][4];
#pragma unroll
  for (int i = 0; i < Rows; ++i) {
    load_crossed_left<T>(a[i], left, row + i * 16, substep);
    round_to_core<T>(a[i]);
  }
#pragma unroll
  for (int j = 0; j < Columns; j += 2) {
    uint32_t b[4];
    load_crossed_right<T>(b, right, column + j * 8, substep);
    multiply_pair<T>(products, a, b, j);
  }
}

}  // namespace seg::cuda
