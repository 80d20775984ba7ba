#include "tensors.h"

#include <cstdlib>
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

}  // namespace

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

Layout layout_of(const Tensor& dense) {
  const int64_t channels = dense.size(1), pixels = dense.size(2) * dense.size(3);
  return is_contiguous(dense) ? Layout{channels * pixels, pixels, 1} : Layout{channels * pixels, 1, channels};
}

Weight weight_of(const Tensor& dense) {
  return Weight{dense.const_data_ptr(), type_of(dense), !is_contiguous(dense)};
}

}  // namespace seg
