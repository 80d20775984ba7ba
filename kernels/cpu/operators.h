// The operators of the library seg_cpu.
#pragma once

#include <string>
#include <tuple>

#include "tensors.h"

namespace seg {

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h,
                     int64_t padding_w, int64_t dilation_h, int64_t dilation_w);

// Gradients of input, offset, weight and mask; an empty tensor for each that is not asked for.
std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w,
    int64_t dilation_h, int64_t dilation_w, bool need_input, bool need_offset, bool need_weight, bool need_mask);

// Pixel counts [classes, classes + 1] by truth and prediction; the last column is for predictions of no class.
Tensor confusion(const Tensor& truth, const Tensor& prediction, int64_t classes, int64_t ignore);

// The instruction set in use: avx512_bf16, avx512, avx2 or portable.
std::string isa();

}  // namespace seg
