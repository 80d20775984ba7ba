"""Objects as rows, and how they follow size, against slow loops, scipy and closed forms."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from seg.analysis import Recorded, effective_dilation, object_rows, unit_of_objects
from seg.analysis.trend import by_bins, by_class, fifths, mean_dilation, means_by_bins, rank_correlation
from seg.models import Cells


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def recorded(groups: int = 1, cells: tuple[int, int] = (5, 8)) -> dict[str, Recorded]:
    offset = random(1, 18 * groups, *cells)
    return {"layer": Recorded(offset, (3, 3), (1, 1), (2, 2), (2, 2), Cells(4, 1))}


def scene() -> tuple[Tensor, Tensor, Tensor]:
    """Prediction, label and objects of 20 x 32 px: 1 is wide, 2 lies between the filters, 4 has no labelled pixel."""
    objects = torch.zeros(20, 32, dtype=torch.int64)
    objects[0:10, 0:18], objects[2:4, 26:28], objects[12:19, 4:30], objects[19:, :3] = 1, 2, 3, 4
    objects[15:17, 10:12] = -1
    label = torch.tensor([0, 2, 1, 2, 255, 0])[objects]
    prediction = label.clone()
    prediction[0:5, 0:18] = 1
    label[0, 0] = 1
    return prediction, label, objects


@pytest.mark.parametrize("groups", [1, 3])
def test_an_object_has_the_mean_of_the_filters_on_it(groups: int) -> None:
    prediction, label, objects = scene()
    layers = recorded(groups)
    rows = object_rows("a", layers, prediction, label, objects, objects.float() * 7, (20, 32))
    values = effective_dilation(layers["layer"].positions)[0]
    for row in rows:
        under = [
            float(values[g, i, j])
            for g in range(groups)
            for i in range(5)
            for j in range(8)
            if objects[4 * i + 1, 4 * j + 1] == row["object"]
        ]
        assert row["dilation"]["layer"] == (pytest.approx(np.mean(under)) if under else None)
        assert row["size"] == 7 * row["object"]
    assert [row["object"] for row in rows] == [1, 2, 3], "the fourth has no labelled pixel"
    assert rows[1]["dilation"]["layer"] is None


def test_an_object_is_of_its_commonest_class_and_unknown_pixels_are_nobodys() -> None:
    prediction, label, objects = scene()
    rows = object_rows("a", recorded(), prediction, label, objects, objects.float(), (20, 32))
    assert [row["class"] for row in rows] == [2, 1, 2]
    assert [row["pixels"] for row in rows] == [180, 4, 7 * 26 - 4]
    # the first object: half of it is predicted as 1, which is true of one pixel
    assert [row["accuracy"] for row in rows] == [pytest.approx((90 + 1) / 180), 1.0, 1.0]


def test_an_image_without_objects_has_no_rows() -> None:
    nothing = torch.zeros(20, 32, dtype=torch.int64)
    assert object_rows("a", recorded(), nothing, nothing, nothing, nothing.float(), (20, 32)) == []


def test_objects_are_read_where_filters_lie_in_a_resized_image() -> None:
    """The net saw the image at half the label's size: cell n at its pixel 4 n + 1, so at label pixel 8 n + 3."""
    objects = torch.zeros(40, 64, dtype=torch.int64)
    objects[3, 11] = 1
    row = object_rows("a", recorded(), objects, objects, objects, objects.float(), (20, 32))[0]
    values = effective_dilation(recorded()["layer"].positions)
    assert row["dilation"]["layer"] == pytest.approx(float(values[0, 0, 0, 1]))


def test_the_unit_of_an_object_is_its_cell_nearest_to_its_middle() -> None:
    under = torch.zeros(7, 9, dtype=torch.int64)
    under[1:4, 2:7] = 3
    under[6, 8] = 1
    under[5, 0] = -1
    under[0], under[4:6, 4] = 2, 2  # the mean of an object can lie beside it
    assert unit_of_objects(under) == {1: (6, 8), 2: (0, 4), 3: (2, 4)}
    assert unit_of_objects(torch.full((2, 2), -1)) == {}


def in_layer(name: str) -> Callable[[dict], float | None]:
    return partial(mean_dilation, layer=name)


def table(images: int = 30, each: int = 4, slope: float = 1.0) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for image in range(images):
        for k in range(each):
            size = float(np.exp(rng.uniform(2, 5)))
            value = slope * np.log(size) + rng.normal()
            rows.append(
                {
                    "image": f"i{image}",
                    "object": k + 1,
                    "class": "ab"[k % 2],
                    "size": size,
                    "pixels": 10 * (k + 1),
                    "accuracy": rng.uniform(),
                    "dilation": {"x": value, "y": None if k == 0 else 2.0},
                }
            )
    return rows


def test_the_rank_correlation_is_scipys_and_lies_in_its_interval() -> None:
    rows = table()
    found = rank_correlation(rows, "size", in_layer("x"))
    expected = stats.spearmanr([row["size"] for row in rows], [row["dilation"]["x"] for row in rows]).statistic
    assert found["rho"] == pytest.approx(expected)
    assert found["low"] < found["rho"] < found["high"]
    assert (found["objects"], found["images"]) == (120, 30)


def test_the_interval_is_as_wide_as_that_of_independent_objects_where_they_are() -> None:
    """For independent pairs and few of them correlated, the standard error of rho is about 1 / sqrt(n - 1)."""
    found = rank_correlation(table(100, 4, slope=0.0), "size", in_layer("x"))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 / np.sqrt(399), rel=0.2)


def test_copies_within_an_image_narrow_no_interval() -> None:
    once = table(40, 2, slope=0.0)
    copied = [row for row in once for _ in range(9)]
    a, b = (rank_correlation(rows, "size", in_layer("x")) for rows in (once, copied))
    assert a["high"] - a["low"] == pytest.approx(b["high"] - b["low"], rel=0.05)


def test_the_mean_over_layers_is_of_all_layers_or_of_none() -> None:
    assert mean_dilation({"dilation": {"x": 1.0, "y": 3.0}}) == 2.0
    assert mean_dilation({"dilation": {"x": 1.0, "y": None}}) is None
    assert mean_dilation({"dilation": {}}) is None


def test_nothing_constant_and_nothing_tiny_has_a_correlation() -> None:
    rows = table()
    assert rank_correlation(rows, "size", in_layer("y"))["rho"] is None
    assert rank_correlation(rows, "size", in_layer("y"))["objects"] == 90
    assert rank_correlation(rows[:2], "size", in_layer("x"))["rho"] is None
    assert rank_correlation([], "size", in_layer("x"))["objects"] == 0


def test_bins_hold_every_object_once_and_average_what_is_in_them() -> None:
    rows = table()
    edges = fifths(rows, "size")
    bins = by_bins(rows, "size", edges)
    assert [one["objects"] for one in bins] == [24] * 5
    inside = [row for row in rows if edges[1] <= row["size"] < edges[2]]
    assert bins[1]["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in inside]))
    right = sum(row["accuracy"] * row["pixels"] for row in inside)
    assert bins[1]["pixel_accuracy"] == pytest.approx(right / sum(row["pixels"] for row in inside))
    assert bins[1]["low"] < bins[1]["accuracy"] < bins[1]["high"]
    assert bins[1]["dilation"] == {"x": pytest.approx(np.mean([row["dilation"]["x"] for row in inside])), "y": 2.0}


def test_objects_of_one_size_are_in_one_bin() -> None:
    rows = [{**row, "size": 7.0} for row in table()]
    (one,) = by_bins(rows, "size", fifths(rows, "size"))
    assert (one["from"], one["to"], one["objects"]) == (7.0, 7.0, len(rows))


def test_means_by_bins_average_any_value_of_the_rows() -> None:
    rows = [{**row, "reach": 2 * row["size"]} for row in table()]
    edges = fifths(rows, "size")
    for one in means_by_bins(rows, "size", edges, "reach"):
        assert 2 * one["from"] <= one["low"] <= one["reach"] <= one["high"] <= 2 * one["to"]
    assert means_by_bins([], "size", [], "reach") == []


def test_an_empty_bin_has_no_numbers() -> None:
    empty = by_bins(table(), "size", [1.0, 2.0, 200.0])[0]
    assert (empty["objects"], empty["accuracy"], empty["low"], empty["dilation"]) == (
        0,
        None,
        None,
        {"x": None, "y": None},
    )


def test_every_class_has_its_own_row() -> None:
    rows = table()
    found = by_class(rows, "size")
    assert [row["class"] for row in found] == ["a", "b"]
    assert sum(row["objects"] for row in found) == len(rows)
    assert found[0]["correlation"]["rho"] == rank_correlation([r for r in rows if r["class"] == "a"], "size")["rho"]
