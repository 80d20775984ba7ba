"""Effective dilation by class, against a slow loop over filters and a closed form."""

import numpy as np
import pytest
import torch

from seg.analysis import Recorded, effective_dilation
from seg.analysis.classes import DilationByClass
from seg.models import Cells


@pytest.mark.parametrize(("groups", "factor"), [(1, 1), (3, 2)])
def test_a_class_has_the_filters_whose_centre_lies_on_it(groups: int, factor: int) -> None:
    """Two images of 20 x 32 px as the net was given them, whose labels are `factor` times larger."""
    generator = torch.Generator().manual_seed(0)
    found, expected = DilationByClass(["sky", "road", "car"]), {0: [], 1: [], 2: []}
    for _ in range(2):
        offset = torch.randn(1, 18 * groups, 5, 8, generator=generator)
        layer = Recorded(offset, (3, 3), (1, 1), (2, 2), (2, 2), Cells(4, 1))
        label = torch.randint(0, 2, (1, 20 * factor, 32 * factor), generator=generator)
        label[:, : 4 * factor] = 255
        found.add({"layer": layer}, label, (20, 32))
        values = effective_dilation(layer.positions)[0]
        for g, i, j in np.ndindex(groups, 5, 8):
            # the pixel's centre, (4 i + 1) + 1/2, is at that times the factor in the label
            under = int(label[0, int((4 * i + 1.5) * factor), int((4 * j + 1.5) * factor)])
            if under != 255:
                expected[under].append(float(values[g, i, j]))
    sky, road, car = found.rows()
    assert (sky["class"], road["layer"], car["class"]) == ("sky", "layer", "car")
    for row, kind in ((sky, 0), (road, 1)):
        assert row["count"] == len(expected[kind]) > 20
        assert row["mean"] == pytest.approx(np.mean(expected[kind]))
        assert row["std"] == pytest.approx(np.std(expected[kind]))
    assert (car["mean"], car["std"], car["count"]) == (None, None, 0)


def test_without_offsets_every_class_has_the_layers_dilation() -> None:
    layer = Recorded(torch.zeros(1, 18, 5, 8), (3, 3), (1, 1), (6, 6), (6, 6), Cells(4, 1))
    found = DilationByClass(["sky", "road"])
    found.add({"layer": layer}, (torch.arange(32) > 9).long().expand(1, 20, 32), (20, 32))
    assert [(row["mean"], row["std"], row["count"]) for row in found.rows()] == [(6.0, 0.0, 15), (6.0, 0.0, 25)]
