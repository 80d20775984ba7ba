// Copies between layouts and element types, and the memory that a thread works in.
// Include inside namespace seg::SEG_ISA only.

// A matrix with one of its strides 1.
template <typename T>
struct Matrix {
  T* data;
  int64_t row_stride, column_stride;

  SEG_HD T* at(int64_t row, int64_t column) const { return data + row * row_stride + column * column_stride; }
  Matrix transposed() const { return {data, column_stride, row_stride}; }
};

template <typename From, typename To>
SEG_HD void convert(const From* from, int64_t count, To* to) {
  constexpr int64_t lanes = kLanes<Compute<From>>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(load(from + i), to + i);
  for (; i < count; ++i) narrow(widen(from[i]), to[i]);
}

// to[j][i] = from[i][j] for one square of lanes, both with the unit stride along their second index.
template <typename From, typename To>
SEG_HD void transpose_square(const From* from, int64_t from_stride, To* to, int64_t to_stride) {
  using S = Compute<From>;
  constexpr int lanes = kLanes<S>;
  V<S> rows[lanes];
  for (int i = 0; i < lanes; ++i) rows[i] = load(from + i * from_stride);
  transpose<S>(rows);
  for (int i = 0; i < lanes; ++i) store(rows[i], to + i * to_stride);
}

// The source's unit stride runs along its columns, the destination's along its rows.
template <typename From, typename To>
void copy_transposed(Matrix<const From> from, Matrix<To> to, int64_t rows, int64_t columns) {
  constexpr int64_t lanes = kLanes<Compute<From>>;
  for (int64_t row = 0; row < rows; row += lanes) {
    for (int64_t column = 0; column < columns; column += lanes) {
      if (row + lanes <= rows && column + lanes <= columns) {
        transpose_square(from.at(row, column), from.row_stride, to.at(row, column), to.column_stride);
        continue;
      }
      for (int64_t i = row; i < row + lanes && i < rows; ++i) {
        for (int64_t j = column; j < column + lanes && j < columns; ++j) narrow(widen(*from.at(i, j)), *to.at(i, j));
      }
    }
  }
}

template <typename From, typename To>
void copy_matrix(Matrix<const From> from, Matrix<To> to, int64_t rows, int64_t columns) {
  if (from.column_stride == 1 && to.column_stride == 1) {
    for (int64_t row = 0; row < rows; ++row) convert(from.at(row, 0), columns, to.at(row, 0));
  } else if (from.row_stride == 1 && to.row_stride == 1) {
    copy_matrix(from.transposed(), to.transposed(), columns, rows);
  } else if (from.column_stride == 1) {
    copy_transposed(from, to, rows, columns);
  } else {
    copy_transposed(from.transposed(), to.transposed(), columns, rows);
  }
}

// Columns as the steps of a sum: rows of words, kStride apart. The half that an odd number of columns leaves over is 0.
template <typename Product, typename From>
void copy_words(Matrix<const From> from, typename Product::Word* to, int64_t rows, int64_t columns) {
  using Element = typename Product::Element;
  const Matrix<Element> elements{reinterpret_cast<Element*>(to), kStride * Product::depth, 1};
  copy_matrix(from, elements, rows, columns);
  if (columns % Product::depth != 0) {
    for (int64_t row = 0; row < rows; ++row) *elements.at(row, columns) = Element{};
  }
}

// Hands out pieces of a thread's memory; over a null pointer it only measures how much is needed.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    char* piece = base_ + used_;
    used_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }

  size_t used() const { return used_; }

 private:
  char* base_;
  size_t used_ = 0;
};
