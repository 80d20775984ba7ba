"""The arithmetic that the CUDA and the CPU sources share, compiled for the host: interpolation, sizes and indices."""

import ctypes
import itertools
import math
import random

import pytest
import torch

from seg.ops import deform_conv2d
from tests.ops import cuda_host

pytestmark = pytest.mark.timeout(900)  # the first test compiles, which takes minutes on a busy machine
NAMES = ["batch", "channels", "height", "width", "outputs", "rows", "columns", "kernel_h", "kernel_w"]


@pytest.fixture(scope="module")
def arithmetic():
    """The shared headers' functions, in whose signatures every number has 64 bits."""
    library = cuda_host.arithmetic()
    for name in (
        *("fits_int32", "blocks_for", "chunk_pixels", "vector_channels", "map_index", "column_index"),
        *("turns", "block_of", "crossed_place", "turns_are_full"),
    ):
        getattr(library, f"seg_{name}").restype = ctypes.c_int64
    return library


def conv(**sizes):
    """A convolution's numbers, in the order of its struct; 3x3, stride 1, padding and dilation 2."""
    given = dict(batch=1, channels=64, height=16, width=16, outputs=64, rows=16, columns=16, kernel_h=3, kernel_w=3)
    given |= {"groups": 1, "offset_groups": 1} | sizes
    numbers = [given[name] for name in NAMES] + [1, 1, 2, 2, 2, 2, given["groups"], given["offset_groups"]]
    return (ctypes.c_int64 * len(numbers))(*numbers)


def numbers(*values):
    """Arguments of 64 bits."""
    return [value if isinstance(value, ctypes.Array) else ctypes.c_int64(value) for value in values]


def test_a_convolution_has_as_many_numbers_as_its_struct(arithmetic):
    arithmetic.seg_conv_numbers.restype = ctypes.c_int64
    assert arithmetic.seg_conv_numbers() == len(conv())


def sample(arithmetic, image, y, x, mask):
    """Value and derivatives by y, x and mask."""
    kind, name = (ctypes.c_double, "double") if image.dtype == torch.float64 else (ctypes.c_float, "float")
    out = (kind * 4)()
    function = getattr(arithmetic, f"seg_sample_{name}")
    function(ctypes.c_void_p(image.data_ptr()), *numbers(*image.shape), kind(y), kind(x), kind(mask), out)
    return list(out)


def expected_sample(image, y, x, mask):
    """The same by the operator in plain torch."""
    offset = torch.tensor([y, x], dtype=image.dtype).view(1, 2, 1, 1).requires_grad_()
    factor = torch.tensor(mask, dtype=image.dtype).view(1, 1, 1, 1).requires_grad_()
    weight = image.new_ones(1, 1, 1, 1)
    out = deform_conv2d(image[None, None], offset, weight, stride=max(image.shape), mask=factor)
    by_offset, by_mask = torch.autograd.grad(out.sum(), (offset, factor))
    return [out.item(), *by_offset.flatten().tolist(), by_mask.item()]


def borders(height, width):
    """Positions on and around the map's rim and its ring, whole and fractional, and what no map has."""
    rows = [-1.5, -1.0, -0.75, -0.0, 0.25, 1.0, height - 1.0, height - 0.5, height, height + 1.0]
    columns = [-1.5, -1.0, -0.25, 0.0, 0.5, 1.0, width - 1.0, width - 0.25, width, 1e30]
    yield from itertools.product(rows, columns)
    odd = (math.nan, math.inf, -math.inf, 1e30, -1e30, 3e9, -3e9, 2.0**31, -(2.0**31), 1e-30)
    yield from itertools.product(odd, (0.5, math.nan, -math.inf))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_samples_at_every_border_are_the_references(size, dtype, arithmetic, monkeypatch):
    monkeypatch.setenv("SEG_KERNELS", "off")
    image = torch.randn(size, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for y, x in borders(*size):
        found, expected = sample(arithmetic, image, y, x, 0.75), expected_sample(image, y, x, 0.75)
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True), (y, x)


def test_random_samples_are_the_references(arithmetic, monkeypatch):
    monkeypatch.setenv("SEG_KERNELS", "off")
    rng = random.Random(0)
    image = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(150):
        place = rng.uniform(-2, 8), rng.uniform(-2, 11), rng.uniform(-1, 2)
        assert sample(arithmetic, image, *place) == pytest.approx(expected_sample(image, *place), abs=1e-12)


@pytest.mark.fault(13)
@pytest.mark.parametrize("count, fits", [(0, True), (2**30, True), (2**31 - 2**28 - 1, True), (2**31 - 2**28, False)])
def test_fault_13_indices_of_32_bits_serve_only_counts_whose_loops_stay_below_2_31(count, fits, arithmetic):
    assert bool(arithmetic.seg_fits_int32(*numbers(count))) is fits
    for large in (2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**40):
        assert not arithmetic.seg_fits_int32(*numbers(large))


@pytest.mark.fault(13)
@pytest.mark.parametrize("number", [0, 1, 2**31 - 1, 2**31, 2**31 + 5, 2**32, 2**32 + 7, 2**36 + 11])
def test_fault_13_samples_are_found_beyond_2_31(number, arithmetic):
    given = conv(batch=64, rows=4096, columns=8192, channels=12, offset_groups=3)
    first = 5
    pixel, rest = divmod(number, 27)
    image, pixel = divmod(first + pixel, 4096 * 8192)
    expected = [image, pixel, rest % 9, rest // 9, *divmod(pixel, 8192)]
    out = (ctypes.c_int64 * 6)()
    arithmetic.seg_place(given, *numbers(first, number, 1), out)
    assert list(out) == expected
    if number < 2**31:
        arithmetic.seg_place(given, *numbers(first, number, 0), out)
        assert list(out) == expected


@pytest.mark.fault(13)
def test_fault_13_addresses_beyond_2_31_are_exact(arithmetic):
    given = conv(batch=64, rows=4096, columns=8192, channels=512, groups=2)
    assert arithmetic.seg_map_index(given, *numbers(18, 63, 17, 2**25 - 1)) == (63 * 18 + 17) * 2**25 + 2**25 - 1
    found = arithmetic.seg_column_index(given, *numbers(2**25, 2**25 - 1, 8, 511))
    assert found == ((2**25 + 2**25 - 1) * 9 + 8) * 256 + 255


@pytest.mark.fault(14)
@pytest.mark.parametrize("items, blocks", [(0, 1), (1, 1), (256, 1), (257, 2), (2**28, 2**20), (2**40, 2**20)])
def test_fault_14_a_launch_has_between_one_and_as_many_blocks_as_a_grid_may(items, blocks, arithmetic):
    assert arithmetic.seg_blocks_for(*numbers(items, 256)) == blocks < 2**31


@pytest.mark.parametrize("element", [2, 4, 8])
def test_the_workspace_is_bounded_however_large_the_maps(element, arithmetic):
    for batch, channels, kernel in ((8, 512, 3), (1, 4096, 7), (512, 3, 1)):
        given = conv(batch=batch, channels=channels, rows=1024, columns=2048, kernel_h=kernel, kernel_w=kernel)
        pixels = arithmetic.seg_chunk_pixels(given, *numbers(element))
        assert 1 <= pixels <= batch * 1024 * 2048
        assert pixels * channels * kernel * kernel * element <= 64 << 20
    tiny = conv(rows=2, columns=3)
    assert arithmetic.seg_chunk_pixels(tiny, *numbers(element)) == 6


@pytest.mark.parametrize(
    "sizes, element, address, width",
    [
        ({}, 2, 0, 8),
        ({}, 4, 0, 4),
        ({}, 8, 16, 2),
        ({}, 2, 2, 1),  # not aligned
        ({}, 2, 8, 4),
        ({"channels": 12, "offset_groups": 3}, 2, 0, 4),
        ({"channels": 30, "groups": 3, "offset_groups": 2}, 4, 0, 1),  # groups of 10 and 15 share 5 channels
    ],
)
def test_threads_read_only_channels_of_one_group_at_aligned_addresses(sizes, element, address, width, arithmetic):
    assert arithmetic.seg_vector_channels(conv(**sizes), *numbers(element, address)) == width


@pytest.mark.parametrize(
    "sizes", [{}, {"channels": 160}, {"channels": 192, "groups": 2}, {"channels": 96, "groups": 2, "offset_groups": 4}]
)
@pytest.mark.parametrize("element", [2, 4])
def test_chunks_cover_every_channel_of_a_group_once(sizes, element, arithmetic):
    given, groups = conv(**sizes), sizes.get("groups", 1)
    channels, division, out = sizes.get("channels", 64), (ctypes.c_int64 * 5)(), (ctypes.c_int64 * 2)()
    arithmetic.seg_divide_forward(given, *numbers(element, 128, 132), division)
    seen = []
    for group, index in itertools.product(range(groups), range(division[4] // 9)):
        arithmetic.seg_chunk(given, *numbers(group, index, element), out)
        assert 0 < out[1] - out[0] <= 128 // element
        assert out[0] * groups // channels == (out[1] - 1) * groups // channels == group
        seen += range(out[0], out[1])
    assert seen == list(range(channels))


@pytest.mark.parametrize(
    "sizes", [{}, {"channels": 512, "outputs": 512, "rows": 23, "columns": 31}, {"groups": 4, "batch": 3}]
)
def test_blocks_share_out_every_step_of_every_tile_once(sizes, arithmetic):
    division, out = (ctypes.c_int64 * 5)(), (ctypes.c_int64 * 6)()
    arithmetic.seg_divide_forward(conv(**sizes), *numbers(2, 128, 132), division)
    tiles, outputs, groups, splits, steps = division
    assert 1 <= splits <= max(1, steps // 4)
    assert tiles * outputs * groups * splits <= max(132, tiles * outputs * groups)
    seen = set()
    for block in range(tiles * outputs * groups * splits):
        arithmetic.seg_work(division, *numbers(block), out)
        assert out[4] < out[5]
        new = {(*out[:3], step) for step in range(out[4], out[5])}
        assert not new & seen
        seen |= new
    assert len(seen) == tiles * outputs * groups * steps


def test_no_two_vectors_of_a_tile_share_a_place_and_eight_rows_meet_no_bank_twice(arithmetic):
    places = [[arithmetic.seg_tile_offset(*numbers(row, vector)) for vector in range(8)] for row in range(128)]
    assert sorted(itertools.chain(*places)) == list(range(0, 128 * 128, 16))
    for first, vector in itertools.product(range(0, 128, 8), range(8)):
        assert len({places[row][vector] % 128 for row in range(first, first + 8)}) == 8


@pytest.mark.fault(13)
@pytest.mark.parametrize("flat", [0, 1, 2**29 + 7, 2**31 - 2**28 - 1])
def test_fault_13_a_pixel_is_found_where_its_samples_number_more_than_2_32(flat, arithmetic):
    given = conv(batch=64, rows=4096, columns=8192, offset_groups=32)
    out = (ctypes.c_int64 * 4)()
    arithmetic.seg_place_at(given, *numbers(flat), out)
    image, pixel = divmod(flat, 4096 * 8192)
    assert list(out) == [image, pixel, *divmod(pixel, 8192)]


@pytest.mark.parametrize("element", [2, 4])
def test_no_two_elements_of_crossed_tiles_share_a_place(element, arithmetic):
    rows = 128 // element
    places = [
        arithmetic.seg_crossed_place(*numbers(row, column, element)) for row in range(rows) for column in range(128)
    ]
    assert sorted(places) == list(range(0, rows * 128 * element, element))


def test_a_warp_meets_no_bank_twice_in_a_crossed_tile(arithmetic):
    for first, column in itertools.product(range(0, 64, 8), range(0, 256, 8)):  # eight rows' vectors of 16 bits
        places = [arithmetic.seg_crossed_place(*numbers(first + row, column, 2)) for row in range(8)]
        assert len({place % 128 // 16 for place in places}) == 8
    for first, column in itertools.product(range(0, 32, 4), range(0, 256, 8)):  # four rows of eight floats
        places = [
            arithmetic.seg_crossed_place(*numbers(first + row, column + i, 4)) for row in range(4) for i in range(8)
        ]
        assert len({place % 128 // 4 for place in places}) == 32


SHAPES = [
    {},
    {"channels": 512, "outputs": 512, "rows": 64, "columns": 128},
    {"channels": 512, "outputs": 512, "rows": 23, "columns": 31},
    {"channels": 8, "outputs": 8, "rows": 1, "columns": 1},
    {"channels": 96, "outputs": 40, "groups": 2, "offset_groups": 4, "batch": 3},
]


@pytest.mark.parametrize("element", [2, 4])
@pytest.mark.parametrize("sizes", SHAPES)
def test_blocks_take_turns_at_every_step_of_a_weights_gradient_once(sizes, element, arithmetic):
    division = (ctypes.c_int64 * 5)()
    arithmetic.seg_divide_weight(conv(**sizes), *numbers(element, 256, 132), division)
    groups, outputs, columns, steps, blocks = division
    assert 1 <= blocks <= 132
    place, seen, slots = 0, set(), []
    for block in range(blocks):
        out = (ctypes.c_int64 * (7 * (groups * outputs * columns + 1)))()
        turns = arithmetic.seg_turns(division, *numbers(block), out)
        for tile, group, output, column, begin, end, slot in zip(*[iter(out[: 7 * turns])] * 7, strict=True):
            assert ((group * outputs + output) * columns + column) == tile
            assert tile * steps + begin == place  # one turn begins where the last one ended
            assert begin < end <= steps
            assert {arithmetic.seg_block_of(division, *numbers(tile * steps + at)) for at in (begin, end - 1)} == {
                block
            }
            place += end - begin
            seen.add((group, output, column))
            slots.append(slot)
    assert place == groups * outputs * columns * steps
    assert len(seen) == groups * outputs * columns
    assert sorted(set(slots)) == slots
    assert slots[-1] <= blocks + groups * outputs * columns - 2


@pytest.mark.parametrize("element", [2, 4])
@pytest.mark.parametrize("sizes", SHAPES)
def test_columns_cover_every_tap_of_every_channel_once(sizes, element, arithmetic):
    given, division, out = conv(**sizes), (ctypes.c_int64 * 5)(), (ctypes.c_int64 * 4)()
    arithmetic.seg_divide_weight(given, *numbers(element, 256, 132), division)
    channels, groups, offset_groups = (
        sizes.get(key, one) for key, one in (("channels", 64), ("groups", 1), ("offset_groups", 1))
    )
    seen = []
    for group, columns, part in itertools.product(range(groups), range(division[2]), range(element)):
        arithmetic.seg_column(given, *numbers(group, columns, part, element), out)
        begin, end, tap, offset_group = out
        assert end - begin <= 128 // element
        for channel in range(begin, end):
            assert channel * groups // channels == group
            assert channel * offset_groups // channels == offset_group
            seen.append((channel, tap))
    assert sorted(seen) == list(itertools.product(range(channels), range(9)))


@pytest.mark.parametrize(
    "sizes, full",
    [
        ({"channels": 512, "outputs": 512, "rows": 64, "columns": 128}, True),
        ({"channels": 4096, "outputs": 4096}, True),
        ({"channels": 8192, "outputs": 8192, "groups": 1024, "offset_groups": 1}, False),
    ],
)
def test_blocks_sums_stay_in_proportion_to_the_weight(sizes, full, arithmetic):
    assert bool(arithmetic.seg_turns_are_full(conv(**sizes), *numbers(2, 256, 132))) is full
