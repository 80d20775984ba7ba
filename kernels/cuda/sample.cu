// The samples of a deformable convolution, as the rows of a matrix.
#include "types.cuh"

namespace seg::cuda {

namespace {

// `lanes` neighbouring threads share one sample, so that its coordinates are computed once for all channels of a warp.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) sample(const Samples samples, int lanes, bool wide, T* columns) {
  using S = Compute<T>;
  const Conv& conv = samples.conv;
  const int64_t thread = int64_t(blockIdx.x) * blockDim.x + threadIdx.x, lane = thread % lanes;
  const int64_t step = int64_t(gridDim.x) * blockDim.x / lanes, per_group = conv.offset_group_channels();
  for (int64_t at = thread / lanes; at < sample_count(conv, samples.count); at += step) {
    const Place place =
        wide ? place_of<uint64_t>(conv, samples.first, at) : place_of<uint32_t>(conv, samples.first, at);
    const Sample<S> found = sample_at<S>(conv, samples.offset, samples.mask, place);
    const Corners<S> corners =
        corners_of(found.square, found.mask, static_cast<int32_t>(conv.height), static_cast<int32_t>(conv.width));
    const T* image = static_cast<const T*>(samples.input) + place.image * conv.cells() * conv.channels;
    const int64_t pixel = place.image * conv.pixels() + place.pixel - samples.first;
    for (int64_t i = lane * N; i < per_group; i += lanes * N) {
      const int64_t channel = place.group * per_group + i;
      Pack<T, N> read[4], sum;
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        read[corner] = load_cell<T, N>(image + channel, corners.cell[corner], conv.channels);
      }
#pragma unroll
      for (int c = 0; c < N; ++c) {
        S value = 0;
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) value += corners.share[corner] * widen(read[corner].values[c]);
        narrow(value, sum.values[c]);
      }
      store<T, N>(sum, columns + column_index(conv, samples.count, pixel, place.tap, channel));
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) add_bias(T* rows, const T* bias, int64_t count, int64_t outputs) {
  const int64_t step = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count * outputs; i += step) {
    narrow(widen(rows[i]) + widen(bias[i % outputs]), rows[i]);
  }
}

}  // namespace

cudaError_t launch_sample(const Samples& samples, void* columns, cudaStream_t stream) {
  return with_type_and_width(samples, columns, [&](auto element, auto width) {
    using T = typename decltype(element)::type;
    constexpr int n = decltype(width)::value;
    const int lanes = lanes_for(samples.conv.offset_group_channels() / n);
    const int64_t threads = sample_count(samples.conv, samples.count) * lanes;
    return launch(sample<T, n>, blocks_for(threads, kThreads), kThreads, 0, stream, samples, lanes,
                  !fits_int32(all_samples(samples)), static_cast<T*>(columns));
  });
}

cudaError_t launch_add_bias(Type type, void* rows, const void* bias, int64_t count, int64_t outputs,
                            cudaStream_t stream) {
  return with_type(type, [&](auto element) {
    using T = typename decltype(element)::type;
    return launch(add_bias<T>, blocks_for(count * outputs, kThreads), kThreads, 0, stream, static_cast<T*>(rows),
                  static_cast<const T*>(bias), count, outputs);
  });
}

}  // namespace seg::cuda
