#include "tensors.h"

#include <cstdlib>
#include <limits>
#include <memory>

namespace seg {

namespace {

bool has_strides(const Tensor& tensor, const std::vector<int64_t>& order) {
  int64_t expected = 1;
  for (const int64_t dim : order) {
    if (tensor.size(dim) == 1) continue;
    if (tensor.stride(dim) != expected) return false;
    expected *= tensor.size(dim);
  }
  return true;
}

bool is_contiguous(const Tensor& tensor) { return has_strides(tensor, {3, 2, 1, 0}); }
bool is_pixels_first(const Tensor& tensor) { return has_strides(tensor, {1, 3, 2, 0}); }

int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

void check_window(const Window& window) {
  STD_TORCH_CHECK(window.stride_h > 0 && window.stride_w > 0, "stride must be positive, got (", window.stride_h, ", ",
                  window.stride_w, ")");
  STD_TORCH_CHECK(window.dilation_h > 0 && window.dilation_w > 0, "dilation must be positive, got (", window.dilation_h,
                  ", ", window.dilation_w, ")");
  STD_TORCH_CHECK(window.padding_h >= 0 && window.padding_w >= 0, "padding must not be negative, got (",
                  window.padding_h, ", ", window.padding_w, ")");
}

void check_tensor(const char* name, const Tensor& tensor, const Tensor& input) {
  STD_TORCH_CHECK(tensor.is_cpu(), name, " must be on the CPU");
  STD_TORCH_CHECK(tensor.dim() == 4, name, " must have 4 dimensions, got ", tensor.dim());
  const Type type = type_of(tensor), data = type_of(input);
  const bool is_coordinate = type == Type::f32 && data != Type::f64;
  STD_TORCH_CHECK(type == data || is_coordinate, name, " must have the input's data type or float32");
}

void check_sizes(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes) {
  static const char* const kDims[] = {"batch", "channels", "height", "width"};
  for (int64_t dim = 0; dim < 4; ++dim) {
    STD_TORCH_CHECK(tensor.size(dim) == sizes[dim], name, " must have ", kDims[dim], " ", sizes[dim], ", got ",
                    tensor.size(dim));
  }
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

ScalarType compute_type(Type type) { return type == Type::f64 ? ScalarType::Double : ScalarType::Float; }

Conv check_arguments(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask,
                     const Window& window) {
  check_window(window);
  check_tensor("input", input, input);
  check_tensor("offset", offset, input);
  check_tensor("weight", weight, input);
  STD_TORCH_CHECK(type_of(weight) == type_of(input), "weight must have the input's data type");
  Conv conv = conv_of(input, weight, window);
  STD_TORCH_CHECK(conv.rows > 0 && conv.columns > 0, "kernel ", conv.kernel_h, "x", conv.kernel_w,
                  " does not fit into the padded input of ", conv.height, "x", conv.width);
  STD_TORCH_CHECK(conv.cells() < std::numeric_limits<int32_t>::max(), "input has too many cells: ", conv.cells());
  const int64_t group_channels = weight.size(1), tap_channels = 2 * conv.taps();
  STD_TORCH_CHECK(group_channels > 0 && conv.channels > 0 && conv.channels % group_channels == 0, "input has ",
                  conv.channels, " channels, which weight's ", group_channels, " do not divide");
  conv.groups = conv.channels / group_channels;
  STD_TORCH_CHECK(conv.outputs > 0 && conv.outputs % conv.groups == 0, "weight has ", conv.outputs,
                  " outputs, which ", conv.groups, " groups do not divide");
  conv.offset_groups = offset.size(1) / tap_channels;
  STD_TORCH_CHECK(conv.offset_groups > 0 && offset.size(1) % tap_channels == 0 &&
                      conv.channels % conv.offset_groups == 0,
                  "offset has ", offset.size(1), " channels; expected 2 x ", conv.taps(),
                  " taps x a number of offset groups that divides ", conv.channels, " channels");
  check_sizes("offset", offset, {conv.batch, conv.offset_groups * tap_channels, conv.rows, conv.columns});
  if (mask.has_value()) {
    check_tensor("mask", *mask, input);
    check_sizes("mask", *mask, {conv.batch, conv.offset_groups * conv.taps(), conv.rows, conv.columns});
  }
  return conv;
}

bool is_channels_last(const Tensor& tensor) { return is_pixels_first(tensor) && !is_contiguous(tensor); }

Tensor empty_like(const Tensor& like, std::vector<int64_t> sizes, ScalarType type, bool channels_last) {
  const MemoryFormat format = channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous;
  return torch::stable::empty(sizes, type, std::nullopt, like.device(), std::nullopt, format);
}

Tensor zeros_like(const Tensor& like, std::vector<int64_t> sizes, ScalarType type, bool channels_last) {
  Tensor zeros = empty_like(like, std::move(sizes), type, channels_last);
  return torch::stable::zero_(zeros);
}

Tensor to_channels_last(const Tensor& tensor) {
  return is_pixels_first(tensor) ? tensor : torch::stable::contiguous(tensor, MemoryFormat::ChannelsLast);
}

Tensor to_dense(const Tensor& tensor) {
  return is_pixels_first(tensor) || is_contiguous(tensor) ? tensor : torch::stable::contiguous(tensor);
}

void* scratch(Scratch purpose, size_t bytes) {
  struct Buffer {
    std::unique_ptr<void, decltype(&std::free)> memory{nullptr, &std::free};
    size_t bytes = 0;
  };
  thread_local Buffer buffers[2];
  Buffer& buffer = buffers[static_cast<int>(purpose)];
  if (buffer.bytes < bytes) {
    constexpr size_t page = 4096;
    const size_t rounded = (bytes + page - 1) / page * page;
    buffer.bytes = 0;
    buffer.memory.reset();
    buffer.memory.reset(std::aligned_alloc(page, rounded));
    STD_TORCH_CHECK(buffer.memory != nullptr, "out of memory: ", rounded, " bytes for tiles and packed weights");
    buffer.bytes = rounded;
  }
  return buffer.memory.get();
}

Field field_of(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return Field{nullptr, Type::f32, {0, 0, 0, 0}};
  return Field{tensor->const_data_ptr(),
               type_of(*tensor),
               {tensor->stride(0), tensor->stride(1), tensor->stride(2), tensor->stride(3)}};
}

Layout layout_of(const Tensor& dense) {
  const int64_t channels = dense.size(1), pixels = dense.size(2) * dense.size(3);
  return is_contiguous(dense) ? Layout{channels * pixels, pixels, 1} : Layout{channels * pixels, 1, channels};
}

Weight weight_of(const Tensor& dense) {
  return Weight{dense.const_data_ptr(), type_of(dense), !is_contiguous(dense)};
}

}  // namespace seg
