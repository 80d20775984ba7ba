"""Effective dilation against closed forms and a slow loop."""

import gc
import math
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from seg.analysis import DilationBySize, Recorded, effective_dilation, record_offsets
from seg.data.object_size import object_size
from seg.errors import RunError
from seg.models import Cells, DeepLab, Deform, tiny
from seg.ops import sampling_positions


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_undeformed_filter_has_its_own_dilation(dilation: int, stride: int) -> None:
    positions = sampling_positions(
        torch.zeros(2, 54, 4, 7), (3, 3), (stride, 1), (dilation, dilation), (dilation, dilation)
    )
    assert torch.equal(effective_dilation(positions), torch.full((2, 3, 4, 7), float(dilation)))


def test_rows_apart_by_2_and_columns_by_3_count_half_each() -> None:
    positions = sampling_positions(torch.zeros(1, 18, 2, 2), (3, 3), 1, (2, 3), (2, 3))
    assert torch.allclose(effective_dilation(positions), torch.tensor(2.5))


def test_scaling_a_filter_scales_it_and_moving_or_turning_it_does_not_change_it() -> None:
    grid = sampling_positions(torch.zeros(1, 18, 1, 1), (3, 3), 1, 2, 2).double()
    cos, sin = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    turned = torch.einsum("ab,ngijbhw->ngijahw", turn, grid)
    assert effective_dilation(3.5 * turned + 11).item() == pytest.approx(7.0)


def test_a_line_of_taps_has_only_pairs_along_it() -> None:
    positions = sampling_positions(torch.zeros(1, 6, 1, 1), (1, 3), 1, 0, (1, 4))
    assert effective_dilation(positions).item() == pytest.approx(4.0)


def test_a_1x1_kernel_has_no_effective_dilation() -> None:
    with pytest.raises(ValueError, match=r"1x1 kernel has one tap"):
        effective_dilation(torch.zeros(1, 1, 1, 1, 2, 4, 4))


def test_positions_of_another_layout_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[N, G, kh, kw, 2, h, w\]"):
        effective_dilation(torch.zeros(1, 18, 4, 4))


# -- by object size --


def slow(recorded: dict[str, Recorded], size: Tensor, shape: tuple[int, int], cuts: tuple[float, float]) -> dict:
    """Values of every filter by layer and size, one by one, from the definition."""
    values: dict[tuple[str, str], list[float]] = {}
    for name, layer in recorded.items():
        n, channels, h, w = layer.offset.shape
        step, origin, d = layer.cells.stride, layer.cells.origin, layer.dilation[0]
        for image in range(n):
            for y in range(h):
                for x in range(w):
                    # centre of the filter in the net's input, then in the label
                    at = [origin + step * layer.stride[0] * y, origin + step * layer.stride[1] * x]
                    at = [math.floor((a + 0.5) * H / s) for a, H, s in zip(at, size.shape[1:], shape, strict=True)]
                    side = float(size[image, min(at[0], size.shape[1] - 1), min(at[1], size.shape[2] - 1)])
                    if math.isnan(side):
                        continue
                    kind = "medium" if side <= cuts[1] else "large"
                    kind = "background" if side == 0 else "small" if side < cuts[0] else kind
                    for g in range(channels // 18):
                        tap = {}
                        for i in range(3):
                            for j in range(3):
                                c = g * 18 + 2 * (3 * i + j)
                                dy, dx = (float(v) for v in layer.offset[image, c : c + 2, y, x])
                                tap[i, j] = (i * d + dy, j * d + dx)
                        apart = [math.dist(tap[i, j], tap[i, j + 1]) for i in range(3) for j in range(2)]
                        apart += [math.dist(tap[i, j], tap[i + 1, j]) for i in range(2) for j in range(3)]
                        values.setdefault((name, kind), []).append(sum(apart) / 12)
    return values


def a_case(seed: int, groups: int = 2) -> tuple[dict[str, Recorded], Tensor]:
    """Two layers of different stride over two 72x100 images, whose 90x125 sizes have every class and unknown pixels."""
    pair = (2, 2)
    recorded = {
        "layer3.0.conv2": Recorded(
            random(2, 18 * groups, 5, 7, seed=seed, scale=3), (3, 3), pair, pair, pair, Cells(8, 2)
        ),
        "layer4.0.conv2": Recorded(random(2, 18, 5, 7, seed=seed + 1), (3, 3), (1, 1), (1, 1), (1, 1), Cells(16, 2)),
    }
    kinds = torch.tensor([0.0, 0.0, 10.0, 31.9, 32.0, 50.0, 64.0, 64.1, 90.0, torch.nan])
    picks = torch.randint(10, (2, 90, 125), generator=torch.Generator().manual_seed(seed))
    return recorded, kinds[picks]


def test_rows_equal_a_slow_loop_over_every_filter() -> None:
    found = DilationBySize((32, 64))
    values: dict = {}
    for seed in (0, 5):
        recorded, size = a_case(seed)
        found.add(recorded, size, (72, 100))
        for key, more in slow(recorded, size, (72, 100), (32, 64)).items():
            values.setdefault(key, []).extend(more)
    assert len(found.rows()) == 8
    for row in found.rows():
        expected = torch.tensor(values[row["layer"], row["size"]], dtype=torch.float64)
        assert row["count"] == len(expected)
        assert row["mean"] == pytest.approx(float(expected.mean()), abs=1e-6)
        assert row["std"] == pytest.approx(float(expected.std(correction=0)), abs=1e-6)


def test_histograms_count_every_filter_once() -> None:
    recorded, size = a_case(3)
    found = DilationBySize((32, 64))
    found.add(recorded, size, (72, 100))
    values = slow(recorded, size, (72, 100), (32, 64))
    for row in found.histograms():
        expected = torch.histogram(torch.tensor(values[row["layer"], row["size"]]), torch.tensor(row["edges"])).hist
        assert row["counts"] == expected.long().tolist()


def test_dilations_beyond_the_last_bin_are_counted_in_it() -> None:
    found = DilationBySize()
    layer = Recorded(random(1, 18, 2, 2, scale=1e4), (3, 3), (1, 1), (1, 1), (1, 1), Cells(16))
    found.add({"a": layer}, torch.zeros(1, 32, 32), (32, 32))
    assert found.histograms()[3]["counts"][-1] == 4


def test_a_dilation_of_any_length_is_counted_and_one_that_is_not_finite_names_its_layer() -> None:
    found = DilationBySize()
    layer = Recorded(random(1, 18, 2, 2, scale=1e25), (3, 3), (1, 1), (1, 1), (1, 1), Cells(16))
    found.add({"a": layer}, torch.zeros(1, 32, 32), (32, 32))
    assert found.histograms()[3]["counts"][-1] == 4
    for value in (math.nan, math.inf):
        broken = replace(layer, offset=torch.full((1, 18, 2, 2), value))
        with pytest.raises(RunError, match=r"of b is not finite.*smaller optimizer\.offset_lr"):
            found.add({"b": broken}, torch.zeros(1, 32, 32), (32, 32))


def test_a_size_that_never_occurs_has_no_mean() -> None:
    found = DilationBySize()
    layer = Recorded(torch.zeros(1, 18, 2, 3), (3, 3), (1, 1), (2, 2), (2, 2), Cells(16))
    found.add({"a": layer}, torch.full((1, 32, 48), 300.0), (32, 48))
    assert [(r["size"], r["mean"], r["std"], r["count"]) for r in found.rows()] == [
        ("small", None, None, 0),
        ("medium", None, None, 0),
        ("large", 2.0, 0.0, 6),
        ("background", None, None, 0),
    ]


def test_size_is_read_under_the_cells_centre_and_not_interpolated() -> None:
    found = DilationBySize((10, 20))
    layer = Recorded(torch.zeros(1, 18, 2, 2), (3, 3), (1, 1), (2, 2), (2, 2), Cells(16))
    size = torch.full((1, 32, 32), 99.0)
    size[0, ::16, ::16] = 5.0  # one pixel under each centre
    found.add({"a": layer}, size, (32, 32))
    assert [row["count"] for row in found.rows()] == [4, 0, 0, 0]


def test_ranks_merge_to_what_one_would_have_seen() -> None:
    whole, first, second = (DilationBySize((32, 64)) for _ in range(3))
    for seed, part in ((0, first), (4, second)):
        recorded, size = a_case(seed)
        whole.add(recorded, size, (72, 100))
        part.add(recorded, size, (72, 100))
    summed = DilationBySize((32, 64), layers=whole.layers)
    summed.sums.add_(first.sums + second.sums)  # as an all-reduce does
    empty = DilationBySize((32, 64))
    empty.merge(first)
    empty.merge(second)
    for merged in (summed, empty):
        for row, expected in zip(merged.rows(), whole.rows(), strict=True):
            assert row == pytest.approx(expected)
    assert torch.equal(empty.counts, whole.counts)


@pytest.mark.parametrize("thresholds", [(224, 96), (0, 96), (96,)])
def test_thresholds_out_of_order_are_refused(thresholds: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"two rising sizes in px"):
        DilationBySize(thresholds)


@pytest.mark.parametrize("by", ["object", "box"])
def test_rows_from_an_instance_map_equal_a_slow_loop_over_pixels_and_filters(by: str) -> None:
    objects = torch.zeros(90, 125, dtype=torch.int32)
    objects[5:40, 10:50] = 1  # 35 x 40 px
    objects[20:30, 30:45] = 2  # 10 x 15 px, in front of the first
    objects[50:88, 40:120] = 3  # 38 x 80 px
    objects[60:70, 60:100] = 0  # with a hole
    objects[:4, :] = -1
    size = torch.empty(90, 125)
    corners = {}
    for k in (1, 2, 3):
        rows, columns = torch.where(objects == k)
        corners[k] = (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max()))
    side = {k: math.sqrt((b - a + 1) * (d - c + 1)) for k, (a, b, c, d) in corners.items()}
    for y in range(90):
        for x in range(125):
            k = int(objects[y, x])
            own = math.nan if k < 0 else side.get(k, 0.0)
            around = [side[j] for j, (a, b, c, d) in corners.items() if a <= y <= b and c <= x <= d]
            size[y, x] = own if by == "object" or not around else min(around)
    recorded = {"layer4.0.conv2": Recorded(random(1, 18, 5, 7, seed=3), (3, 3), (1, 1), (2, 2), (2, 2), Cells(16, 2))}
    found = DilationBySize((20, 50))
    found.add(recorded, torch.from_numpy(object_size(objects.numpy(), by))[None], (72, 100))
    values = slow(recorded, size[None], (72, 100), (20, 50))
    seen = {(row["layer"], row["size"]): row for row in found.rows() if row["count"]}
    assert seen.keys() == values.keys()
    assert len(seen) >= 3
    for key, expected in values.items():
        wanted = torch.tensor(expected, dtype=torch.float64)
        assert seen[key]["count"] == len(wanted)
        assert seen[key]["mean"] == pytest.approx(float(wanted.mean()), abs=1e-6)
        assert seen[key]["std"] == pytest.approx(float(wanted.std(correction=0)), abs=1e-6)


def test_offsets_of_one_pass_alone_are_kept() -> None:
    model = DeepLab(tiny(Deform), classes=3).eval()
    kept: list[weakref.ref] = []
    with torch.no_grad(), record_offsets(model) as recorded:
        for _ in range(3):
            model(torch.zeros(1, 3, 64, 64))
            kept += [weakref.ref(layer.offset) for layer in recorded.values()]
        gc.collect()
        assert sum(offset() is not None for offset in kept) <= len(recorded) == 3
