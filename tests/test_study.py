"""study and evidence as commands, on two tiny runs: what they write, and what they say to bad usage."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data import Creatures

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., None]) -> Path:
    """A folder with one sweep of a deformable and a dilated net, three steps old."""
    folder = tmp_path_factory.mktemp("sweeps")
    images = ("++data.train.images=4", "++data.evaluate.images=3")
    train_tiny(folder / "creatures", "trainer.iterations=3", "evaluate=true", "trainer.evaluate_every=2", *images)
    return folder


def test_every_study_and_then_the_evidence(command: Command, sweeps: Path, tmp_path: Path) -> None:
    run = sweeps / "creatures" / "deform_3"
    studies = "studies=[objects,reach,classes,coverage,content,movement]"
    code, said = command("study", f"run={run}", studies, "movement.every=2", "movement.images=1")
    assert code == 0, said
    found = {path.stem: json.loads(path.read_text()) for path in (run / "study").glob("*.json")}
    assert sorted(found) == ["classes", "content", "coverage", "movement", "objects", "reach"]
    assert len(list((run / "study").glob("*.png"))) == 12, "light and dark"
    for name, document in found.items():
        assert (document["variant"], document["conv"]) == ("deformable 3 layers", "Deform")
        assert document["data"] == {"name": "creatures", "split": "val", "images": 1 if name == "movement" else 3}
    data = Creatures("val", images=3)
    lengths = np.concatenate([2 * data.lengths(index) for index in range(3)])
    rows = found["objects"]["objects"]
    assert [row["length"] for row in rows] == pytest.approx(lengths.tolist())
    assert {row["class"] for row in rows} <= {"red", "green", "blue", "yellow"}
    assert [row["seen"] for row in rows] == [row["size"] for row in rows], "no image was resized"
    code, said = command("study", f"run={run}", "studies=[objects]", "+data.size_by=box", f"output={tmp_path / 'box'}")
    assert code == 0, said
    by_box = json.loads((tmp_path / "box" / "objects.json").read_text())["objects"]
    assert [row["size"] for row in by_box] == [row["size"] for row in rows], "an object's size is its own box's"
    reached = found["reach"]
    assert [row["length"] for row in reached["objects"]] == [row["length"] for row in rows], "a body spans some cell"
    assert reached["receptive_field"] == 115, "as kernels, strides and dilations of the tiny trunk add up"
    assert all(0 < row["reach"] < 115 for row in reached["objects"])
    assert sum(one["objects"] for one in reached["bins"]) == len(rows)
    on_classes = found["classes"]["rows"]
    assert [row["class"] for row in on_classes[:5]] == list(data.classes)
    assert sum(row["count"] for row in on_classes) == 3 * 3 * 20 * 20, "3 images, 3 layers"
    assert found["coverage"]["rows"][-1]["cells"] == 3 * 20 * 20
    assert [row["layer"] for row in found["content"]["shifted"]] == [f"layer4.{k}.conv2" for k in range(3)]
    again = found["movement"]["loss"]
    assert again["step"] == 3
    assert again["now"] == pytest.approx(again["in_the_run"], rel=1e-5), "it is the run's own training"
    assert {row["step"] for row in found["movement"]["steps"]} == {1, 3}

    page = tmp_path / "page.md"
    kinds = ("content", "coverage", "movement", "objects_study", "overview", "reach_study")
    shown = [f"creatures_{kind}" for kind in kinds]
    tables = ["comparison | creatures", *(f"chart | {name} | a chart" for name in shown)]
    page.write_text("".join(f"<!-- table: creatures | {words} -->\nold\n<!-- end -->\n" for words in tables))
    results, charts = tmp_path / "results", tmp_path / "charts"
    code, said = command(
        "evidence", "name=creatures", f"runs={sweeps}", f"results={results}", f"charts={charts}", f"pages=[{page}]"
    )
    assert code == 0, said
    document = json.loads((results / "creatures.json").read_text())
    assert [run["variant"] for run in document["sweeps"]["creatures"]["runs"]] == ["deformable 3 layers", "dilated 2"]
    assert {study["study"] for study in document["studies"]} == set(found)
    written = sorted(path.stem for path in charts.glob("*.png") if not path.stem.endswith("-dark"))
    assert written == shown, "and none that the page does not show"
    assert all(Image.open(path).width > 500 for path in charts.glob("*.png"))
    assert "| deformable 3 layers | 1 | " in page.read_text()
    assert all(f'<img src="charts/{name}.png" alt="a chart">' in page.read_text() for name in shown)
    assert "old" not in page.read_text()


def test_one_image_of_so_many_is_studied(command: Command, sweeps: Path, tmp_path: Path) -> None:
    run = sweeps / "creatures" / "dilated_2"
    code, said = command("study", f"run={run}", "studies=[objects]", f"output={tmp_path}", "every=2")
    assert code == 0, said
    document = json.loads((tmp_path / "objects.json").read_text())
    data = Creatures("val", images=3)
    assert document["data"]["images"] == 2
    assert list(dict.fromkeys(row["image"] for row in document["objects"])) == [data[0].name, data[2].name]


def test_objects_are_studied_on_scenes_that_were_not_trained_on(command: Command, sweeps: Path, tmp_path: Path) -> None:
    code, said = command(
        "study", f"run={sweeps / 'creatures' / 'dilated_2'}", "studies=[objects]", f"output={tmp_path}", "images=2",
        "bins=[140,160,220]", "+data.evaluate.size=320", "+data.evaluate.half_length=[70,110]",
        "data.evaluate.split=test",
    )  # fmt: skip
    assert code == 0, said
    document = json.loads((tmp_path / "objects.json").read_text())
    assert sum(one["objects"] for one in document["bins"]) == len(document["objects"]) >= 2
    assert min(row["length"] for row in document["objects"]) >= 140
    assert {value for row in document["objects"] for value in row["dilation"].values()} == {2.0}
    assert document["correlation"]["all layers"]["rho"] is None, "a dilated net's is constant"


def test_objects_are_ordered_by_the_size_that_the_net_was_given(command: Command, sweeps: Path, tmp_path: Path) -> None:
    code, said = command(
        "study", f"run={sweeps / 'creatures' / 'deform_3'}", "studies=[objects]", f"output={tmp_path}", "images=1",
        "by=seen", "data.evaluate_transform.resize=80",
    )  # fmt: skip
    assert code == 0, said
    document = json.loads((tmp_path / "objects.json").read_text())
    assert document["by"] == "seen"
    assert [row["seen"] for row in document["objects"]] == [row["size"] / 2 for row in document["objects"]]
    edges = [document["bins"][0]["from"], document["bins"][-1]["to"]]
    assert edges == [f(row["seen"] for row in document["objects"]) for f in (min, max)]


def test_scenes_without_objects_are_studied_and_every_study_is_kept(command: Command, tmp_path: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (data / kind / split).mkdir(parents=True)
        Image.new("RGB", (64, 48)).save(data / "images" / split / "a.png")
        Image.new("L", (64, 48)).save(data / "labels" / split / "a.png")
    (data / "classes.txt").write_text("background\nthing\n")
    code, said = command(
        "train", "data=folder", f"data.root={data}", "trainer.iterations=1", "data.batch_size=1", "evaluate=false",
        "data.train_transform.crop=[48,48]", "data.workers=0", "head.hidden=8", f"run={run}",
    )  # fmt: skip
    assert code == 0, said
    code, said = command("study", f"run={run}", "studies=[objects,reach,classes,coverage]", f"output={tmp_path}")
    assert code == 0, said
    for name in ("objects", "reach"):
        assert json.loads((tmp_path / f"{name}.json").read_text())["bins"] == []
    assert json.loads((tmp_path / "coverage.json").read_text())["rows"]
    assert len(list(tmp_path.glob("*.png"))) == 8, "light and dark"


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        ("study", [], "run is missing"),
        ("study", ["studies=[colour]"], "studies has 'colour'; choose from objects, reach, classes, coverage, "),
        ("study", ["every=0"], "every is 0: expected a whole number, at least 1"),
        ("study", ["images=0"], "images is 0; it must be a whole number, 1 or more"),
        ("study", ["studies=[movement]", "movement.images=0"], "movement.images is 0: expected a whole number"),
        ("study", ["studies=[content]", "shift=12"], "multiple of 8"),
        ("study", ["studies=[objects]", "by=area", "images=1"], "by is 'area': expected length, size or seen"),
        ("evidence", ["name=nothing"], "no folder nothing"),
        ("evidence", ["pages=[nothing.md]"], "pages: there is no nothing.md"),
    ],
)
def test_bad_usage_is_named(
    command: Command, sweeps: Path, tmp_path: Path, script: str, arguments: list[str], words: str
) -> None:
    given = ["pages=[]", f"runs={sweeps}", *arguments] if script == "evidence" else arguments
    if script == "study" and arguments:
        given = [*arguments, f"run={sweeps / 'creatures' / 'deform_3'}", f"output={tmp_path}"]
    code, said = command(script, *given)
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said
