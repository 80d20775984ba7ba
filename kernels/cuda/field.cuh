// Offsets and masks as they are given: any strides, and the input's type or that of coordinates.
#pragma once

#include "element.cuh"
#include "kernels.h"

namespace seg::cuda {

template <typename S>
__device__ __forceinline__ S read(const Field& field, int64_t image, int64_t channel, int64_t y, int64_t x) {
  if (field.data == nullptr) return S(1);
  const int64_t at =
      image * field.stride[0] + channel * field.stride[1] + y * field.stride[2] + x * field.stride[3];
  switch (field.type) {
    case Type::f32: return S(static_cast<const float*>(field.data)[at]);
    case Type::f64: return S(static_cast<const double*>(field.data)[at]);
    case Type::bf16: return S(widen(static_cast<const __nv_bfloat16*>(field.data)[at]));
    default: return S(widen(static_cast<const __half*>(field.data)[at]));
  }
}

// One sample's square of cells and its mask.
template <typename S>
struct Sample {
  Square<S> square;
  S mask;
};

template <typename S>
__device__ __forceinline__ Sample<S> sample_at(const Conv& conv, const Field& offset, const Field& mask,
                                               const Place& place) {
  const int64_t channel = mask_channel(conv, place.group, place.tap);
  const S y = S(conv.tap_row(place.y, quotient(place.tap, conv.kernel_w))) +
              read<S>(offset, place.image, 2 * channel, place.y, place.x);
  const S x = S(conv.tap_column(place.x, rest_of(place.tap, conv.kernel_w))) +
              read<S>(offset, place.image, 2 * channel + 1, place.y, place.x);
  return Sample<S>{square_at(y, x, static_cast<int32_t>(conv.height), static_cast<int32_t>(conv.width)),
                   read<S>(mask, place.image, channel, place.y, place.x)};
}

}  // namespace seg::cuda
