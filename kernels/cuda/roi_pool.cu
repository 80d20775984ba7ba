// RoI pooling, the plain path: a thread for each output of each bin, which walks through the bin's samples.
#include <cmath>

#include "roi_pool.h"

#include "types.cuh"

namespace seg::cuda {

namespace {

// The positions of a bin along one axis.
template <typename S>
struct Line {
  S first, step;
  int32_t count, size;
  Border border;
  S share;  // of one position in the mean

  __device__ __forceinline__ Line(S first, S step, int32_t count, int32_t size, Border border)
      : first(first), step(step), count(count), size(size), border(border) {
    int32_t divisor = count;
    if (border == Border::kept) {
      divisor = 0;
      for (int32_t i = 0; i < count; ++i) divisor += at(i).read ? 1 : 0;
    }
    share = S(1) / S(divisor > 0 ? divisor : 1);
  }

  __device__ __forceinline__ Neighbours<S> at(int32_t i) const {
    return neighbours_at(grid_position(first, step, i), size, border);
  }
};

// One bin of one class of a box.
template <typename S>
struct Bin {
  int64_t place;  // of the class's bin among the positions
  int64_t map;    // where its map begins
  bool known;     // false where a position is not a number: nothing may be read
  S mask;
  Line<S> y, x;
};

template <typename S>
__device__ __forceinline__ Bin<S> bin_of(const RoiPoolTask& task, int64_t box, int64_t k, int64_t bin) {
  const RoiPool& pool = task.pool;
  const int64_t place = (box * pool.classes + k) * pool.bins() + bin, groups = pool.group_rows * pool.group_columns;
  const S* first = static_cast<const S*>(task.first) + 2 * place;
  const S* step = static_cast<const S*>(task.step) + 2 * box;
  const int32_t* count = task.count + 2 * (box * pool.bins() + bin);
  const bool known = first[0] == first[0] && first[1] == first[1] && task.image[box] >= 0 &&
                     task.image[box] < pool.images;
  return Bin<S>{place,
                (task.image[box] * groups + pool.group(bin)) * pool.cells() * pool.outputs,
                known,
                task.mask != nullptr ? static_cast<const S*>(task.mask)[place] : S(1),
                Line<S>(first[0], step[0], known ? count[0] : 0, static_cast<int32_t>(pool.height), pool.border),
                Line<S>(first[1], step[1], known ? count[1] : 0, static_cast<int32_t>(pool.width), pool.border)};
}

// Calls run(cell, weight, weight by y, weight by x) for every cell that the bin's samples read.
template <typename S, typename F>
__device__ __forceinline__ void for_each_cell(const Bin<S>& bin, const F& run) {
  const S scale = bin.y.share * bin.x.share;
  for (int32_t i = 0; i < bin.y.count; ++i) {
    const Neighbours<S> y = bin.y.at(i);
    if (!y.read) continue;
    for (int32_t j = 0; j < bin.x.count; ++j) {
      const Neighbours<S> x = bin.x.at(j);
      if (!x.read) continue;
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        const int32_t row = y.low + (corner >> 1), column = x.low + (corner & 1);
        if (row < 0 || row >= bin.y.size || column < 0 || column >= bin.x.size) continue;
        const S down = (corner >> 1) ? y.share : S(1) - y.share, right = (corner & 1) ? x.share : S(1) - x.share;
        const S by_y = (corner >> 1) ? y.slope : -y.slope, by_x = (corner & 1) ? x.slope : -x.slope;
        run(int64_t(row) * bin.x.size + column, scale * down * right, scale * by_y * right, scale * down * by_x);
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) roi_pool(const RoiPoolTask task, T* output) {
  using S = Compute<T>;
  const RoiPool& pool = task.pool;
  const int64_t step = int64_t(gridDim.x) * blockDim.x, all = pool.boxes * pool.bins() * pool.outputs;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += step) {
    const int64_t o = i % pool.outputs, bin_number = i / pool.outputs % pool.bins();
    const Bin<S> bin = bin_of<S>(task, i / pool.outputs / pool.bins(), o / pool.class_outputs(), bin_number);
    const T* map = static_cast<const T*>(task.maps) + bin.map + o;
    S sum = bin.known ? S(0) : S(NAN);  // no position, or no such image
    for_each_cell(bin, [&](int64_t cell, S weight, S, S) {
      if (weight != S(0)) sum += weight * widen(map[cell * pool.outputs]);
    });
    narrow(sum * bin.mask, output[i]);
  }
}

template <typename S>
__global__ void __launch_bounds__(kThreads) to_maps(const RoiPoolTask task, const S* grad, S* grad_maps) {
  const RoiPool& pool = task.pool;
  const int64_t step = int64_t(gridDim.x) * blockDim.x, all = pool.boxes * pool.bins() * pool.outputs;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < all; i += step) {
    const int64_t o = i % pool.outputs, bin_number = i / pool.outputs % pool.bins();
    const Bin<S> bin = bin_of<S>(task, i / pool.outputs / pool.bins(), o / pool.class_outputs(), bin_number);
    const S given = grad[i] * bin.mask;
    S* map = grad_maps + bin.map + o;
    for_each_cell(bin, [&](int64_t cell, S weight, S, S) { atomic_add(map + cell * pool.outputs, weight * given); });
  }
}

// One thread owns an output of an image, in all its maps, and adds to it box by box.
template <typename S>
__global__ void __launch_bounds__(kThreads) to_maps_in_order(const RoiPoolTask task, const S* grad, S* grad_maps) {
  const RoiPool& pool = task.pool;
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < pool.images * pool.outputs; i += step) {
    const int64_t o = i % pool.outputs;
    for (int64_t box = 0; box < pool.boxes; ++box) {
      if (task.image[box] != i / pool.outputs) continue;
      for (int64_t number = 0; number < pool.bins(); ++number) {
        const Bin<S> bin = bin_of<S>(task, box, o / pool.class_outputs(), number);
        const S given = grad[(box * pool.bins() + number) * pool.outputs + o] * bin.mask;
        S* map = grad_maps + bin.map + o;
        for_each_cell(bin, [&](int64_t cell, S weight, S, S) { map[cell * pool.outputs] += weight * given; });
      }
    }
  }
}

template <typename S>
__device__ __forceinline__ S warp_sum(S value) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) value += exchange(0xffffffffu, value, distance);
  return value;
}

// A warp for each bin of each class.
template <typename T>
__global__ void __launch_bounds__(kThreads) to_positions(const RoiPoolTask task, const Compute<T>* grad,
                                                         Compute<T>* grad_first, Compute<T>* grad_mask) {
  using S = Compute<T>;
  const RoiPool& pool = task.pool;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, lane = thread % kWarp;
  const int64_t step = int64_t(gridDim.x) * blockDim.x / kWarp, channels = pool.class_outputs();
  for (int64_t place = thread / kWarp; place < pool.boxes * pool.classes * pool.bins(); place += step) {
    const int64_t number = place % pool.bins(), k = place / pool.bins() % pool.classes;
    const int64_t box = place / pool.bins() / pool.classes;
    const Bin<S> bin = bin_of<S>(task, box, k, number);
    const S* given = grad + (box * pool.bins() + number) * pool.outputs + k * channels;
    const T* map = static_cast<const T*>(task.maps) + bin.map + k * channels;
    S by_y = S(0), by_x = S(0), by_mask = S(0);
    for (int64_t c = lane; c < channels; c += kWarp) {
      for_each_cell(bin, [&](int64_t cell, S weight, S y, S x) {
        const S product = given[c] * widen(map[cell * pool.outputs + c]);
        by_mask += weight * product;
        by_y += y * product;
        by_x += x * product;
      });
    }
    by_y = warp_sum(by_y), by_x = warp_sum(by_x), by_mask = warp_sum(by_mask);
    if (lane != 0) continue;
    grad_first[2 * place] = by_y * bin.mask;
    grad_first[2 * place + 1] = by_x * bin.mask;
    grad_mask[place] = by_mask;
  }
}

}  // namespace

cudaError_t launch_roi_pool(const RoiPoolTask& task, Type type, void* output, cudaStream_t stream) {
  const int64_t all = task.pool.boxes * task.pool.bins() * task.pool.outputs;
  return with_type(type, [&](auto element) {
    using T = typename decltype(element)::type;
    return launch(roi_pool<T>, blocks_for(all, kThreads), kThreads, 0, stream, task, static_cast<T*>(output));
  });
}

cudaError_t launch_roi_pool_to_maps(const RoiPoolTask& task, Type type, const void* grad, void* grad_maps,
                                    bool in_order, cudaStream_t stream) {
  const RoiPool& pool = task.pool;
  const int64_t items = in_order ? pool.images * pool.outputs : pool.boxes * pool.bins() * pool.outputs;
  const auto run = [&](auto zero) {
    using S = decltype(zero);
    return launch(in_order ? to_maps_in_order<S> : to_maps<S>, blocks_for(items, kThreads), kThreads, 0, stream, task,
                  static_cast<const S*>(grad), static_cast<S*>(grad_maps));
  };
  return type == Type::f64 ? run(0.0) : run(0.0f);
}

cudaError_t launch_roi_pool_to_positions(const RoiPoolTask& task, Type type, const void* grad, void* grad_first,
                                         void* grad_mask, cudaStream_t stream) {
  const int64_t all = task.pool.boxes * task.pool.classes * task.pool.bins() * kWarp;
  return with_type(type, [&](auto element) {
    using T = typename decltype(element)::type;
    using S = Compute<T>;
    return launch(to_positions<T>, blocks_for(all, kThreads), kThreads, 0, stream, task, static_cast<const S*>(grad),
                  static_cast<S*>(grad_first), static_cast<S*>(grad_mask));
  });
}

}  // namespace seg::cuda
