#include "tensors.h"

#include <array>
#include <limits>

#ifdef STABLE_TORCH_ERROR_CODE_CHECK  // throws with the words of the error, which torch before 2.13 does not pass on
#define SEG_CHECK_CALL STABLE_TORCH_ERROR_CODE_CHECK
#else
#define SEG_CHECK_CALL TORCH_ERROR_CODE_CHECK
#endif

namespace seg::cuda {

namespace {

// [a, b, c, d] seen as [a, c, d, b].
Tensor channels_to_end(const Tensor& tensor) {
  return torch::stable::transpose(torch::stable::transpose(tensor, 1, 2), 2, 3);
}

}  // namespace

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
  SEG_CHECK_CALL(torch_call_dispatcher("aten::bmm", "out", stack.data(), TORCH_ABI_VERSION));
  torch::stable::detail::to<Tensor>(stack[0]);  // the stack's reference to `out` is ours to release
}

Conv check_on_gpu(const Tensor& input, const Tensor& offset, const Tensor& weight, const std::optional<Tensor>& mask,
                  const Window& window) {
  STD_TORCH_CHECK(is_on_gpu(input), "input must be on a CUDA device");
  const Conv conv = check_arguments(input, offset, weight, mask, window);
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  STD_TORCH_CHECK(conv.channels < most && conv.outputs < most, "at most ", most, " channels and outputs, got ",
                  conv.channels, " and ", conv.outputs);
  return conv;
}

Tensor by_group(const Tensor& rows, int64_t first, int64_t count, int64_t groups) {
  Tensor all = rows;
  const Tensor some = torch::stable::narrow(all, 0, first, count);
  return torch::stable::transpose(torch::stable::view(some, {count, groups, rows.size(1) / groups}), 0, 1);
}

}  // namespace seg::cuda
