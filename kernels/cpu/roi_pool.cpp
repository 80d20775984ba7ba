// RoI pooling over grids of positions, forward and backward, and its registration.
#include "roi_pool.h"

#include <limits>
#include <tuple>

#include "operators.h"

namespace seg {

namespace {

const RoiKernels& roi_kernels_for(Type type) {
#if defined(__x86_64__)
  const std::string set = isa();
  if (set.rfind("avx512", 0) == 0) return roi_kernels_avx512(type);
  if (set == "avx2") return roi_kernels_avx2(type);
#endif
  return roi_kernels_portable(type);
}

// Shapes, types and images checked: nothing after this reads outside a tensor.
RoiPoolTask check_arguments(const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step,
                            const Tensor& count, const std::optional<Tensor>& mask, int64_t group_rows,
                            int64_t group_columns, int64_t border) {
  STD_TORCH_CHECK(maps.is_cpu(), "maps must be on the CPU");
  STD_TORCH_CHECK(maps.dim() == 5 && first.dim() == 5, "maps and first must have 5 dimensions");
  RoiPoolTask task{};
  RoiPool& pool = task.pool;
  pool.images = maps.size(0), pool.height = maps.size(2), pool.width = maps.size(3), pool.outputs = maps.size(4);
  pool.boxes = first.size(0), pool.classes = first.size(1), pool.rows = first.size(2), pool.columns = first.size(3);
  pool.group_rows = group_rows, pool.group_columns = group_columns;
  STD_TORCH_CHECK(0 <= border && border <= 2, "border must be 0, 1 or 2, got ", border);
  pool.border = static_cast<Border>(border);
  STD_TORCH_CHECK(pool.cells() < std::numeric_limits<int32_t>::max(), "maps have too many cells: ", pool.cells());
  STD_TORCH_CHECK(pool.classes > 0 && pool.outputs % pool.classes == 0, pool.classes, " classes do not divide the ",
                  pool.outputs, " outputs");
  const ScalarType type = compute_type(type_of(maps));
  check_dense("maps", maps, maps, maps.scalar_type(),
              {pool.images, group_rows * group_columns, pool.height, pool.width, pool.outputs});
  check_dense("image", image, maps, ScalarType::Long, {pool.boxes});
  check_dense("first", first, maps, type, {pool.boxes, pool.classes, pool.rows, pool.columns, 2});
  check_dense("step", step, maps, type, {pool.boxes, 2});
  check_dense("count", count, maps, ScalarType::Int, {pool.boxes, pool.rows, pool.columns, 2});
  if (mask.has_value()) check_dense("mask", *mask, maps, type, {pool.boxes, pool.classes, pool.rows, pool.columns});
  task.maps = maps.const_data_ptr();
  task.image = static_cast<const int64_t*>(image.const_data_ptr());
  task.first = first.const_data_ptr();
  task.step = step.const_data_ptr();
  task.count = static_cast<const int32_t*>(count.const_data_ptr());
  task.mask = mask.has_value() ? mask->const_data_ptr() : nullptr;
  for (int64_t box = 0; box < pool.boxes; ++box) {
    STD_TORCH_CHECK(0 <= task.image[box] && task.image[box] < pool.images, "box ", box, " belongs to image ",
                    task.image[box], " of ", pool.images);
  }
  return task;
}

Tensor roi_pool(const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step, const Tensor& count,
                const std::optional<Tensor>& mask, int64_t group_rows, int64_t group_columns, int64_t border,
                bool channels_last) {
  RoiPoolTask task = check_arguments(maps, image, first, step, count, mask, group_rows, group_columns, border);
  const RoiPool& pool = task.pool;
  Tensor output = empty_like(maps, {pool.boxes, pool.outputs, pool.rows, pool.columns}, maps.scalar_type(), channels_last);
  task.output = output.mutable_data_ptr();
  task.channels_last = channels_last;
  const RoiKernels& kernels = roi_kernels_for(type_of(maps));
  parallel_with_scratch(pool.boxes, kernels.scratch(pool), [&](int64_t begin, int64_t end, void* memory) {
    kernels.forward(task, begin, end, memory);
  });
  return output;
}

// The output's gradient as [boxes, rows, columns, outputs], in the computing type.
Tensor to_bins_first(const Tensor& grad, const RoiPool& pool, ScalarType type) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == pool.boxes && grad.size(1) == pool.outputs &&
                      grad.size(2) == pool.rows && grad.size(3) == pool.columns,
                  "grad must have the output's shape");
  Tensor out = empty_like(grad, {pool.boxes, pool.outputs, pool.rows, pool.columns}, type, true);
  return torch::stable::copy_(out, grad);
}

// Gradients of maps, first and mask in the computing type; an empty tensor for each that is not asked for.
std::tuple<Tensor, Tensor, Tensor> roi_pool_backward(
    const Tensor& grad, const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step,
    const Tensor& count, const std::optional<Tensor>& mask, int64_t group_rows, int64_t group_columns, int64_t border,
    bool need_maps, bool need_first, bool need_mask) {
  RoiPoolTask task = check_arguments(maps, image, first, step, count, mask, group_rows, group_columns, border);
  const RoiPool& pool = task.pool;
  const ScalarType type = compute_type(type_of(maps));
  const RoiKernels& kernels = roi_kernels_for(type_of(maps));
  const Tensor dense = to_bins_first(grad, pool, type);
  task.grad = dense.const_data_ptr();
  Tensor grad_maps = empty_like(maps, {0}, type), grad_first = grad_maps, grad_mask = grad_maps;
  if (need_maps) {
    grad_maps = zeros_like(
        maps, {pool.images, group_rows * group_columns, pool.height, pool.width, pool.outputs}, type);
    task.grad_maps = grad_maps.mutable_data_ptr();
    const int64_t blocks = (pool.outputs + kRoiBlock - 1) / kRoiBlock;
    parallel_with_scratch(pool.images * blocks, kernels.scratch(pool), [&](int64_t begin, int64_t end, void* memory) {
      kernels.backward_maps(task, begin, end, memory);
    });
  }
  if (need_first || need_mask) {
    grad_first = empty_like(maps, {pool.boxes, pool.classes, pool.rows, pool.columns, 2}, type);
    grad_mask = empty_like(maps, {pool.boxes, pool.classes, pool.rows, pool.columns}, type);
    task.grad_first = grad_first.mutable_data_ptr();
    task.grad_mask = grad_mask.mutable_data_ptr();
    parallel_with_scratch(pool.boxes, kernels.scratch(pool), [&](int64_t begin, int64_t end, void* memory) {
      kernels.backward_positions(task, begin, end, memory);
    });
  }
  return {grad_maps, grad_first, grad_mask};
}

}  // namespace

}  // namespace seg

STABLE_TORCH_LIBRARY_FRAGMENT(seg_cpu, m) {
  m.def(
      "roi_pool(Tensor maps, Tensor image, Tensor first, Tensor step, Tensor count, Tensor? mask, int group_rows, "
      "int group_columns, int border, bool channels_last) -> Tensor");
  m.def(
      "roi_pool_backward(Tensor grad, Tensor maps, Tensor image, Tensor first, Tensor step, Tensor count, "
      "Tensor? mask, int group_rows, int group_columns, int border, bool need_maps, bool need_first, bool need_mask) "
      "-> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(seg_cpu, CPU, m) {
  m.impl("roi_pool", TORCH_BOX(&seg::roi_pool));
  m.impl("roi_pool_backward", TORCH_BOX(&seg::roi_pool_backward));
}
