// C (+)= A x B for one tile: the micro-kernel that keeps its part of C in registers, and the loop over a tile.
// Include inside namespace seg::SEG_ISA only.

// Two vectors of C beside as many rows as the registers hold: 28 sums of 32 registers (AVX-512), 12 of 16 (others).
// The smaller kernel takes the rows that are left over.
#if defined(__AVX512F__)
constexpr int kRows = 14, kFewRows = 8;
#else
constexpr int kRows = 6, kFewRows = 4;
#endif

// A is stored in blocks of this many steps of the sum. Rows are padded by a cache line, so that the rows that the
// micro-kernel reads side by side do not fall into the same sets of the cache.
constexpr int64_t kSteps = 256;
constexpr int64_t kStride = kSteps + 16;

// B streams past from the second-level cache or beyond: this many steps ahead it is asked for.
constexpr int64_t kAhead = 24;

template <typename T>
constexpr int64_t kPanel = 2 * kLanes<T>;

// How a step of the sum is computed. `Element` is what A and B are made of, `Word` what one step reads from a row of A.
template <typename T>
struct Plain {
  using Element = T;
  using Word = T;
  using Sum = T;
  static constexpr int64_t depth = 1;  // elements of a word
  SEG_HD static V<T> add(V<T> sum, V<T> a, V<T> b) { return a * b + sum; }
};

#if defined(__AVX512BF16__)
struct Pairs {
  using Element = BF16;
  using Word = uint32_t;  // two neighbouring channels
  using Sum = float;
  static constexpr int64_t depth = 2;
  SEG_HD static V<float> add(V<float> sum, V<uint32_t> a, V<uint32_t> b) {
    return (V<float>)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
  }
};
#endif

// A: `rows` rows, kStride words apart. B: `steps` rows of a panel. C: rows `stride` sums apart.
template <typename Product, int rows>
void micro_kernel(const typename Product::Word* a, const typename Product::Word* b, int64_t steps,
                  typename Product::Sum* c, int64_t stride, bool accumulate) {
  using Word = typename Product::Word;
  using Sum = typename Product::Sum;
  constexpr int lanes = kLanes<Sum>;
  V<Sum> sums[rows][2] = {};
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
    __builtin_prefetch(c + row * stride);
    __builtin_prefetch(c + row * stride + lanes);
  }
#pragma GCC unroll 1
  for (int64_t step = 0; step < steps; ++step, ++a, b += 2 * lanes) {
    const V<Word> left = load(b), right = load(b + lanes);
    __builtin_prefetch(b + kAhead * 2 * lanes);
    __builtin_prefetch(b + kAhead * 2 * lanes + lanes);
#pragma GCC unroll 16
    for (int row = 0; row < rows; ++row) {
      const V<Word> factor = splat(load_one(a + row * kStride));
      sums[row][0] = Product::add(sums[row][0], factor, left);
      sums[row][1] = Product::add(sums[row][1], factor, right);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < rows; ++row) {
    Sum* out = c + row * stride;
    store<Sum>(accumulate ? load(out) + sums[row][0] : sums[row][0], out);
    store<Sum>(accumulate ? load(out + lanes) + sums[row][1] : sums[row][1], out + lanes);
  }
}

// A number of rows as a sum of micro-kernels: the mix that computes the fewest rows too many.
struct RowSplit {
  int64_t full, few;
  int64_t rows() const { return full * kRows + few * kFewRows; }
};

inline RowSplit split_rows(int64_t rows) {
  RowSplit best{(rows + kRows - 1) / kRows, 0};
  for (int64_t few = 1; few < kRows && (few - 1) * kFewRows < rows; ++few) {
    const int64_t rest = rows - few * kFewRows;
    const RowSplit split{rest > 0 ? (rest + kRows - 1) / kRows : 0, few};
    if (split.rows() < best.rows()) best = split;
  }
  return best;
}

// Rows that a tile of `rows` must have in memory; those past its end are computed and ignored.
constexpr int64_t padded_rows(int64_t rows) { return (rows + kRows - 1) / kRows * kRows; }

// One operand pair of `multiply`. `b_stride` is the distance of two panels in words.
template <typename Product>
struct Operands {
  const typename Product::Word* a;
  const typename Product::Word* b;
  int64_t b_stride;
  int64_t steps;
};

// C (+)= A x B for the rows of one micro-kernel: they stay in the first-level cache while the panels stream past.
template <typename Product, int rows>
void multiply_rows(const Operands<Product>& operands, int64_t first, int64_t panels, typename Product::Sum* c,
                   int64_t stride, bool accumulate) {
  const auto* a = operands.a + first * kStride;
  auto* out = c + first * stride;
  for (int64_t panel = 0; panel < panels; ++panel, out += kPanel<typename Product::Sum>) {
    micro_kernel<Product, rows>(a, operands.b + panel * operands.b_stride, operands.steps, out, stride, accumulate);
  }
}

template <typename Product>
void multiply(const Operands<Product>& operands, int64_t rows, int64_t panels, typename Product::Sum* c, int64_t stride,
              bool accumulate) {
  const RowSplit split = split_rows(rows);
  int64_t row = 0;
  for (int64_t i = 0; i < split.full; ++i, row += kRows) {
    multiply_rows<Product, kRows>(operands, row, panels, c, stride, accumulate);
  }
  for (int64_t i = 0; i < split.few; ++i, row += kFewRows) {
    multiply_rows<Product, kFewRows>(operands, row, panels, c, stride, accumulate);
  }
}
