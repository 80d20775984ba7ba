// Samples channels of the map at the positions of a plan.
// Include inside namespace seg::SEG_ISA only.

// Channels of one image that are read pixel by pixel; corners on the ring read `zeros`, so that nothing stored in the
// map (an infinity, say) can leak into a sample that does not touch it.
template <typename T>
struct Source {
  const T* image;  // already moved to the first channel
  const T* zeros;
  int64_t pixel_stride;

  SEG_HD const T* cell(int32_t index) const { return index == kRing ? zeros : image + index * pixel_stride; }
};

// Where samples go: chunks of a panel's width, `chunk_stride` apart, in rows `row_stride` apart.
template <typename T>
struct Target {
  T* data;
  int64_t row_stride, chunk_stride;
};

// One sample: four corners and their weights.
template <typename T>
struct Blend {
  using S = Compute<T>;
  const T* cell[4];
  V<S> weight[4];

  SEG_HD Blend(const Plan<S>& plan, int64_t i, const Source<T>& source) {
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      cell[corner] = source.cell(plan.corner[corner][i]);
      weight[corner] = splat(plan.weight[corner][i]);
    }
  }

  SEG_HD V<S> lanes(int64_t channel) const {
    V<S> sample = weight[0] * load(cell[0] + channel);
#pragma GCC unroll 4
    for (int corner = 1; corner < 4; ++corner) sample = weight[corner] * load(cell[corner] + channel) + sample;
    return sample;
  }

  // The 2 * kLanes channels of a chunk.
  template <typename Out>
  SEG_HD void chunk(int64_t channel, Out* out) const {
    if constexpr (std::is_same_v<T, BF16>) {
      V<S> even = {}, odd = {};
#pragma GCC unroll 4
      for (int corner = 0; corner < 4; ++corner) {
        V<S> even_cell, odd_cell;
        load_halves(cell[corner] + channel, even_cell, odd_cell);
        even = weight[corner] * even_cell + even;
        odd = weight[corner] * odd_cell + odd;
      }
      store_halves(even, odd, out);
    } else {
      store(lanes(channel), out);
      store(lanes(channel + kLanes<S>), out + kLanes<S>);
    }
  }

  SEG_HD S one(int64_t channel) const {
    S sample = weight[0][0] * widen(cell[0][channel]);
    for (int corner = 1; corner < 4; ++corner) sample += weight[corner][0] * widen(cell[corner][channel]);
    return sample;
  }
};

// The channels after the last whole chunk.
template <typename T, typename Out>
void blend_rest(const Blend<T>& blend, int64_t channel, int64_t channels, Out* out) {
  constexpr int64_t lanes = kLanes<Compute<T>>;
  if (channel + lanes <= channels) {
    store(blend.lanes(channel), out);
    channel += lanes;
    out += lanes;
  }
  for (; channel < channels; ++channel, ++out) narrow(blend.one(channel), *out);
}

// Samples of the pixels [first, first + count) of a plan.
template <typename T, typename Out>
void gather(const Plan<Compute<T>>& plan, int64_t first, int64_t count, const Source<T>& source, int64_t channels,
            const Target<Out>& target) {
  constexpr int64_t chunk = kPanel<Compute<T>>;
  for (int64_t i = 0; i < count; ++i) {
    const Blend<T> blend(plan, first + i, source);
    Out* out = target.data + i * target.row_stride;
    int64_t channel = 0;
    for (; channel + chunk <= channels; channel += chunk, out += target.chunk_stride) blend.chunk(channel, out);
    if (channel < channels) blend_rest(blend, channel, channels, out);
  }
}
