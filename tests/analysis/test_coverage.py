"""Which cells are read, against a slow loop and closed forms."""

import math

import pytest
import torch

from seg.analysis import Recorded, record_offsets
from seg.analysis.coverage import Coverage, taps_at_cells
from seg.models import Cells, DeepLab, Deform, tiny


def layer(offset: torch.Tensor, stride: tuple[int, int] = (1, 1)) -> Recorded:
    return Recorded(offset, (3, 3), stride, (2, 2), (2, 2), Cells(8))


def test_an_undeformed_layer_reads_every_cell_as_often_as_taps_reach_it() -> None:
    nearest, weight = taps_at_cells(layer(torch.zeros(1, 18, 6, 7)))
    # a cell is read by the taps of the filters 2 cells around it that are on the map: 3 in the middle, 2 at the edges
    rows = torch.tensor([2, 2, 3, 3, 2, 2])
    columns = torch.tensor([2, 2, 3, 3, 3, 2, 2])
    assert torch.equal(nearest[0], rows[:, None] * columns)
    assert torch.equal(weight, nearest.double())


def test_random_taps_are_counted_as_a_slow_loop_counts_them() -> None:
    offset = 2 * torch.randn(2, 36, 4, 5, generator=torch.Generator().manual_seed(0))
    recorded = layer(offset, (2, 1))
    nearest, weight = taps_at_cells(recorded)
    assert nearest.shape == (2, 8, 5)
    counted, weighed = torch.zeros(2, 8, 5, dtype=torch.int64), torch.zeros(2, 8, 5, dtype=torch.float64)
    positions = recorded.positions.double().movedim(4, -1).flatten(1, -2)
    for n in range(2):
        for y, x in positions[n].tolist():
            for i in range(8):
                for j in range(5):
                    counted[n, i, j] += -0.5 <= y - i < 0.5 and -0.5 <= x - j < 0.5
                    weighed[n, i, j] += max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j))
    assert torch.equal(nearest, counted)
    assert torch.allclose(weight, weighed)


def test_behind_a_stride_a_map_of_odd_sides_has_no_cells_beyond_its_own() -> None:
    model = DeepLab(tiny(Deform, replaced=6), 2).eval()
    with torch.no_grad(), record_offsets(model) as recorded:
        model(torch.zeros(1, 3, 97, 105))
    shapes = {name: tuple(taps_at_cells(found)[0].shape[1:]) for name, found in recorded.items()}
    assert shapes["layer2.0.conv2"] == (49, 53)
    assert shapes["layer3.0.conv2"] == (25, 27)


def test_where_all_filters_look_elsewhere_is_read_by_none() -> None:
    """All taps of all filters moved onto the cell (1, 1): 15 of 16 cells are read by none."""
    recorded = layer(torch.zeros(1, 18, 4, 4))
    aim = torch.ones_like(recorded.positions) - recorded.positions  # [1, 1, 3, 3, 2, 4, 4]
    size = torch.full((1, 32, 32), 40.0)
    size[:, :16] = 0
    size[:, 24:, 24:] = math.nan
    coverage = Coverage((32, 64))
    coverage.add({"a": layer(aim.reshape(1, 18, 4, 4))}, size, (32, 32))
    rows = {row["size"]: row for row in coverage.rows()}
    assert rows["background"] == {
        "layer": "a", "size": "background", "cells": 8, "taps_per_cell": 18.0,
        "share_without_tap": 7 / 8, "share_not_read": 7 / 8,
    }  # fmt: skip
    assert rows["medium"]["cells"] == 7, "one is of unknown size"
    assert rows["medium"]["share_without_tap"] == 1.0
    assert rows["small"]["share_without_tap"] is None
    assert rows["all"]["cells"] == 15


def test_a_tap_between_cells_reads_them_all_and_is_nearest_to_one() -> None:
    recorded = layer(torch.full((1, 18, 1, 1), 50.0))
    offset = recorded.offset.clone()
    offset[0, 8:10] = torch.tensor([0.4, -0.3])[:, None, None]  # the centre tap of the filter at (0, 0)
    nearest, weight = taps_at_cells(layer(offset))
    assert nearest.flatten().tolist() == [1]
    assert weight.item() == pytest.approx(0.6 * 0.7)
