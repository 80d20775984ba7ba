// Backward of the deformable convolution.
#include "operators.h"

namespace seg {

namespace {

// What the backward asks for.
struct Needs {
  bool input, offset, weight, mask;
  bool position() const { return offset || mask; }
};

// What `data` gives; what is not needed is not there.
struct Data {
  Tensor input, offset, mask;
};

// Memory that a wave of blocks may always take.
constexpr int64_t kWaveBytes = 64 << 20;

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
    take(0, static_cast<int64_t>(blocks_.size()));
    args_.input = input_.const_data_ptr();
    args_.offset = field_of(offset);
    args_.mask = field_of(mask);
    args_.grad = grad_.const_data_ptr();
    args_.grad_layout = layout_of(grad_);
  }

  // Gradients of the input, the offset and the mask in the computing type, those that are needed. The blocks' shares of
  // the latter two are added up in waves: together they would take many times the input where blocks are narrow.
  template <typename S>
  Data data(const Tensor& weight, const Needs& needs) {
    const Conv& conv = args_.conv;
    const int64_t count = static_cast<int64_t>(blocks_.size());
    int64_t wave = count;
    Tensor shares;
    Data grads;
    if (needs.input) {
      grads.input = zeros_like(input_, {conv.batch, conv.height, conv.width, conv.channels}, sum_type());
      args_.grad_input = grads.input.mutable_data_ptr();
    }
    if (needs.position()) {
      wave = blocks_of_wave(sizeof(S));
      shares = empty_like(input_, {wave, conv.batch, conv.taps(), 3, conv.pixels()}, sum_type());
      args_.grad_position = shares.mutable_data_ptr();
    }
    if (needs.offset) grads.offset = zero_sums(2);
    if (needs.mask) grads.mask = zero_sums(1);
    const Tensor dense = to_dense(weight);
    for (int64_t first = 0; first < count; first += wave) {
      take(first, std::min(wave, count - first));
      args_.packed = pack(weight_of(dense));
      parallel_with_scratch(
          conv.batch * args_.block_count, kernels_.backward_data_scratch(conv),
          [&](int64_t begin, int64_t end, void* scratch) { kernels_.backward_data(args_, begin, end, scratch); });
      if (needs.offset) add_positions<S>(0, 2, grads.offset);
      if (needs.mask) add_positions<S>(2, 1, grads.mask);
    }
    take(0, count);
    return grads;
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

 private:
  // Adds the wave's gradients by y and x (`coordinates` 2, from 0 on) or by the mask (1, from 2 on).
  template <typename S>
  void add_positions(int64_t from, int64_t coordinates, const Tensor& sums) const {
    const Conv& conv = args_.conv;
    const S* shares = static_cast<const S*>(args_.grad_position);
    S* out = static_cast<S*>(sums.mutable_data_ptr());
    parallel(conv.batch * conv.taps(), [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        for (int64_t i = 0; i < args_.block_count; ++i) add_block(shares, i, task, from, coordinates, out);
      }
    });
  }

  ScalarType sum_type() const { return compute_type(type_of(input_)); }

  Tensor zero_sums(int64_t coordinates) const {
    const Conv& conv = args_.conv;
    const int64_t channels = conv.offset_groups * conv.taps() * coordinates;
    return zeros_like(input_, {conv.batch, channels, conv.rows, conv.columns}, sum_type());
  }

  // Blocks of a wave at most: their shares take as much as the gradient of the input, or kWaveBytes.
  int64_t blocks_of_wave(int64_t size) const {
    const Conv& conv = args_.conv;
    const int64_t of_block = conv.batch * conv.taps() * 3 * conv.pixels() * size;
    const int64_t most = std::max(kWaveBytes, conv.batch * conv.channels * conv.cells() * size);
    return std::clamp<int64_t>(most / std::max<int64_t>(of_block, 1), 1, static_cast<int64_t>(blocks_.size()));
  }

  void take(int64_t first, int64_t count) {
    args_.blocks = blocks_.data() + first;
    args_.block_count = count;
  }

  const void* pack(const Weight& weight) const {
    const size_t bytes = kernels_.packed_backward_bytes(args_.conv, args_.blocks, args_.block_count);
    void* packed = scratch(Scratch::panels, bytes);
    parallel(args_.block_count,
             [&](int64_t begin, int64_t end) { kernels_.pack_backward(args_, weight, packed, begin, end); });
    return packed;
  }

  // Adds one block's share for one (image, tap).
  template <typename S>
  void add_block(const S* shares, int64_t index, int64_t task, int64_t from, int64_t coordinates, S* out) const {
    const Conv& conv = args_.conv;
    const int64_t pixels = conv.pixels(), taps = conv.taps(), image = task / taps, tap = task % taps;
    const int64_t channel = (image * conv.offset_groups + args_.blocks[index].offset_group) * taps + tap;
    const S* source = shares + ((index * conv.batch * taps + task) * 3 + from) * pixels;
    S* target = out + channel * coordinates * pixels;
    for (int64_t i = 0; i < coordinates * pixels; ++i) target[i] += source[i];
  }

  const Kernels& kernels_;
  std::vector<Block> blocks_;
  Tensor input_, grad_;
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
  if (needs.input || needs.position()) {
    const bool is_double = type_of(input) == Type::f64;
    const Data made = is_double ? pass.data<double>(weight, needs) : pass.data<float>(weight, needs);
    if (needs.input) std::get<0>(grads) = like(input, channels_second(made.input));
    if (needs.offset) std::get<1>(grads) = like(offset, made.offset);
    if (needs.mask) std::get<3>(grads) = like(*mask, made.mask);
  }
  if (needs.weight) std::get<2>(grads) = like(weight, channels_second(pass.weight()));
  return grads;
}

}  // namespace seg
