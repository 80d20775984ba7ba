// Functions of the shared headers, callable from Python. A convolution comes as the numbers of its struct, in order.
#include <weight_division.h>

#define SEG_EXPORT extern "C" __attribute__((visibility("default")))

using namespace seg;

static const Conv& conv_of(const int64_t* numbers) { return *reinterpret_cast<const Conv*>(numbers); }

SEG_EXPORT int64_t seg_conv_numbers() { return sizeof(Conv) / sizeof(int64_t); }
SEG_EXPORT int64_t seg_fits_int32(int64_t count) { return cuda::fits_int32(count); }
SEG_EXPORT int64_t seg_blocks_for(int64_t items, int64_t threads) { return cuda::blocks_for(items, threads); }
SEG_EXPORT int64_t seg_lanes_for(int64_t vectors) { return cuda::lanes_for(vectors); }
SEG_EXPORT int64_t seg_chunk_pixels(const int64_t* conv, int64_t element) {
  return cuda::chunk_pixels(conv_of(conv), element);
}
SEG_EXPORT int64_t seg_vector_channels(const int64_t* conv, int64_t element, uint64_t address) {
  return cuda::vector_channels(conv_of(conv), element, address);
}
SEG_EXPORT int64_t seg_map_index(const int64_t* conv, int64_t channels, int64_t image, int64_t channel, int64_t pixel) {
  return cuda::map_index(conv_of(conv), channels, image, channel, pixel);
}
SEG_EXPORT int64_t seg_column_index(const int64_t* conv, int64_t count, int64_t pixel, int64_t tap, int64_t channel) {
  return cuda::column_index(conv_of(conv), count, pixel, tap, channel);
}

// image, pixel, tap, offset group, row and column of a sample
SEG_EXPORT void seg_place(const int64_t* conv, int64_t first, int64_t number, int64_t wide, int64_t* out) {
  const cuda::Place place = wide ? cuda::place_of<uint64_t>(conv_of(conv), first, number)
                                 : cuda::place_of<uint32_t>(conv_of(conv), first, number);
  const int64_t found[] = {place.image, place.pixel, place.tap, place.group, place.y, place.x};
  for (int i = 0; i < 6; ++i) out[i] = found[i];
}

// Value of a one-channel map at a position, and its derivatives by y, x and a mask, for a gradient of one.
template <typename T>
static void sample(const T* map, int64_t height, int64_t width, T y, T x, T mask, T* out) {
  const Square<T> square = square_at(y, x, int32_t(height), int32_t(width));
  const cuda::Corners<T> corners = cuda::corners_of(square, mask, int32_t(height), int32_t(width));
  T dots[4];
  out[0] = 0;
  for (int i = 0; i < 4; ++i) {
    dots[i] = corners.cell[i] == kRing ? T(0) : map[corners.cell[i]];
    out[0] += corners.share[i] * dots[i];
  }
  const cuda::PositionGradient<T> gradient = cuda::position_gradient(square, mask, dots);
  out[1] = gradient.y, out[2] = gradient.x, out[3] = gradient.mask;
}

SEG_EXPORT void seg_sample_float(const float* map, int64_t height, int64_t width, float y, float x, float mask,
                                 float* out) {
  sample(map, height, width, y, x, mask, out);
}
SEG_EXPORT void seg_sample_double(const double* map, int64_t height, int64_t width, double y, double x, double mask,
                                  double* out) {
  sample(map, height, width, y, x, mask, out);
}

SEG_EXPORT int64_t seg_fits_fused(const int64_t* conv, int64_t element, uint64_t address, int64_t shared_bytes,
                                  int64_t needed) {
  return cuda::fits_fused(conv_of(conv), element, address, shared_bytes, needed);
}
SEG_EXPORT int64_t seg_tile_offset(int64_t row, int64_t vector) { return cuda::tile_offset(int(row), int(vector)); }

// tiles, blocks of outputs, groups, splits and steps of a fused forward
SEG_EXPORT void seg_divide_forward(const int64_t* conv, int64_t element, int64_t outputs, int64_t processors,
                                   int64_t* out) {
  const cuda::Division division = cuda::divide_forward(conv_of(conv), element, outputs, processors);
  const int64_t found[] = {division.tiles, division.output_blocks, division.groups, division.splits, division.steps};
  for (int i = 0; i < 5; ++i) out[i] = found[i];
}

// group, block of outputs, tile, split, first and last step of a block
SEG_EXPORT void seg_work(const int64_t* division, int64_t block, int64_t* out) {
  const cuda::Division& given = *reinterpret_cast<const cuda::Division*>(division);
  const cuda::Work work = cuda::work_of(given, block);
  const int64_t found[] = {work.group, work.outputs, work.pixels, work.split, work.begin, work.end};
  for (int i = 0; i < 6; ++i) out[i] = found[i];
}

SEG_EXPORT void seg_chunk(const int64_t* conv, int64_t group, int64_t index, int64_t element, int64_t* out) {
  const cuda::Chunk chunk = cuda::chunk_at(conv_of(conv), group, index, element);
  out[0] = chunk.begin, out[1] = chunk.end;
}

SEG_EXPORT int64_t seg_crossed_place(int64_t row, int64_t column, int64_t element) {
  return cuda::crossed_place(int(row), int(column), int(element));
}

// groups, blocks of outputs and of columns, steps of a tile and blocks of a fused gradient of the weight
SEG_EXPORT void seg_divide_weight(const int64_t* conv, int64_t element, int64_t outputs, int64_t processors,
                                  int64_t* out) {
  const cuda::WeightDivision division = cuda::divide_weight(conv_of(conv), element, outputs, processors);
  const int64_t found[] = {division.groups, division.output_blocks, division.column_blocks, division.steps,
                           division.blocks};
  for (int i = 0; i < 5; ++i) out[i] = found[i];
}

// tile, group, block of outputs and of columns, first and last step, and slot of every turn of a block; their number
SEG_EXPORT int64_t seg_turns(const int64_t* division, int64_t block, int64_t* out) {
  const cuda::WeightDivision& given = *reinterpret_cast<const cuda::WeightDivision*>(division);
  const int64_t last = given.first_step(block + 1);
  int64_t count = 0;
  for (int64_t at = given.first_step(block); at < last; ++count) {
    const cuda::Turn turn = cuda::turn_at(given, at, last);
    const int64_t found[] = {turn.tile,  turn.group, turn.outputs, turn.columns,
                             turn.begin, turn.end,   given.slot(block, turn.tile)};
    for (int i = 0; i < 7; ++i) *out++ = found[i];
    at += turn.end - turn.begin;
  }
  return count;
}

SEG_EXPORT int64_t seg_block_of(const int64_t* division, int64_t step) {
  return reinterpret_cast<const cuda::WeightDivision*>(division)->block_of(step);
}

// first and last channel, tap and offset group of a part of a block of columns
SEG_EXPORT void seg_column(const int64_t* conv, int64_t group, int64_t columns, int64_t part, int64_t element,
                           int64_t* out) {
  cuda::Turn turn{};
  turn.group = group, turn.columns = columns;
  const cuda::Column column = cuda::column_of(conv_of(conv), turn, part, element);
  out[0] = column.chunk.begin, out[1] = column.chunk.end, out[2] = column.tap, out[3] = column.offset_group;
}

// image, pixel, row and column of the output of a pixel that is counted through the batch, by numbers of 32 bits
SEG_EXPORT void seg_place_at(const int64_t* conv, int64_t flat, int64_t* out) {
  const cuda::Place place = cuda::place_at<uint32_t>(conv_of(conv), flat, 0, 0);
  out[0] = place.image, out[1] = place.pixel, out[2] = place.y, out[3] = place.x;
}

SEG_EXPORT int64_t seg_turns_are_full(const int64_t* conv, int64_t element, int64_t outputs, int64_t processors) {
  const cuda::WeightDivision division = cuda::divide_weight(conv_of(conv), element, outputs, processors);
  return cuda::turns_are_full(conv_of(conv), division, outputs);
}
