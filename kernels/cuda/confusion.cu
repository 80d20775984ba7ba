// Confusion matrix of a pair of label maps.
#include "types.cuh"

namespace seg::cuda {

namespace {

constexpr int64_t kSharedCounts = 8192;       // 32-bit counters that a block keeps in shared memory at most
constexpr int64_t kCounted = INT64_C(1) << 30;  // pixels of a block after which they would overflow

__device__ __forceinline__ void add(int64_t* counter, int64_t value) {
  atomic_add(reinterpret_cast<unsigned long long*>(counter), static_cast<unsigned long long>(value));
}

// The counter of a pair of labels; the one behind all pairs for a truth that is no class; none to ignore.
__device__ __forceinline__ int64_t counter_of(int64_t truth, int64_t prediction, int64_t classes, int64_t ignore) {
  if (truth == ignore) return -1;
  if (truth < 0 || truth >= classes) return classes * (classes + 1);
  const bool is_class = prediction >= 0 && prediction < classes;
  return truth * (classes + 1) + (is_class ? prediction : classes);
}

template <typename T, typename P>
__global__ void __launch_bounds__(kThreads) confusion(const Labels labels, const T* truth, const P* prediction,
                                                      bool shared, int64_t* counts) {
  unsigned* local = shared_memory<unsigned>();
  const int64_t cells = labels.classes * (labels.classes + 1) + 1, step = int64_t(gridDim.x) * blockDim.x;
  if (shared) {
    for (int64_t i = threadIdx.x; i < cells; i += blockDim.x) local[i] = 0;
    synchronize();
  }
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < labels.count; i += step) {
    const int64_t cell = counter_of(truth[i], prediction[i], labels.classes, labels.ignore);
    if (cell < 0) continue;
    if (shared) {
      atomic_add(local + cell, 1u);
    } else {
      add(counts + cell, 1);
    }
  }
  if (!shared) return;
  synchronize();
  for (int64_t i = threadIdx.x; i < cells; i += blockDim.x) {
    if (local[i] != 0) add(counts + i, local[i]);
  }
}

template <typename T, typename P>
cudaError_t launch(const Labels& labels, int64_t* counts, cudaStream_t stream) {
  const int64_t cells = labels.classes * (labels.classes + 1) + 1;
  const bool shared = cells <= kSharedCounts;
  // few blocks, for each adds all its counters to the result; so many that none counts more than 32 bits hold
  const int64_t most = labels.count / kCounted + 1056, wanted = blocks_for(labels.count, kThreads);
  return launch(confusion<T, P>, wanted < most ? wanted : most, kThreads, shared ? cells * sizeof(unsigned) : 0,
                stream, labels, static_cast<const T*>(labels.truth), static_cast<const P*>(labels.prediction), shared,
                counts);
}

}  // namespace

cudaError_t launch_confusion(const Labels& labels, int64_t* counts, cudaStream_t stream) {
  if (labels.truth_bytes) {
    return labels.prediction_bytes ? launch<uint8_t, uint8_t>(labels, counts, stream)
                                   : launch<uint8_t, int64_t>(labels, counts, stream);
  }
  return labels.prediction_bytes ? launch<int64_t, uint8_t>(labels, counts, stream)
                                 : launch<int64_t, int64_t>(labels, counts, stream);
}

}  // namespace seg::cuda
