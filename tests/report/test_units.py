"""Pictures of single units, the extremes of a split, and the alarm of offsets that explode."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from seg.alarms import exploded
from seg.errors import DataError
from seg.report import read_runs, tiles, write_report
from seg.report.pictures import Photos
from seg.report.units import analysis_rows
from tests.report.conftest import add_pictures, result

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from examples import extremes

GREY = np.full((60, 80, 3), 128, np.uint8)
SCALE = tiles.SIDE / 80


def pixel(picture: object, y: float, x: float) -> tuple[int, ...]:
    return picture.getpixel((int((x + 0.5) * SCALE), int((y + 0.5) * SCALE)))


def test_points_lie_where_they_are_said_to() -> None:
    picture = tiles.points(GREY, np.array([[10.0, 20.0], [50.0, 70.0]]), (30.0, 40.0))
    assert picture.size == (480, 360)
    assert pixel(picture, 10, 20) == pixel(picture, 50, 70) == (255, 59, 31)
    assert pixel(picture, 30, 40) == (33, 224, 107)
    assert pixel(picture, 20, 10) == (128, 128, 128)


def test_heavier_points_are_brighter_and_weightless_ones_are_left_out() -> None:
    found, weights = np.array([[10.0, 20.0], [10.0, 60.0], [50.0, 20.0]]), np.array([1.0, 0.2, 0.0])
    picture = tiles.weighted_points(GREY, found, weights, (30.0, 40.0))
    strong, weak, none = (sum(pixel(picture, y, x)) for y, x in found)
    assert strong > weak > none
    assert pixel(picture, 50, 20) == pixel(picture, 55, 5)


def test_a_field_glows_where_it_is_strong() -> None:
    field = np.zeros((60, 80))
    field[5:15, 5:15] = 1.0
    picture = tiles.heat(GREY, field, (50.0, 70.0))
    assert sum(pixel(picture, 10, 10)) > 2 * sum(pixel(picture, 40, 40))


def test_a_region_keeps_its_pixels_and_no_others() -> None:
    mask = np.zeros((60, 80), bool)
    mask[:, :40] = True
    picture = tiles.region(GREY, mask, (50.0, 70.0))
    assert pixel(picture, 10, 10) == (128, 128, 128)
    assert min(pixel(picture, 10, 60)) > 200


def row(step: int, mean: float, largest: float) -> dict:
    return {"kind": "train", "step": step, "offset": {"layer4.2.conv2": {"mean": mean, "max": largest}}}


@pytest.mark.parametrize("bad", [(17.0, 20.0), (2.0, 101.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_offsets_that_explode_raise_one_alarm_at_the_first_such_step(bad: tuple[float, float]) -> None:
    (alarm,) = exploded([row(20, 2.0, 18.0), row(40, *bad), row(60, *bad)]).values()
    assert "layer4.2.conv2" in alarm
    assert alarm.endswith("step 40")


def test_offsets_of_a_healthy_training_raise_no_alarm() -> None:
    assert exploded([row(20, 2.0, 18.0), {"kind": "train", "step": 40}, {"offset": {"x": {"mean": None}}}]) == {}


def test_extremes_are_of_all_images_and_pass_over_those_without_a_score() -> None:
    assert extremes([0.5, None, 0.9, 0.1, 0.7, 0.3], 2) == [2, 4, 5, 3]
    assert extremes([0.5, 0.9], 3) == [1, 0]
    assert extremes([None, 0.4], 3) == []


def test_the_page_shows_units_layers_and_alarms(write_run: Callable[..., Path]) -> None:
    folder = write_run("a", result("deformable 3 layers"))
    training = [row(20, 2.0, 18.0), row(40, 30.0, 300.0)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in training))
    (folder / "analysis").mkdir()
    tiles.points(GREY, np.zeros((1, 2)), (3.0, 4.0)).save(folder / "analysis/000_0.png")
    listed = {"rows": [{"title": "<b>x</b>", "tiles": [{"caption": "1 layer", "picture": "000_0.png"}]}]}
    (folder / "analysis/analysis.json").write_text(json.dumps(listed))
    page = write_report(folder.parent).read_text()
    assert "What single units depend on" in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<b>x</b>" not in page
    assert "the offsets of layer4.2.conv2 explode: mean 30.0, largest 300.0 cells at step 40" in page
    assert "Mean |offset| by layer, deformable 3 layers" in page
    assert len(read_runs(folder.parent)) == 1


def test_a_report_is_written_without_an_analysis_that_is_cut_off(
    write_run: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    folder = write_run("a", result("deformable 3 layers"))
    (folder / "analysis").mkdir()
    (folder / "analysis" / "analysis.json").write_text('{"rows": [')
    assert "What single units depend on" not in write_report(folder.parent).read_text()
    assert "without the analysis of a: " in capsys.readouterr().err


def test_an_analysis_embeds_nothing_from_outside_its_folder(tmp_path: Path) -> None:
    listed = {"rows": [{"title": "x", "tiles": [{"caption": "y", "picture": "../secret.png"}]}]}
    (tmp_path / "analysis.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match="outside"):
        analysis_rows(tmp_path, Photos())


def test_points_of_a_net_with_two_layers_are_shown_with_three_as_well(write_run: Callable[..., Path]) -> None:
    folder = write_run("a", None)
    document = add_pictures(folder, result("deformable 2 layers"), ["one"])
    for unit in document["sampling"]:
        unit["points"] = {level: unit["points"][level] for level in ("1", "2")}
    (folder / "result.json").write_text(json.dumps(document))
    page = write_report(folder.parent).read_text()
    assert set(re.findall(r'<g class="(level[^"]*)"', page)) == {"level level-1", "level level-2 level-3"}
