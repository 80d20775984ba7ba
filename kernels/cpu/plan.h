// Where one tap of one offset group looks, for the pixels of a tile: computed once, then used for every channel.
// Include inside namespace seg::SEG_ISA only.

constexpr int64_t kTile = 256;  // pixels of a plan at most

// Structure of arrays, so that the coordinate arithmetic is vectorised over pixels.
template <typename T>
struct Plan {
  T y[kTile], x[kTile], mask[kTile];
  T down[kTile], right[kTile], presence[kTile];
  T weight[4][kTile];  // of each corner, presence and mask included
  int32_t corner[4][kTile];
};

// Makes a pixel sample nothing.
template <typename T>
SEG_HD void blank(Plan<T>& plan, int64_t i) {
  for (int corner = 0; corner < 4; ++corner) {
    plan.corner[corner][i] = kRing;
    plan.weight[corner][i] = T(0);
  }
}

// A run of pixels of the output: `count` of them from `first` on, in image `image`.
struct Run {
  int64_t image, first, count;
};

template <typename S, typename T>
void read_strided(const void* data, int64_t at, int64_t stride, int64_t count, T* out) {
  const S* from = static_cast<const S*>(data) + at;
  if (stride == 1) {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(widen(from[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) out[i] = static_cast<T>(widen(from[i * stride]));
  }
}

// `count` neighbouring elements of a row of a field.
template <typename T>
void read_row(const Field& field, int64_t image, int64_t channel, int64_t y, int64_t x, int64_t count, T* out) {
  const int64_t at = image * field.stride[0] + channel * field.stride[1] + y * field.stride[2] + x * field.stride[3];
  switch (field.type) {
    case Type::f32: return read_strided<float>(field.data, at, field.stride[3], count, out);
    case Type::f64: return read_strided<double>(field.data, at, field.stride[3], count, out);
    case Type::bf16: return read_strided<BF16>(field.data, at, field.stride[3], count, out);
    case Type::f16: return read_strided<F16>(field.data, at, field.stride[3], count, out);
  }
}

// Positions and mask of the part of a run that lies in row `y` of the output, from column `x` on.
template <typename T>
void read_positions(const Conv& conv, const Field& offset, const Field& mask, int64_t image, int64_t group, int64_t tap,
                    int64_t y, int64_t x, int64_t count, Plan<T>& plan, int64_t at) {
  const int64_t channel = group * conv.taps() + tap;
  read_row(offset, image, 2 * channel, y, x, count, plan.y + at);
  read_row(offset, image, 2 * channel + 1, y, x, count, plan.x + at);
  const T row = static_cast<T>(conv.tap_row(y, tap / conv.kernel_w));
  const int64_t column = conv.tap_column(x, tap % conv.kernel_w);
  for (int64_t i = 0; i < count; ++i) {
    plan.y[at + i] += row;
    plan.x[at + i] += static_cast<T>(static_cast<int32_t>(column + i * conv.stride_w));
  }
  if (mask.data != nullptr) {
    read_row(mask, image, channel, y, x, count, plan.mask + at);
  } else {
    for (int64_t i = 0; i < count; ++i) plan.mask[at + i] = T(1);
  }
}

template <typename T>
void locate(int32_t height, int32_t width, int64_t count, Plan<T>& plan) {
  for (int64_t i = 0; i < count; ++i) {
    const Square<T> square = square_at(plan.y[i], plan.x[i], height, width);
    const T scale = square.presence * plan.mask[i];
    plan.down[i] = square.down;
    plan.right[i] = square.right;
    plan.presence[i] = square.presence;
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      plan.corner[corner][i] = corner_index(square, corner, height, width);
      plan.weight[corner][i] = corner_weight(square.down, square.right, corner) * scale;
    }
  }
}

template <typename T>
void make_plan(const Conv& conv, const Field& offset, const Field& mask, const Run& run, int64_t group, int64_t tap,
               Plan<T>& plan) {
  for (int64_t done = 0; done < run.count;) {
    const int64_t y = (run.first + done) / conv.columns, x = (run.first + done) % conv.columns;
    const int64_t left = run.count - done, in_row = conv.columns - x;
    const int64_t count = left < in_row ? left : in_row;
    read_positions(conv, offset, mask, run.image, group, tap, y, x, count, plan, done);
    done += count;
  }
  locate(static_cast<int32_t>(conv.height), static_cast<int32_t>(conv.width), run.count, plan);
}
