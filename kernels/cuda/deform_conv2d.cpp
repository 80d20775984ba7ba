// Forward of the deformable convolution. Plain path: samples of a bounded number of pixels, then a matrix product.
#include "fused.h"
#include "operators.h"

namespace seg::cuda {

namespace {

Tensor plain_forward(const Samples& all, const Tensor& rows, const Tensor& weight, cudaStream_t stream) {
  const Conv& conv = all.conv;
  const int64_t pixels = conv.batch * conv.pixels(), chunk = chunk_pixels(conv, rows.element_size());
  const Tensor matrices = torch::stable::transpose(to_matrices(weight, conv), 1, 2);
  const Tensor output = empty(rows, {pixels, conv.outputs}, rows.scalar_type());
  for (int64_t first = 0; first < pixels; first += chunk) {
    Samples some = all;
    some.first = first, some.count = pixels - first < chunk ? pixels - first : chunk;
    Tensor columns =
        empty(rows, {conv.groups, some.count, conv.taps() * conv.group_channels()}, rows.scalar_type());
    STD_CUDA_CHECK(launch_sample(some, columns.mutable_data_ptr(), stream));
    Tensor out = by_group(output, first, some.count, conv.groups);
    multiply(columns, matrices, out);
  }
  return output;
}

void add_bias(Tensor& output, const Tensor& bias, cudaStream_t stream) {
  const Tensor dense = torch::stable::contiguous(bias);
  STD_CUDA_CHECK(launch_add_bias(type_of(output), output.mutable_data_ptr(), dense.const_data_ptr(), output.size(0),
                                 output.size(1), stream));
}

Tensor fused_forward(const Samples& all, const ForwardPlan& plan, const Tensor& rows, const Tensor& weight,
                     const std::optional<Tensor>& bias, cudaStream_t stream) {
  const int64_t pixels = all.conv.batch * all.conv.pixels();
  const Tensor output = empty(rows, {pixels, all.conv.outputs}, rows.scalar_type());
  const Tensor matrices = to_matrices(weight, all.conv);
  const Tensor packed = empty(rows, {static_cast<int64_t>(plan.packed_bytes)}, ScalarType::Byte);
  const Tensor partial = empty(rows, {static_cast<int64_t>(plan.partial_bytes / sizeof(float))}, ScalarType::Float);
  std::optional<Tensor> dense;
  if (bias.has_value()) dense = torch::stable::contiguous(*bias);
  FusedForward args{};
  args.samples = all;
  args.weight = matrices.const_data_ptr();
  args.bias = dense.has_value() ? dense->const_data_ptr() : nullptr;
  args.packed = packed.mutable_data_ptr();
  args.partial = plan.partial_bytes > 0 ? static_cast<float*>(partial.mutable_data_ptr()) : nullptr;
  args.output = output.mutable_data_ptr();
  STD_CUDA_CHECK(launch_fused_forward(args, plan, stream));
  return output;
}

}  // namespace

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h,
                     int64_t padding_w, int64_t dilation_h, int64_t dilation_w, bool fused, bool tf32) {
  const Window window{stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w};
  const Conv conv = check_on_gpu(input, offset, weight, mask, window);
  if (bias.has_value()) check_like("bias", *bias, input, {conv.outputs});
  const Current current(input);
  if (conv.batch == 0) return empty(input, {0, conv.outputs, conv.rows, conv.columns}, input.scalar_type());
  const Tensor rows = to_rows(input);
  const Samples all{conv, rows.const_data_ptr(), type_of(input), field_of(offset), field_of(mask), 0, 0};
  ForwardPlan plan{};
  if (fused) STD_CUDA_CHECK(plan_forward(conv, all.type, tf32, all.input, plan));
  Tensor output = plan.possible ? fused_forward(all, plan, rows, weight, bias, current.stream())
                                : plain_forward(all, rows, weight, current.stream());
  if (bias.has_value() && !plan.possible) add_bias(output, *bias, current.stream());
  return to_map(output, conv.batch, conv.rows, conv.columns);
}

}  // namespace seg::cuda
