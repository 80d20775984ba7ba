// Backward of the deformable convolution.
#include "operators.h"

namespace seg {

namespace {

// What the backward asks for.
struct Needs {
  bool input, offset, weight, mask;
  bool position() const { return offset || mask; }
};

// Channels that share a weight group and an offset group, in blocks of at most `width`. The width depends on shapes
// alone, and so does the order of summation: the result has the same bits for any number of threads.
std::vector<Block> make_blocks(const Conv& conv) {
  const bool few = conv.batch * conv.channels < 16 * kWideBlock;
  const int64_t width = few ? kNarrowBlock : kWideBlock;
  std::vector<Block> blocks;
  for (int64_t begin = 0; begin < conv.channels;) {
    const int64_t group = begin / conv.group_channels(), offset_group = begin / conv.offset_group_channels();
    const int64_t ends[] = {(group + 1) * conv.group_channels(), (offset_group + 1) * conv.offset_group_channels()};
    const int64_t end = std::min({begin + width, ends[0], ends[1]});
    blocks.push_back(Block{begin, end, group, offset_group});
    begin = end;
  }
  return blocks;
}

// One backward in its steps; tensors live as long as the steps that point into them.
class Pass {
 public:
  Pass(const Conv& conv, const Tensor& grad, const Tensor& input, const Tensor& offset,
       const std::optional<Tensor>& mask)
      : kernels_(kernels_for(type_of(input), conv)),
        blocks_(make_blocks(conv)),
        input_(to_channels_last(input)),
        grad_(to_dense(grad)) {
    args_.conv = conv;
    args_.blocks = blocks_.data();
    args_.block_count = static_cast<int64_t>(blocks_.size());
    args_.input = input_.const_data_ptr();
    args_.offset = field_of(offset);
    args_.mask = field_of(mask);
    args_.grad = grad_.const_data_ptr();
    args_.grad_layout = layout_of(grad_);
  }

  // Gradient of the input, in the computing type, and what `positions` sums up.
  Tensor data(const Tensor& weight, bool need_input, bool need_position) {
    const Conv& conv = args_.conv;
    Tensor grad_input;
    if (need_input) {
      grad_input = zeros_like(input_, {conv.batch, conv.height, conv.width, conv.channels}, sum_type());
      args_.grad_input = grad_input.mutable_data_ptr();
    }
    if (need_position) {
      partial_ = empty_like(input_, {args_.block_count, conv.batch, conv.taps(), 3, conv.pixels()}, sum_type());
      args_.grad_position = partial_.mutable_data_ptr();
    }
    args_.packed = pack(weight);
    parallel_with_scratch(
        conv.batch * args_.block_count, kernels_.backward_data_scratch(conv),
        [&](int64_t begin, int64_t end, void* scratch) { kernels_.backward_data(args_, begin, end, scratch); });
    return grad_input;
  }

  // Gradient of the weight [outputs, kernel_h, kernel_w, group channels], in the computing type.
  Tensor weight() {
    const Conv& conv = args_.conv;
    Tensor grad_weight = empty_like(input_, {conv.outputs, conv.kernel_h, conv.kernel_w, conv.group_channels()}, sum_type());
    args_.grad_transposed = scratch(Scratch::panels, kernels_.grad_transposed_bytes(conv));
    args_.grad_weight = grad_weight.mutable_data_ptr();
    parallel(kernels_.transpose_grad_tasks(conv),
             [&](int64_t begin, int64_t end) { kernels_.transpose_grad(args_, begin, end); });
    parallel_with_scratch(
        args_.block_count * conv.taps(), kernels_.backward_weight_scratch(conv),
        [&](int64_t begin, int64_t end, void* scratch) { kernels_.backward_weight(args_, begin, end, scratch); });
    return grad_weight;
  }

  // Sums of the blocks' gradients by y and x (`coordinates` 2, from 0 on) or by the mask (1, from 2 on).
  template <typename S>
  Tensor positions(int64_t from, int64_t coordinates) const {
    const Conv& conv = args_.conv;
    Tensor sums = zeros_like(
        input_, {conv.batch, conv.offset_groups * conv.taps() * coordinates, conv.rows, conv.columns}, sum_type());
    const S* partial = static_cast<const S*>(partial_.const_data_ptr());
    S* out = static_cast<S*>(sums.mutable_data_ptr());
    parallel(conv.batch * conv.taps(), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        for (int64_t i = 0; i < args_.block_count; ++i) add_block(partial, i, task, from, coordinates, out);
      }
    });
    return sums;
  }

 private:
  ScalarType sum_type() const { return compute_type(type_of(input_)); }

  const void* pack(const Tensor& weight) const {
    const Tensor dense = to_dense(weight);
    const Weight source = weight_of(dense);
    const size_t bytes = kernels_.packed_backward_bytes(args_.conv, args_.blocks, args_.block_count);
    void* packed = scratch(Scratch::panels, bytes);
    parallel(args_.block_count,
             [&](int64_t begin, int64_t end) { kernels_.pack_backward(args_, source, packed, begin, end); });
    return packed;
  }

  // Adds one block's share for one (image, tap).
  template <typename S>
  void add_block(const S* partial, int64_t index, int64_t task, int64_t from, int64_t coordinates, S* out) const {
    const Conv& conv = args_.conv;
    const int64_t pixels = conv.pixels(), taps = conv.taps(), image = task / taps, tap = task % taps;
    const int64_t channel = (image * conv.offset_groups + blocks_[index].offset_group) * taps + tap;
    const S* source = partial + ((index * conv.batch * taps + task) * 3 + from) * pixels;
    S* target = out + channel * coordinates * pixels;
    for (int64_t i = 0; i < coordinates * pixels; ++i) target[i] += source[i];
  }

  const Kernels& kernels_;
  std::vector<Block> blocks_;
  Tensor input_, grad_, partial_;
  Backward args_{};
};

// The same values in the argument's data type and memory format.
Tensor like(const Tensor& argument, const Tensor& values) {
  if (argument.scalar_type() == values.scalar_type() && is_channels_last(argument) == is_channels_last(values)) {
    return values;
  }
  Tensor out = empty_like(argument, {values.size(0), values.size(1), values.size(2), values.size(3)},
                          argument.scalar_type(), is_channels_last(argument));
  return torch::stable::copy_(out, values);
}

// [a, rows, columns, b] seen as [a, b, rows, columns].
Tensor channels_second(const Tensor& tensor) {
  return torch::stable::transpose(torch::stable::transpose(tensor, 2, 3), 1, 2);
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w,
    int64_t dilation_h, int64_t dilation_w, bool need_input, bool need_offset, bool need_weight, bool need_mask) {
  const Window window{stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w};
  STD_TORCH_CHECK(input.is_cpu(), "input must be on the CPU");
  const Conv conv = check_arguments(input, offset, weight, mask, window);
  check_like("grad", grad, input, {conv.batch, conv.outputs, conv.rows, conv.columns});
  const Needs needs{need_input, need_offset, need_weight, need_mask && mask.has_value()};
  const ScalarType type = input.scalar_type();
  Tensor none = empty_like(input, {0}, type);
  std::tuple<Tensor, Tensor, Tensor, Tensor> grads{none, none, none, none};
  Pass pass(conv, grad, input, offset, mask);
  const bool is_double = type_of(input) == Type::f64;
  if (needs.input || needs.position()) {
    const Tensor grad_input = pass.data(weight, needs.input, needs.position());
    if (needs.input) std::get<0>(grads) = like(input, channels_second(grad_input));
  }
  if (needs.offset) {
    std::get<1>(grads) = like(offset, is_double ? pass.positions<double>(0, 2) : pass.positions<float>(0, 2));
  }
  if (needs.weight) std::get<2>(grads) = like(weight, channels_second(pass.weight()));
  if (needs.mask) {
    std::get<3>(grads) = like(*mask, is_double ? pass.positions<double>(2, 1) : pass.positions<float>(2, 1));
  }
  return grads;
}

}  // namespace seg
