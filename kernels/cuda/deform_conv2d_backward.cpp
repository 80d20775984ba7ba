// Backward of the deformable convolution. Plain path: a bounded number of pixels at a time, by matrix products of the
// output's gradient with the weight (gradients of the samples) and with the samples (gradient of the weight).
#include "fused.h"
#include "operators.h"

namespace seg::cuda {

namespace {

// One backward in its steps. What is not asked for has no tensor.
class Pass {
 public:
  Pass(const Conv& conv, const Tensor& grad, const Tensor& input, const Tensor& offset,
       const std::optional<Tensor>& mask, cudaStream_t stream)
      : rows_(to_rows(input)), grad_(to_rows(grad)), stream_(stream) {
    all_ = Samples{conv, rows_.const_data_ptr(), type_of(input), field_of(offset), field_of(mask), 0, 0};
  }

  // Gradients of input, offset and mask, in the computing type. A plan that is not possible means the plain path.
  void data(const Tensor& weight, bool need_input, bool need_offset, bool need_mask, bool deterministic,
            const BackwardPlan& plan) {
    const Conv& conv = all_.conv;
    const int64_t channels = conv.offset_groups * conv.taps();
    if (need_input) input_ = zeros(rows_, {conv.batch * conv.cells(), conv.channels}, sums());
    if (need_offset) offset_ = empty(rows_, {conv.batch, 2 * channels, conv.rows, conv.columns}, sums());
    if (need_mask) mask_ = empty(rows_, {conv.batch, channels, conv.rows, conv.columns}, sums());
    const Tensor matrices = to_matrices(weight, conv);
    if (plan.possible) return fused(matrices, plan);
    for_chunks([&](const Samples& some) { scatter(some, matrices, deterministic); });
  }

  // What the fused path makes of these arguments.
  BackwardPlan data_plan(bool tf32) const {
    BackwardPlan plan{};
    STD_CUDA_CHECK(plan_backward(all_.conv, all_.type, tf32, all_.input, grad_.const_data_ptr(), plan));
    return plan;
  }
  WeightPlan weight_plan(bool tf32) const {
    WeightPlan plan{};
    STD_CUDA_CHECK(plan_weight(all_.conv, all_.type, tf32, all_.input, grad_.const_data_ptr(), plan));
    return plan;
  }

  // Gradient of the weight, in the computing type.
  void weight(const WeightPlan& plan) {
    const Conv& conv = all_.conv;
    if (plan.possible) return fused_weight(plan);
    weight_ = zeros(rows_, {conv.groups, conv.group_outputs(), conv.taps() * conv.group_channels()}, sums());
    Tensor product = empty(rows_, {conv.groups, conv.group_outputs(), conv.taps() * conv.group_channels()}, type());
    for_chunks([&](const Samples& some) {
      Tensor columns = make_columns(some);
      STD_CUDA_CHECK(launch_sample(some, columns.mutable_data_ptr(), stream_));
      const Tensor grad = by_group(grad_, some.first, some.count, conv.groups);
      multiply(torch::stable::transpose(grad, 1, 2), columns, product);
      STD_CUDA_CHECK(launch_accumulate(all_.type, product.const_data_ptr(), weight_->mutable_data_ptr(),
                                       product.numel(), stream_));
    });
  }

  const std::optional<Tensor>& input_rows() const { return input_; }
  const std::optional<Tensor>& offset() const { return offset_; }
  const std::optional<Tensor>& mask() const { return mask_; }
  const std::optional<Tensor>& weight_matrices() const { return weight_; }

 private:
  ScalarType type() const { return rows_.scalar_type(); }
  ScalarType sums() const { return compute_type(type_of(rows_)); }

  Tensor make_columns(const Samples& some) const {
    return empty(rows_, {some.conv.groups, some.count, some.conv.taps() * some.conv.group_channels()}, type());
  }

  template <typename F>
  void for_chunks(const F& run) const {
    const int64_t pixels = all_.conv.batch * all_.conv.pixels(), chunk = chunk_pixels(all_.conv, rows_.element_size());
    for (int64_t first = 0; first < pixels; first += chunk) {
      Samples some = all_;
      some.first = first, some.count = pixels - first < chunk ? pixels - first : chunk;
      run(some);
    }
  }

  void fused(const Tensor& matrices, const BackwardPlan& plan) const {
    const bool need_shares = offset_.has_value() || mask_.has_value();
    const Tensor packed = empty(rows_, {static_cast<int64_t>(plan.packed_bytes)}, ScalarType::Byte);
    const int64_t share_count = need_shares ? static_cast<int64_t>(plan.share_bytes / sizeof(float)) : 0;
    const Tensor shares = empty(rows_, {share_count}, ScalarType::Float);
    FusedBackward args{};
    args.samples = all_;
    args.grad = grad_.const_data_ptr();
    args.weight = matrices.const_data_ptr();
    args.packed = packed.mutable_data_ptr();
    args.shares = need_shares ? static_cast<float*>(shares.mutable_data_ptr()) : nullptr;
    args.gradients = Gradients{nullptr, pointer(input_), pointer(offset_), pointer(mask_)};
    STD_CUDA_CHECK(launch_fused_backward(args, plan, stream_));
  }

  void fused_weight(const WeightPlan& plan) {
    const Conv& conv = all_.conv;
    weight_ = empty(rows_, {conv.groups, conv.group_outputs(), conv.taps() * conv.group_channels()}, sums());
    const Tensor turns = empty(rows_, {static_cast<int64_t>(plan.turn_bytes / sizeof(float))}, ScalarType::Float);
    const FusedWeight args{all_, grad_.const_data_ptr(), static_cast<float*>(turns.mutable_data_ptr()),
                           static_cast<float*>(weight_->mutable_data_ptr())};
    STD_CUDA_CHECK(launch_fused_weight(args, plan, stream_));
  }

  void scatter(const Samples& some, const Tensor& matrices, bool deterministic) const {
    Tensor columns = make_columns(some);
    multiply(by_group(grad_, some.first, some.count, some.conv.groups), matrices, columns);
    Gradients gradients{columns.const_data_ptr(), pointer(input_), pointer(offset_), pointer(mask_)};
    if (deterministic && gradients.input != nullptr) {
      STD_CUDA_CHECK(launch_scatter_in_order(some, gradients, stream_));
      gradients.input = nullptr;
    }
    if (gradients.input == nullptr && gradients.offset == nullptr && gradients.mask == nullptr) return;
    STD_CUDA_CHECK(launch_scatter(some, gradients, stream_));
  }

  static void* pointer(const std::optional<Tensor>& tensor) {
    return tensor.has_value() ? tensor->mutable_data_ptr() : nullptr;
  }

  Tensor rows_, grad_;
  cudaStream_t stream_;
  Samples all_{};
  std::optional<Tensor> input_, offset_, mask_, weight_;
};

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> deform_conv2d_backward(
    const Tensor& grad, const Tensor& input, const Tensor& offset, const Tensor& weight,
    const std::optional<Tensor>& mask, int64_t stride_h, int64_t stride_w, int64_t padding_h, int64_t padding_w,
    int64_t dilation_h, int64_t dilation_w, bool need_input, bool need_offset, bool need_weight, bool need_mask,
    bool deterministic, bool fused, bool tf32) {
  const Window window{stride_h, stride_w, padding_h, padding_w, dilation_h, dilation_w};
  const Conv conv = check_on_gpu(input, offset, weight, mask, window);
  check_like("grad", grad, input, {conv.batch, conv.outputs, conv.rows, conv.columns});
  const Current current(input);
  fused = fused && conv.batch > 0;
  const ScalarType type = input.scalar_type();
  const Tensor none = empty(input, {0}, type);
  std::tuple<Tensor, Tensor, Tensor, Tensor> grads{none, none, none, none};
  need_mask = need_mask && mask.has_value();
  Pass pass(conv, grad, input, offset, mask, current.stream());
  if (need_input || need_offset || need_mask) {
    // the fused path adds to the input's gradient in any order
    const BackwardPlan plan = fused && !deterministic ? pass.data_plan(tf32) : BackwardPlan{};
    pass.data(weight, need_input, need_offset, need_mask, deterministic, plan);
  }
  if (need_weight) pass.weight(fused ? pass.weight_plan(tf32) : WeightPlan{});
  if (need_input) {
    std::get<0>(grads) =
        to_map(torch::stable::to(*pass.input_rows(), type), conv.batch, conv.height, conv.width);
  }
  if (need_offset) std::get<1>(grads) = torch::stable::to(*pass.offset(), offset.scalar_type());
  if (need_weight) std::get<2>(grads) = to_weight(torch::stable::to(*pass.weight_matrices(), type), conv);
  if (need_mask) std::get<3>(grads) = torch::stable::to(*pass.mask(), mask->scalar_type());
  return grads;
}

}  // namespace seg::cuda
