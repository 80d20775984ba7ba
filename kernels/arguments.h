// What the operators of both devices ask of their arguments: shapes, types and devices. Nothing after these checks reads
// outside a tensor. Every error names the argument, its value and what was expected.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <limits>
#include <optional>
#include <vector>

#include "field.h"
#include "geometry.h"

namespace seg {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Strides, paddings and dilations as the operators' schema spells them.
struct Window {
  int64_t stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w;
};

inline Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return Type::f32;
    case ScalarType::Double: return Type::f64;
    case ScalarType::BFloat16: return Type::bf16;
    case ScalarType::Half: return Type::f16;
    default: STD_TORCH_CHECK(false, "data type must be float32, float64, bfloat16 or float16");
  }
}

inline ScalarType compute_type(Type type) { return type == Type::f64 ? ScalarType::Double : ScalarType::Float; }

inline Field field_of(const std::optional<Tensor>& tensor) {
  if (!tensor.has_value()) return Field{nullptr, Type::f32, {0, 0, 0, 0}};
  return Field{tensor->const_data_ptr(),
               type_of(*tensor),
               {tensor->stride(0), tensor->stride(1), tensor->stride(2), tensor->stride(3)}};
}

inline void check_window(const Window& window) {
  STD_TORCH_CHECK(window.stride_h > 0 && window.stride_w > 0, "stride must be positive, got (", window.stride_h, ", ",
                  window.stride_w, ")");
  STD_TORCH_CHECK(window.dilation_h > 0 && window.dilation_w > 0, "dilation must be positive, got (", window.dilation_h,
                  ", ", window.dilation_w, ")");
  STD_TORCH_CHECK(window.padding_h >= 0 && window.padding_w >= 0, "padding must not be negative, got (",
                  window.padding_h, ", ", window.padding_w, ")");
}

inline void check_device(const char* name, const Tensor& tensor, const Tensor& input) {
  const bool same = tensor.is_cpu() == input.is_cpu() && tensor.is_cuda() == input.is_cuda();
  STD_TORCH_CHECK(same && (input.is_cpu() || tensor.get_device_index() == input.get_device_index()), name,
                  " must be on the input's device");
}

inline void check_sizes(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes) {
  static const char* const kDims[] = {"batch", "channels", "height", "width"};
  STD_TORCH_CHECK(tensor.dim() == static_cast<int64_t>(sizes.size()), name, " must have ", sizes.size(),
                  " dimensions, got ", tensor.dim());
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    const int64_t size = tensor.size(static_cast<int64_t>(dim));
    if (sizes.size() == 4) {
      STD_TORCH_CHECK(size == sizes[dim], name, " must have ", kDims[dim], " ", sizes[dim], ", got ", size);
    } else {
      STD_TORCH_CHECK(size == sizes[dim], name, " must have size ", sizes[dim], " in dimension ", dim, ", got ", size);
    }
  }
}

// A tensor that is read as it lies in memory.
inline void check_dense(const char* name, const Tensor& tensor, const Tensor& input, ScalarType type,
                        const std::vector<int64_t>& sizes) {
  check_device(name, tensor, input);
  STD_TORCH_CHECK(tensor.scalar_type() == type && tensor.is_contiguous(), name,
                  " must be contiguous and of the operator's data type");
  check_sizes(name, tensor, sizes);
}

// A tensor of the input's device and type: a bias, a gradient.
inline void check_like(const char* name, const Tensor& tensor, const Tensor& input, const std::vector<int64_t>& sizes) {
  check_device(name, tensor, input);
  STD_TORCH_CHECK(type_of(tensor) == type_of(input), name, " must have the input's data type");
  check_sizes(name, tensor, sizes);
}

// Offsets and masks may be more exact than 16-bit data.
inline void check_positions(const char* name, const Tensor& tensor, const Tensor& input,
                            const std::vector<int64_t>& sizes) {
  check_device(name, tensor, input);
  const Type type = type_of(tensor), data = type_of(input);
  STD_TORCH_CHECK(type == data || (type == Type::f32 && data != Type::f64), name,
                  " must have the input's data type or float32");
  check_sizes(name, tensor, sizes);
}

inline void check_four_dimensions(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.dim() == 4, name, " must have 4 dimensions, got ", tensor.dim());
}

inline int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
}

inline Conv conv_of(const Tensor& input, const Tensor& weight, const Window& window) {
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

inline Conv check_arguments(const Tensor& input, const Tensor& offset, const Tensor& weight,
                            const std::optional<Tensor>& mask, const Window& window) {
  check_window(window);
  check_four_dimensions("input", input);
  check_four_dimensions("offset", offset);
  check_four_dimensions("weight", weight);
  check_device("weight", weight, input);
  STD_TORCH_CHECK(type_of(weight) == type_of(input), "weight must have the input's data type");
  Conv conv = conv_of(input, weight, window);
  STD_TORCH_CHECK(conv.kernel_h > 0 && conv.kernel_w > 0 && conv.rows > 0 && conv.columns > 0, "kernel ",
                  conv.kernel_h, "x", conv.kernel_w, " does not fit into the padded input of ", conv.height, "x",
                  conv.width);
  STD_TORCH_CHECK(conv.cells() < std::numeric_limits<int32_t>::max(), "input has too many cells: ", conv.cells());
  const int64_t group_channels = weight.size(1), tap_channels = 2 * conv.taps();
  STD_TORCH_CHECK(group_channels > 0 && conv.channels > 0 && conv.channels % group_channels == 0, "input has ",
                  conv.channels, " channels, which weight's ", group_channels, " do not divide");
  conv.groups = conv.channels / group_channels;
  STD_TORCH_CHECK(conv.outputs > 0 && conv.outputs % conv.groups == 0, "weight has ", conv.outputs,
                  " outputs, which ", conv.groups, " groups do not divide");
  conv.offset_groups = offset.size(1) / tap_channels;
  STD_TORCH_CHECK(conv.offset_groups > 0 && conv.channels % conv.offset_groups == 0, "offset has ", offset.size(1),
                  " channels; expected 2 x ", conv.taps(), " taps x a number of offset groups that divides ",
                  conv.channels, " channels");
  check_positions("offset", offset, input, {conv.batch, conv.offset_groups * tap_channels, conv.rows, conv.columns});
  if (mask.has_value()) {
    check_positions("mask", *mask, input,
                    {conv.batch, conv.offset_groups * conv.taps(), conv.rows, conv.columns});
  }
  return conv;
}

}  // namespace seg
