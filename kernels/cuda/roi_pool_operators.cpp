// RoI pooling over grids of positions on the GPU, forward and backward.
#include "roi_pool.h"

#include <limits>

#include "roi_pool_operators.h"

namespace seg::cuda {

namespace {

// A box of an image that is not there is not known here; the kernels pass over it.
RoiPoolTask task_of(const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step,
                    const Tensor& count, const std::optional<Tensor>& mask, int64_t group_rows, int64_t group_columns,
                    int64_t border) {
  STD_TORCH_CHECK(is_on_gpu(maps), "maps must be on a CUDA device");
  STD_TORCH_CHECK(maps.dim() == 5 && first.dim() == 5, "maps and first must have 5 dimensions");
  STD_TORCH_CHECK(0 <= border && border <= 2, "border must be 0, 1 or 2, got ", border);
  STD_TORCH_CHECK(group_rows > 0 && group_columns > 0, "groups must be at least 1x1, got ", group_rows, "x",
                  group_columns);
  RoiPoolTask task{};
  RoiPool& pool = task.pool;
  pool.images = maps.size(0), pool.height = maps.size(2), pool.width = maps.size(3), pool.outputs = maps.size(4);
  pool.boxes = first.size(0), pool.classes = first.size(1), pool.rows = first.size(2), pool.columns = first.size(3);
  pool.group_rows = group_rows, pool.group_columns = group_columns, pool.border = static_cast<Border>(border);
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
  return task;
}

// [boxes, rows, columns, outputs] of the output's gradient, in the computing type.
Tensor bins_first(const Tensor& grad, const RoiPool& pool, ScalarType type) {
  STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == pool.boxes && grad.size(1) == pool.outputs &&
                      grad.size(2) == pool.rows && grad.size(3) == pool.columns,
                  "grad must have the output's shape");
  Tensor out = empty(grad, {pool.boxes, pool.rows, pool.columns, pool.outputs}, type);
  torch::stable::copy_(out, torch::stable::transpose(torch::stable::transpose(grad, 1, 2), 2, 3));
  return out;
}

}  // namespace

Tensor roi_pool(const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step, const Tensor& count,
                const std::optional<Tensor>& mask, int64_t group_rows, int64_t group_columns, int64_t border,
                [[maybe_unused]] bool channels_last) {
  const Current current(maps);
  const RoiPoolTask task = task_of(maps, image, first, step, count, mask, group_rows, group_columns, border);
  const RoiPool& pool = task.pool;
  Tensor output = empty(maps, {pool.boxes, pool.rows, pool.columns, pool.outputs}, maps.scalar_type());
  if (output.numel() > 0) {
    STD_CUDA_CHECK(launch_roi_pool(task, type_of(maps), output.mutable_data_ptr(), current.stream()));
  }
  // the layout that was asked for is made in Python
  return torch::stable::transpose(torch::stable::transpose(output, 2, 3), 1, 2);
}

std::tuple<Tensor, Tensor, Tensor> roi_pool_backward(
    const Tensor& grad, const Tensor& maps, const Tensor& image, const Tensor& first, const Tensor& step,
    const Tensor& count, const std::optional<Tensor>& mask, int64_t group_rows, int64_t group_columns, int64_t border,
    bool need_maps, bool need_first, bool need_mask, bool deterministic) {
  const Current current(maps);
  const RoiPoolTask task = task_of(maps, image, first, step, count, mask, group_rows, group_columns, border);
  const RoiPool& pool = task.pool;
  const ScalarType type = compute_type(type_of(maps));
  const Tensor given = bins_first(grad, pool, type);
  Tensor grad_maps = empty(maps, {0}, type), grad_first = grad_maps, grad_mask = grad_maps;
  if (need_maps) {
    grad_maps = zeros(maps, {pool.images, group_rows * group_columns, pool.height, pool.width, pool.outputs}, type);
    if (given.numel() > 0) {
      STD_CUDA_CHECK(launch_roi_pool_to_maps(task, type_of(maps), given.const_data_ptr(),
                                             grad_maps.mutable_data_ptr(), deterministic, current.stream()));
    }
  }
  if (need_first || need_mask) {
    grad_first = empty(maps, {pool.boxes, pool.classes, pool.rows, pool.columns, 2}, type);
    grad_mask = empty(maps, {pool.boxes, pool.classes, pool.rows, pool.columns}, type);
    if (grad_mask.numel() > 0) {
      STD_CUDA_CHECK(launch_roi_pool_to_positions(task, type_of(maps), given.const_data_ptr(),
                                                  grad_first.mutable_data_ptr(), grad_mask.mutable_data_ptr(),
                                                  current.stream()));
    }
  }
  return {grad_maps, grad_first, grad_mask};
}

}  // namespace seg::cuda
