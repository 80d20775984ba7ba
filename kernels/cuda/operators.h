// The operators of the library seg_cuda.
#pragma once

#include <tuple>

#include "tensors.h"

namespace seg::cuda {

// `fused`: samples go straight to the tensor cores where the arguments allow it; `tf32`: so may those of float32.
Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h,
                     int64_t padding_w, int64_t dilation_h, int64_t dilation_w, bool fused, bool tf32);

// Gradients of input, offset, weight and mask; an empty tensor for each that is not asked for. `deterministic`: the same
// bits in every run.
std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w,
    int64_t dilation_h, int64_t dilation_w, bool need_input, bool need_offset, bool need_weight, bool need_mask,
    bool deterministic, bool fused, bool tf32);

// Pixel counts [classes, classes + 1] by truth and prediction; the last column is for predictions of no class.
Tensor confusion(const Tensor& truth, const Tensor& prediction, int64_t classes, int64_t ignore);

}  // namespace seg::cuda
