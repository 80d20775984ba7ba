#include "tensors.h"

#include <array>
#include <limits>

namespace seg::cuda {

namespace {

int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

void check_window(const Window& window) {
  STD_TORCH_CHECK(window.stride_h > 0 && window.stride_w > 0, "stride must be positive");
  STD_TORCH_CHECK(window.dilation_h > 0 && window.dilation_w > 0, "dilation must be positive");
  STD_TORCH_CHECK(window.padding_h >= 0 && window.padding_w >= 0, "padding must not be negative");
}

void check_device(const char* name, const Tensor& tensor, const Tensor& input) {
  STD_TORCH_CHECK(is_on_gpu(tensor) && tensor.get_device_index() == input.get_device_index(), name,
                  " must be on the input's CUDA device");
}

void check_sizes(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes) {
  STD_TORCH_CHECK(tensor.dim() == static_cast<int64_t>(sizes.size()), name, " must have ", sizes.size(),
                  " dimensions, got ", tensor.dim());
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    STD_TORCH_CHECK(tensor.size(dim) == sizes[dim], name, " must have size ", sizes[dim], " in dimension ", dim,
                    ", got ", tensor.size(dim));
  }
}

void check_positions(const char* name, const Tensor& tensor, const Tensor& input, const std::vector<int64_t>& sizes) {
  check_device(name, tensor, input);
  const Type type = type_of(tensor), data = type_of(input);
  STD_TORCH_CHECK(type == data || (type == Type::f32 && data != Type::f64), name,
                  " must have the input's data type or float32");
  check_sizes(name, tensor, sizes);
}

Conv conv_of(const Tensor& input, const Tensor& weight, const Window& window) {
  Conv conv{};
  conv.batch = input.size(0), conv.channels = input.size(1), conv.height = input.size(2), conv.width = input.size(3);
  conv.outputs = weight.size(0), conv.kernel_h = weight.size(2), conv.kernel_w = weight.size(3);
  conv.stride_h = window.stride_h, conv.stride_w = window.stride_w;
  conv.padding_h = window.padding_h, conv.padding_w = window.padding_w;
  conv.dilation_h = window.dilation_h, conv.dilation_w = window.dilation_w;
  conv.rows = output_size(conv.height, conv.kernel_h, conv.stride_h, conv.padding_h, conv.dilation_h);
  conv.columns = output_size(conv.width, conv.kernel_w, conv.stride_w, conv.padding_w, conv.dilation_w);
  return conv;
}

// [a, b, c, d] seen as [a, c, d, b].
Tensor channels_to_end(const Tensor& tensor) {
  return torch::stable::transpose(torch::stable::transpose(tensor, 1, 2), 2, 3);
}

}  // namespace

Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::Double: return Type::f64;
    case ScalarType::BFloat16: return Type::bf16;
    case ScalarType::Half: return Type::f16;
    default: STD_TORCH_CHECK(false, "data type must be float32, float64, bfloat16 or float16");
  }
}

ScalarType compute_type(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Conv check_arguments(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask,
                     const Window& window) {
  check_window(window);
  STD_TORCH_CHECK(is_on_gpu(input), "input must be on a CUDA device");
  STD_TORCH_CHECK(input.dim() == 4 && weight.dim() == 4 && offset.dim() == 4,
                  "input, weight and offset must have 4 dimensions");
  check_device("weight", weight, input);
  STD_TORCH_CHECK(type_of(weight) == type_of(input), "weight must have the input's data type");
  Conv conv = conv_of(input, weight, window);
  STD_TORCH_CHECK(conv.kernel_h > 0 && conv.kernel_w > 0 && conv.rows > 0 && conv.columns > 0, "kernel ",
                  conv.kernel_h, "x", conv.kernel_w, " does not fit into the padded input of ", conv.height, "x",
                  conv.width);
  STD_TORCH_CHECK(conv.cells() < std::numeric_limits<int32_t>::max(), "input has too many cells: ", conv.cells());
  const int64_t per_group = weight.size(1), per_offset_group = 2 * conv.taps();
  STD_TORCH_CHECK(per_group > 0 && conv.channels > 0 && conv.channels % per_group == 0, "input has ", conv.channels,
                  " channels, which weight's ", per_group, " do not divide");
  conv.groups = conv.channels / per_group;
  STD_TORCH_CHECK(conv.outputs > 0 && conv.outputs % conv.groups == 0, "weight has ", conv.outputs,
                  " outputs, which ", conv.groups, " groups do not divide");
  conv.offset_groups = offset.size(1) / per_offset_group;
  STD_TORCH_CHECK(conv.offset_groups > 0 && conv.channels % conv.offset_groups == 0, "offset has ", offset.size(1),
                  " channels; expected 2 x ", conv.taps(), " taps x a number of groups that divides ", conv.channels,
                  " channels");
  check_positions("offset", offset, input,
                  {conv.batch, conv.offset_groups * per_offset_group, conv.rows, conv.columns});
  if (mask.has_value()) {
    check_positions("mask", *mask, input, {conv.batch, conv.offset_groups * conv.taps(), conv.rows, conv.columns});
  }
  return conv;
}

void check_like(const char* name, const Tensor& tensor, const Tensor& input, const std::vector<int64_t>& sizes) {
  check_device(name, tensor, input);
  STD_TORCH_CHECK(type_of(tensor) == type_of(input), name, " must have the input's data type");
  check_sizes(name, tensor, sizes);
}

Field field_of(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return Field{nullptr, Type::f32, {0, 0, 0, 0}};
  return Field{tensor->const_data_ptr(),
               type_of(*tensor),
               {tensor->stride(0), tensor->stride(1), tensor->stride(2), tensor->stride(3)}};
}

Tensor empty(const Tensor& like, std::vector<int64_t> sizes, ScalarType type) {
  return torch::stable::empty(sizes, type, std::nullopt, like.device());
}

Tensor zeros(const Tensor& like, std::vector<int64_t> sizes, ScalarType type) {
  Tensor made = empty(like, std::move(sizes), type);
  return torch::stable::zero_(made);
}

Tensor to_rows(const Tensor& map) {
  const Tensor last = channels_to_end(torch::stable::contiguous(map, MemoryFormat::ChannelsLast));
  return torch::stable::reshape(last, {map.size(0) * map.size(2) * map.size(3), map.size(1)});
}

Tensor to_map(const Tensor& rows, int64_t batch, int64_t height, int64_t width) {
  const Tensor last = torch::stable::view(rows, {batch, height, width, rows.size(1)});
  return torch::stable::transpose(torch::stable::transpose(last, 2, 3), 1, 2);
}

Tensor to_matrices(const Tensor& weight, const Conv& conv) {
  const Tensor last = torch::stable::contiguous(channels_to_end(weight));
  return torch::stable::view(last, {conv.groups, conv.group_outputs(), conv.taps() * conv.group_channels()});
}

Tensor to_weight(const Tensor& matrices, const Conv& conv) {
  const Tensor rows = torch::stable::view(matrices, {conv.outputs * conv.taps(), conv.group_channels()});
  return to_map(rows, conv.outputs, conv.kernel_h, conv.kernel_w);
}

void multiply(const Tensor& a, const Tensor& b, Tensor& out) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::bmm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // the stack's reference to `out` is ours to release
}

Tensor by_group(const Tensor& rows, int64_t first, int64_t count, int64_t groups) {
  Tensor all = rows;
  const Tensor some = torch::stable::narrow(all, 0, first, count);
  return torch::stable::transpose(torch::stable::view(some, {count, groups, rows.size(1) / groups}), 0, 1);
}
}  // namespace seg::cuda
