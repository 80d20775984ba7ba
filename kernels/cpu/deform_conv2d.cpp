// Forward of the deformable convolution.
#include "operators.h"

namespace seg {

namespace {

const void* pack(const Kernels& kernels, const Conv& conv, const Tensor& weight) {
  const Tensor dense = to_dense(weight);
  const Weight source = weight_of(dense);
  void* packed = scratch(Scratch::panels, kernels.packed_forward_bytes(conv));
  parallel(kernels.pack_forward_tasks(conv),
           [&](int64_t begin, int64_t end) { kernels.pack_forward(conv, source, packed, begin, end); });
  return packed;
}

}  // namespace

Tensor deform_conv2d(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& bias,
                     const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h,
                     int64_t padding_w, int64_t dilation_h, int64_t dilation_w) {
  const Window window{stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w};
  STD_TORCH_CHECK(input.is_cpu(), "input must be on the CPU");
  const Conv conv = check_arguments(input, offset, weight, mask, window);
  Tensor output = empty_like(input, {conv.batch, conv.outputs, conv.rows, conv.columns}, input.scalar_type(),
                             is_channels_last(input));
  if (conv.batch == 0) return output;
  const Kernels& kernels = kernels_for(type_of(input), conv);
  const Tensor map = to_channels_last(input);
  std::optional<Tensor> dense_bias;
  if (bias.has_value()) {
    check_like("bias", *bias, input, {conv.outputs});
    dense_bias = torch::stable::contiguous(*bias);
  }
  Forward args{};
  args.conv = conv;
  args.input = map.const_data_ptr();
  args.offset = field_of(offset);
  args.mask = field_of(mask);
  args.bias = dense_bias.has_value() ? dense_bias->const_data_ptr() : nullptr;
  args.packed = pack(kernels, conv, weight);
  args.output = output.mutable_data_ptr();
  args.output_layout = layout_of(output);
  parallel_with_scratch(
      kernels.forward_tasks(conv), kernels.forward_scratch(conv),
      [&](int64_t begin, int64_t end, void* scratch) { kernels.forward(args, begin, end, scratch); });
  return output;
}

}  // namespace seg
