// From the gradients of the samples to those of the input, the offset and the mask.
#include "types.cuh"

namespace seg::cuda {

namespace {

// The sum over the `lanes` neighbouring threads of a team. Teams of a warp may have taken different numbers of steps.
template <typename S>
__device__ __forceinline__ S team_sum(S value, int lanes) {
  const unsigned first = threadIdx.x % kWarp / lanes * lanes;
  const unsigned team = (lanes == kWarp ? 0xffffffffu : (1u << lanes) - 1) << first;
  for (int distance = lanes / 2; distance > 0; distance /= 2) value += exchange(team, value, distance);
  return value;
}

template <typename S>
__device__ __forceinline__ void write_position(const Conv& conv, const Gradients& gradients, const Place& place,
                                               const PositionGradient<S>& gradient) {
  const int64_t channel = mask_channel(conv, place.group, place.tap), channels = conv.offset_groups * conv.taps();
  if (gradients.offset != nullptr) {
    S* out = static_cast<S*>(gradients.offset);
    out[map_index(conv, 2 * channels, place.image, 2 * channel, place.pixel)] = gradient.y;
    out[map_index(conv, 2 * channels, place.image, 2 * channel + 1, place.pixel)] = gradient.x;
  }
  if (gradients.mask != nullptr) {
    static_cast<S*>(gradients.mask)[map_index(conv, channels, place.image, channel, place.pixel)] = gradient.mask;
  }
}

// One pass over a sample's gradient: four sums into the input's gradient, four scalar products for the position's.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) scatter(const Samples samples, const Gradients gradients, int lanes,
                                                    bool wide) {
  using S = Compute<T>;
  const Conv& conv = samples.conv;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, lane = thread % lanes;
  const int64_t step = int64_t(gridDim.x) * blockDim.x / lanes, per_group = conv.offset_group_channels();
  const bool need_position = gradients.offset != nullptr || gradients.mask != nullptr;
  for (int64_t at = thread / lanes; at < sample_count(conv, samples.count); at += step) {
    const Place place =
        wide ? place_of<uint64_t>(conv, samples.first, at) : place_of<uint32_t>(conv, samples.first, at);
    const Sample<S> found = sample_at<S>(conv, samples.offset, samples.mask, place);
    const Corners<S> corners =
        corners_of(found.square, found.mask, static_cast<int32_t>(conv.height), static_cast<int32_t>(conv.width));
    const int64_t origin = place.image * conv.cells() * conv.channels;
    const int64_t pixel = place.image * conv.pixels() + place.pixel - samples.first;
    S dots[4] = {0, 0, 0, 0};
    for (int64_t i = lane * N; i < per_group; i += lanes * N) {
      const int64_t channel = place.group * per_group + i;
      const int64_t column = column_index(conv, samples.count, pixel, place.tap, channel);
      const Pack<T, N> grad = load<T, N>(static_cast<const T*>(gradients.columns) + column);
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        const int32_t cell = corners.cell[corner];
        if (need_position) {
          const T* image = static_cast<const T*>(samples.input) + origin + channel;
          const Pack<T, N> read = load_cell<T, N>(image, cell, conv.channels);
#pragma unroll
          for (int c = 0; c < N; ++c) dots[corner] += widen(grad.values[c]) * widen(read.values[c]);
        }
        if (gradients.input != nullptr && cell != kRing) {
          S* out = static_cast<S*>(gradients.input) + origin + cell * conv.channels + channel;
#pragma unroll
          for (int c = 0; c < N; ++c) atomic_add(out + c, corners.share[corner] * widen(grad.values[c]));
        }
      }
    }
    if (!need_position) continue;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) dots[corner] = team_sum(dots[corner], lanes);
    if (lane == 0) write_position(conv, gradients, place, position_gradient(found.square, found.mask, dots));
  }
}

// One thread owns a channel of an image and adds to it sample by sample.
template <typename T>
__global__ void __launch_bounds__(kThreads) scatter_in_order(const Samples samples, const T* columns,
                                                             Compute<T>* out) {
  using S = Compute<T>;
  const Conv& conv = samples.conv;
  const int64_t step = int64_t(gridDim.x) * blockDim.x, last = samples.first + samples.count;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < conv.batch * conv.channels; i += step) {
    const int64_t image = i / conv.channels, channel = i % conv.channels, start = image * conv.pixels();
    const int64_t begin = start > samples.first ? start : samples.first;
    const int64_t end = start + conv.pixels() < last ? start + conv.pixels() : last;
    S* cells = out + image * conv.cells() * conv.channels + channel;
    for (int64_t flat = begin; flat < end; ++flat) {
      const int64_t pixel = flat - start;
      for (int64_t tap = 0; tap < conv.taps(); ++tap) {
        const Place place{image, pixel, tap, channel / conv.offset_group_channels(), pixel / conv.columns,
                          pixel % conv.columns};
        const Sample<S> found = sample_at<S>(conv, samples.offset, samples.mask, place);
        const Corners<S> corners =
            corners_of(found.square, found.mask, static_cast<int32_t>(conv.height), static_cast<int32_t>(conv.width));
        const S grad = widen(columns[column_index(conv, samples.count, flat - samples.first, tap, channel)]);
        for (int corner = 0; corner < 4; ++corner) {
          if (corners.cell[corner] == kRing) continue;
          cells[corners.cell[corner] * conv.channels] += corners.share[corner] * grad;
        }
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) accumulate(const T* values, Compute<T>* sums, int64_t count) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) sums[i] += widen(values[i]);
}

}  // namespace

cudaError_t launch_scatter(const Samples& samples, const Gradients& gradients, cudaStream_t stream) {
  return with_type_and_width(samples, gradients.columns, [&](auto element, auto width) {
    using T = typename decltype(element)::type;
    constexpr int n = decltype(width)::value;
    const int lanes = lanes_for(samples.conv.offset_group_channels() / n);
    const int64_t threads = sample_count(samples.conv, samples.count) * lanes;
    return launch(scatter<T, n>, blocks_for(threads, kThreads), kThreads, 0, stream, samples, gradients, lanes,
                  !fits_int32(all_samples(samples)));
  });
}

cudaError_t launch_scatter_in_order(const Samples& samples, const Gradients& gradients, cudaStream_t stream) {
  return with_type(samples.type, [&](auto element) {
    using T = typename decltype(element)::type;
    constexpr int threads = 64;  // few threads in all: small blocks spread them over the multiprocessors
    const int64_t items = samples.conv.batch * samples.conv.channels;
    return launch(scatter_in_order<T>, blocks_for(items, threads), threads, 0, stream, samples,
                  static_cast<const T*>(gradients.columns), static_cast<Compute<T>*>(gradients.input));
  });
}

cudaError_t launch_accumulate(Type type, const void* values, void* sums, int64_t count, cudaStream_t stream) {
  return with_type(type, [&](auto element) {
    using T = typename decltype(element)::type;
    return launch(accumulate<T>, blocks_for(count, kThreads), kThreads, 0, stream, static_cast<const T*>(values),
                  static_cast<Compute<T>*>(sums), count);
  });
}

}  // namespace seg::cuda
