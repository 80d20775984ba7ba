"""Points through several layers against loops and closed forms."""

import itertools

import pytest
import torch
from torch import Tensor

from seg.analysis import Recorded, record_offsets, sampling_points, sampling_tree
from seg.models import Cells, DeepLab, Dilated, tiny

AT_16 = Cells(16)


def layer(offset: Tensor, *, dilation: int = 2, stride: int = 1, cells: Cells | None = AT_16) -> Recorded:
    pair = (dilation, dilation)
    return Recorded(offset, (3, 3), (stride, stride), pair, pair, cells)


def random_offsets(seed: int, h: int = 9, w: int = 11, scale: float = 1.5) -> Tensor:
    return scale * torch.randn(1, 18, h, w, generator=torch.Generator().manual_seed(seed))


def test_undeformed_layers_read_sums_of_their_grids() -> None:
    layers = [layer(torch.zeros(1, 18, 40, 40)) for _ in range(3)]
    points = sampling_points(layers, (320.0, 304.0))
    assert {level: len(p) for level, p in points.items()} == {1: 9, 2: 81, 3: 729}
    steps = [32 * (k - 1) for k in range(3)]
    sums = [sum(s) for s in itertools.product(steps, repeat=3)]
    assert sorted(map(tuple, points[3].tolist())) == sorted((320.0 + y, 304.0 + x) for y in sums for x in sums)


def slow_points(layers: list[Recorded], cell: tuple[int, int]) -> list[tuple[float, float] | None]:
    """Points in pixels, tap by tap, by recursion; None for taps of filters that do not exist."""
    *before, last = layers
    _, _, h, w = last.offset.shape
    y, x = cell
    points: list[tuple[float, float] | None] = []
    for i in range(3):
        for j in range(3):
            exists = 0 <= y < h and 0 <= x < w
            dy, dx = (float(v) for v in last.offset[0, 6 * i + 2 * j : 6 * i + 2 * j + 2, y, x]) if exists else (0, 0)
            at = (y * last.stride[0] - 2 + 2 * i + dy, x * last.stride[0] - 2 + 2 * j + dx)
            if before:
                # what this layer reads is what the one before it wrote
                ratio = last.cells.stride / (before[-1].cells.stride * before[-1].stride[0])
                inner = slow_points(before, (round(at[0] * ratio), round(at[1] * ratio)))
                points += inner if exists else [None] * len(inner)
            else:
                points.append(tuple(last.cells.origin + last.cells.stride * v for v in at) if exists else None)
    return points


@pytest.mark.parametrize("cell", [(4, 5), (0, 0), (8, 3)])
def test_deformed_layers_keep_each_taps_index_also_at_the_border(cell: tuple[int, int]) -> None:
    layers = [
        layer(random_offsets(0, 18, 22), cells=Cells(8, 2)),
        layer(random_offsets(1), stride=2, cells=Cells(8, 2)),
        layer(random_offsets(2), cells=Cells(16, 2)),
    ]
    tree = sampling_tree(layers, torch.tensor([cell]))[3][0].reshape(-1, 2)
    expected = torch.tensor([point or (torch.nan, torch.nan) for point in slow_points(layers, cell)])
    assert expected.isfinite().any()
    torch.testing.assert_close(tree, expected, equal_nan=True, rtol=1e-5, atol=1e-3)


def test_points_of_filters_outside_the_map_are_left_out() -> None:
    layers = [layer(torch.zeros(1, 18, 6, 6)) for _ in range(2)]
    points = sampling_points(layers, (0.0, 0.0))
    # taps at rows and columns -2, 0, 2: the filters at -2 do not exist
    assert (len(points[1]), len(points[2])) == (9, 4 * 9)


def test_between_cells_a_filter_can_be_the_mean_of_its_neighbours() -> None:
    offset = torch.zeros(1, 18, 5, 5)
    offset[0, ::2] = torch.arange(5.0)[None, :, None]  # row y moves by y, so filters lie twice as far apart
    half = torch.full((1, 18, 5, 5), 0.5)
    layers = [layer(offset, cells=Cells(1)), layer(half, cells=Cells(1))]
    centre = sampling_tree(layers, torch.tensor([[2, 2]]), interpolate=True)[2][0, 4]
    # the centre tap is at (2.5, 2.5), where the interpolated filter is centred at (5, 2.5)
    assert centre[4].tolist() == pytest.approx([5.0, 2.5])
    assert centre[0].tolist() == pytest.approx([3.0, 0.5])


def test_interpolation_at_a_cell_is_its_own_filter() -> None:
    layers = [layer(random_offsets(3)), layer(torch.zeros(1, 18, 9, 11))]
    units = torch.tensor([[4, 5], [8, 10], [0, 0]])
    nearest, between = (sampling_tree(layers, units, interpolate=flag)[2] for flag in (False, True))
    torch.testing.assert_close(nearest, between, equal_nan=True)


@pytest.mark.parametrize("pixel, cell", [((0.0, 0.0), 0.0), ((7.0, 20.0), 16.0), ((63.0, 9.0), 16.0)])
def test_the_unit_is_the_filter_nearest_to_the_pixel(pixel: tuple[float, float], cell: float) -> None:
    centre = sampling_points([layer(torch.zeros(1, 18, 4, 4))], pixel)[1][4]
    assert centre.tolist() == [16.0 * min(round(pixel[0] / 16), 3), cell]


def test_a_net_reads_within_the_reach_of_its_layers() -> None:
    model = DeepLab(tiny(Dilated), 3).eval()
    with torch.no_grad(), record_offsets(model) as recorded:
        model(torch.zeros(1, 3, 160, 160))
    points = sampling_points(list(recorded.values()), (80.0, 80.0))[3]
    assert points.min(0).values.tolist() == points.max(0).values.neg().add(160).tolist() == [32.0, 32.0]


def test_no_layers_and_no_trunk_are_errors() -> None:
    with pytest.raises(ValueError, match=r"no layers were recorded"):
        sampling_points([], (0, 0))
    with pytest.raises(ValueError, match=r"record a model that has a trunk"):
        sampling_points([layer(torch.zeros(1, 18, 4, 4), cells=None)], (0, 0))


def test_a_chosen_group_of_a_chosen_image_is_shown() -> None:
    offset = torch.zeros(2, 36, 4, 4)
    offset[1, 18::2] = 1.0
    centre = sampling_points([layer(offset)], (16, 16), image=1, group=1)[1][4]
    assert centre.tolist() == [32.0, 16.0]
