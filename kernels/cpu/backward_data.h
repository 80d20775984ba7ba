// Gradients of the input, the offset and the mask. A task owns a block of channels of one image, so nobody else adds to
// the same cells: no atomics, and a fixed order of summation.
// Include inside namespace seg::SEG_ISA only.

// What one sample's gradient passes over: the corners to read, the corners to add to.
template <typename T, typename S>
struct Corners {
  const T* read[4];
  S* add[4];
  V<S> weight[4];
};

// Adds the gradient of one sample to the input's gradient, and takes its dot products with the corners: the gradients of
// both coordinates and of the mask are combinations of these four numbers.
template <bool input, bool position, typename T, typename S>
SEG_HD void scatter_sample(const Corners<T, S>& corners, const S* grad, int64_t channels, S* dots) {
  constexpr int lanes = kLanes<S>;
  V<S> sums[4] = {};
  int64_t channel = 0;
  for (; channel + lanes <= channels; channel += lanes) {
    const V<S> g = load(grad + channel);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (position) sums[i] = g * load(corners.read[i] + channel) + sums[i];
      if (input) store<S>(corners.weight[i] * g + load(corners.add[i] + channel), corners.add[i] + channel);
    }
  }
  if (position) sum_lanes<S>(sums, dots);
  for (; channel < channels; ++channel) {
    for (int i = 0; i < 4; ++i) {
      if (position) dots[i] += grad[channel] * widen(corners.read[i][channel]);
      if (input) corners.add[i][channel] += corners.weight[i][0] * grad[channel];
    }
  }
}

// Turns the dot products of the pixels of a plan into gradients by y, by x and by the mask, `stride` apart.
template <typename S>
void combine_dots(const Plan<S>& plan, const S (&dots)[kTile][4], int64_t count, S* out, int64_t stride) {
  for (int64_t i = 0; i < count; ++i) {
    S by_y = 0, by_x = 0, by_mask = 0;
#pragma GCC unroll 4
    for (int corner = 0; corner < 4; ++corner) {
      by_y += corner_weight_dy(plan.right[i], corner) * dots[i][corner];
      by_x += corner_weight_dx(plan.down[i], corner) * dots[i][corner];
      by_mask += corner_weight(plan.down[i], plan.right[i], corner) * dots[i][corner];
    }
    const S scale = plan.presence[i] * plan.mask[i];
    out[i] = scale * by_y;
    out[i + stride] = scale * by_x;
    out[i + 2 * stride] = plan.presence[i] * by_mask;
  }
}

// Pixels whose output gradient, a row of all outputs each, is held in the second-level cache.
constexpr int64_t kGradRows = 112 / kRows * kRows;

template <typename T, typename Product>
class BackwardDataBlock {
  using S = typename Product::Sum;
  using Word = typename Product::Word;

 public:
  BackwardDataBlock(const Backward& args, void* scratch)
      : BackwardDataBlock(args.conv, BackwardPanels<Product>(args.conv, args.blocks, args.block_count), Arena(scratch)) {
    args_ = &args;
    for (int64_t i = 0; i < kWideBlock; ++i) narrow(S(0), zeros_[i]);
  }

  static size_t scratch_bytes(const Conv& conv) {
    return BackwardDataBlock(conv, BackwardPanels<Product>(conv, nullptr, 0), Arena(nullptr)).used_;
  }

  void compute(int64_t image, int64_t index) {
    index_ = index;
    block_ = args_->blocks[index];
    const int64_t pixels = args_->conv.pixels();
    for (int64_t first = 0; first < pixels; first += kGradRows) {
      run_ = Run{image, first, pixels - first < kGradRows ? pixels - first : kGradRows};
      load_grad();
      for (int64_t tap = 0; tap < args_->conv.taps(); ++tap) add_tap(tap);
    }
  }

 private:
  static constexpr int64_t kOutputs = kSteps * Product::depth;

  BackwardDataBlock(const Conv& conv, const BackwardPanels<Product>& panels, Arena arena) : panels_(panels) {
    constexpr int64_t rows = padded_rows(kGradRows);
    plan_ = arena.take<Plan<S>>(1);
    dots_ = arena.take<S[kTile][4]>(1);
    zeros_ = arena.take<T>(kWideBlock);
    sink_ = arena.take<S>(kWideBlock);
    grad_ = arena.take<Word>(divide_up(conv.group_outputs(), kOutputs) * rows * kStride);
    columns_ = arena.take<S>(rows * kWideBlock);
    used_ = arena.used();
  }

  // The tile's gradient of the output, one block of kOutputs outputs after the other.
  void load_grad() {
    const int64_t outputs = args_->conv.group_outputs();
    const Layout& layout = args_->grad_layout;
    const T* grad = static_cast<const T*>(args_->grad) + run_.image * layout.image_stride +
                    run_.first * layout.pixel_stride + block_.group * outputs * layout.channel_stride;
    for (int64_t first = 0; first < outputs; first += kOutputs) {
      const int64_t count = outputs - first < kOutputs ? outputs - first : kOutputs;
      copy_words<Product>(Matrix<const T>{grad + first * layout.channel_stride, layout.pixel_stride, layout.channel_stride},
                          block_of_outputs(first), run_.count, count);
    }
  }

  Word* block_of_outputs(int64_t first) const { return grad_ + first / kOutputs * kGradRows * kStride; }

  void add_tap(int64_t tap) {
    const Conv& conv = args_->conv;
    const int64_t channels = block_.end - block_.begin, outputs = conv.group_outputs();
    const Word* weights = static_cast<const Word*>(args_->packed) + panels_.at(index_, tap);
    for (int64_t first = 0; first < outputs; first += kOutputs) {
      const int64_t word = first / Product::depth, left = panels_.words - word;
      const Operands<Product> operands{block_of_outputs(first), weights + word * panels_.width, panels_.stride(),
                                       left < kSteps ? left : kSteps};
      multiply(operands, run_.count, divide_up(channels, panels_.width), columns_, kWideBlock, first > 0);
    }
    make_plan(conv, args_->offset, args_->mask, run_, block_.offset_group, tap, *plan_);
    if (args_->grad_input != nullptr && args_->grad_position != nullptr) {
      scatter<true, true>(channels);
    } else if (args_->grad_input != nullptr) {
      scatter<true, false>(channels);
    } else {
      scatter<false, true>(channels);
    }
    if (args_->grad_position != nullptr) store_position(tap);
  }

  template <bool input, bool position>
  void scatter(int64_t channels) {
    const Conv& conv = args_->conv;
    const int64_t origin = run_.image * conv.cells() * conv.channels + block_.begin;
    const T* read = static_cast<const T*>(args_->input) + origin;
    S* add = static_cast<S*>(args_->grad_input) + (input ? origin : 0);
    for (int64_t i = 0; i < run_.count; ++i) {
      Corners<T, S> corners;
      for (int corner = 0; corner < 4; ++corner) {
        const int32_t index = plan_->corner[corner][i];
        const int64_t at = index * conv.channels;
        corners.read[corner] = index == kRing ? zeros_ : read + at;
        if (input) corners.add[corner] = index == kRing ? sink_ : add + at;
        corners.weight[corner] = splat(plan_->weight[corner][i]);
      }
      scatter_sample<input, position>(corners, columns_ + i * kWideBlock, channels, (*dots_)[i]);
    }
  }

  void store_position(int64_t tap) {
    const Conv& conv = args_->conv;
    const int64_t at = (index_ * conv.batch + run_.image) * conv.taps() + tap;
    S* out = static_cast<S*>(args_->grad_position) + at * 3 * conv.pixels() + run_.first;
    combine_dots(*plan_, *dots_, run_.count, out, conv.pixels());
  }

  const Backward* args_ = nullptr;
  BackwardPanels<Product> panels_;
  int64_t index_ = 0;
  Block block_{};
  Run run_{};
  Plan<S>* plan_;
  S (*dots_)[kTile][4];
  T* zeros_;
  S* sink_;  // what would be added to the ring; never read
  Word* grad_;
  S* columns_;
  size_t used_;
};

template <typename T, typename Product>
void backward_data(const Backward& args, int64_t begin, int64_t end, void* scratch) {
  BackwardDataBlock<T, Product> block(args, scratch);
  for (int64_t task = begin; task < end; ++task) block.compute(task / args.block_count, task % args.block_count);
}
