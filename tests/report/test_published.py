"""Tables made from kept results, and the page that is published."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from seg.errors import DataError
from seg.report.evidence import evidence, read_sweeps
from seg.report.keeping import keep, write
from seg.report.published import MARKED, absent, charts, fill
from tests.report.conftest import per_image, result

ROOT = Path(__file__).resolve().parents[2]
RESULTS = [ROOT / "docs" / "RESULTS.md", *sorted((ROOT / "docs" / "results").glob("*.md"))]


@pytest.fixture
def kept(write_run: Callable[..., Path], tmp_path: Path) -> Path:
    """creatures.json of a sweep with its choice on val, where dilated 4 is better, as on test dilated 2 is."""
    for seed in (0, 1):
        for name, on_test, on_val in (("dilated 2", 0.80, 0.70), ("dilated 4", 0.78, 0.72), ("deformable", 0.9, None)):
            miou = on_test + 0.02 * seed
            document = result(name, seed, miou, per_image=per_image([miou] * 4))
            write_run(f"creatures/{name},{seed}", document)
            if on_val:
                write_run(f"creatures_val/{name},{seed}", result(name, seed, on_val))
    sweeps = read_sweeps(tmp_path / "runs", "creatures")
    assert sorted(sweeps) == ["creatures", "creatures_val"]
    write(evidence(sweeps, "creatures"), tmp_path / "kept" / "creatures.json")
    return tmp_path / "kept"


def table(kept: Path, words: str) -> list[list[str]]:
    page = fill(f"before\n<!-- table: {words} -->\nold\n<!-- end -->\nafter\n", kept)
    assert page.startswith("before\n<!-- table: ")
    assert page.endswith("<!-- end -->\nafter\n")
    assert "old" not in page
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]


def test_the_baseline_is_the_dilation_that_is_best_on_val(kept: Path) -> None:
    head, _, *rows = table(kept, "creatures | comparison | creatures")
    assert head[3] == "vs dilated 4"
    cells = {row[0]: row for row in rows}
    assert cells["dilated 2"][:4] == ["dilated 2", "2", "0.810 ± 0.014", "+0.020"]
    assert cells["dilated 4"][3] == "baseline"
    assert cells["deformable"][2:5] == ["**0.910 ± 0.014**", "+0.120", "+0.100 to +0.140"]
    assert cells["deformable"][5:9] == ["0.550", "0.650", "0.750", "0.950"]


def test_controls_stand_beside_the_best_adaptive_net(write_run: Callable[..., Path], tmp_path: Path) -> None:
    """Where the sweep lacks it and all else is equal; one of another budget or protocol is left by itself."""
    counted = {"per_image": per_image([0.8] * 4)}
    write_run("creatures/a", result("deformable", 0, 0.9, **counted | {"per_image": per_image([0.9] * 4)}))
    write_run("creatures/b", result("dilated 2", 0, 0.7, **counted))
    write_run("creatures_control/c", result("dilated 2, wider", 0, 0.8, **counted))
    write_run("creatures_longer/d", result("dilated 2", 0, 0.8, **counted, budget="2400 steps"))
    write_run("creatures_finer/c", result("dilated 2, wider", 0, 0.8, **counted, protocol="at output stride 8"))
    write_run("creatures_empty/e", None, state="running")
    write_run("creatures_longer/f", None, state="running", variant="modulated")
    document = evidence(read_sweeps(tmp_path / "runs", "creatures"), "creatures")
    write(document, tmp_path / "kept" / "creatures.json")
    _, _, *rows = table(tmp_path / "kept", "creatures | comparison | creatures_control")
    assert [row[0] for row in rows] == ["dilated 2, wider", "deformable"]
    assert rows[0][3:5] == ["−0.100", "−0.100 to −0.100"]
    assert rows[1][3] == "baseline"
    assert [run["variant"] for run in document["sweeps"]["creatures_control"]["runs"]] == ["dilated 2, wider"]
    _, _, *rows = table(tmp_path / "kept", "creatures | comparison | creatures_longer")
    assert [row[0] for row in rows] == ["dilated 2"]
    _, _, *rows = table(tmp_path / "kept", "creatures | comparison | creatures_finer")
    assert [row[0] for row in rows] == ["dilated 2, wider"], "evaluated otherwise"
    assert sorted(document["sweeps"]) == ["creatures", "creatures_control", "creatures_finer", "creatures_longer"]
    named = evidence(read_sweeps(tmp_path / "runs", "creatures"), "creatures", "dilated 2")
    assert named["sweeps"]["creatures_control"]["baseline"] == "dilated 2", "the net asked for"
    page = "<!-- table: creatures | dilation | creatures_longer | modulated -->\n<!-- end -->\n"
    assert "Not measured." in fill(page, tmp_path / "kept")


def test_budgets_have_a_row_each_and_the_nets_that_have_several(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for folder, budget, mious in (
        ("creatures", "600 steps", {"dilated 2": (0.70, 0.72), "dilated 4": (0.6,), "deformable": (0.9,)}),
        ("creatures_longer", "1200 steps", {"deformable": (0.95,), "dilated 2": (0.8,)}),
        ("creatures_longest", "2400 steps", {"dilated 2": (0.85,)}),
    ):
        for name, values in mious.items():
            for seed, miou in enumerate(values):
                write_run(f"{folder}/{name},{seed}", result(name, seed, miou, budget=budget))
    write(evidence(read_sweeps(tmp_path / "runs", "creatures"), "creatures"), tmp_path / "creatures.json")
    head, _, *rows = table(tmp_path, "creatures | budgets | creatures | creatures_longer | creatures_longest")
    assert head == ["budget", "mIoU: dilated 2", "mIoU: deformable"]
    assert rows == [
        ["600 steps", "0.710 ± 0.014", "0.900"],
        ["1200 steps", "0.800", "0.950"],
        ["2400 steps", "0.850", "–"],
    ]
    assert "Not measured." in fill("<!-- table: creatures | budgets | creatures -->\n<!-- end -->\n", tmp_path)


def test_every_run_says_where_it_comes_from(kept: Path) -> None:
    runs = json.loads((kept / "creatures.json").read_text())["sweeps"]["creatures"]["runs"]
    assert [run["miou"] for run in runs if run["variant"] == "deformable"] == [0.9, 0.92]
    for run in runs:
        assert (run["commit"], run["device"], run["date"][:10]) == ("abc1234", "CPU, 2 cores", "2026-11-21")
        assert run["command"].startswith("python scripts/")
    rows = table(kept, "creatures | provenance")[2:]
    assert rows[0][:2] == ["creatures", "6"]
    assert rows[0][3:6] == ["abc1234", "CPU, 2 cores", "600 iterations of batch 16"]


def test_effective_dilation_is_a_row_for_each_layer(kept: Path) -> None:
    head, _, *rows = table(kept, "creatures | dilation | creatures | deformable")
    assert head == ["layer", "small", "medium", "large", "background"]
    assert rows[1] == ["layer4.1.conv2", "1.50 ± 0.50", "3.00 ± 0.50", "4.50 ± 0.50", "1.25 ± 0.50"]


def test_iou_of_every_class_and_size_with_the_best_net_marked(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for name, found in (("dilated 2", (0.7, 0.5)), ("deformable", (0.6, 0.9))):
        for seed in (0, 1):
            classes = {"road": found[0] + 0.02 * seed, "car": found[1]}
            sizes = {"small": found[1], "medium": 0.5, "large": found[0]}
            write_run(f"streets/{name},{seed}", result(name, seed, iou=classes, iou_by_size=sizes))
    write(evidence(read_sweeps(tmp_path / "runs", "streets"), "streets"), tmp_path / "streets.json")
    head, _, road, car = table(tmp_path, "streets | iou | streets")
    assert head == ["class", "dilated 2", "deformable"]
    assert road == ["road", "**0.710 ± 0.014**", "0.610 ± 0.014"]
    assert car == ["car", "0.500 ± 0.000", "**0.900 ± 0.000**"]
    head, _, dilated, deformable = table(tmp_path, "streets | iou_by_size | streets")
    assert head[1:] == ["IoU: small", "IoU: medium", "IoU: large", "IoU: background"]
    assert dilated[1:] == ["0.500 ± 0.000", "0.500 ± 0.000", "**0.700 ± 0.000**", "–"]
    assert deformable[1:3] == ["**0.900 ± 0.000**", "0.500 ± 0.000"]


def test_classes_have_a_row_with_each_layer_and_are_ordered_by_the_size_of_their_objects(kept: Path) -> None:
    rows = [
        {"layer": layer, "class": kind, "mean": mean, "std": 0.25, "count": count}
        for layer in ("a", "b")
        for kind, mean, count in (("road", 3.0, 1200), ("car", 1.5, 40), ("dog", None, 0))
    ]
    found = {"rho": -0.5, "low": -0.75, "high": 0.25}
    classes = [
        {
            "class": kind,
            "objects": n,
            "size": size,
            "accuracy": 0.5,
            "dilation": {"a": 1.5, "b": None},
            "correlation": found,
        }
        for kind, n, size in (("car", 20, 60.4), ("pole", 7, 9.6))
    ]
    facts = {"of": "study", "variant": "deformable", "seed": 0}
    studies = [
        {"study": "classes", "rows": rows, **facts},
        {"study": "objects", "by": "size", "classes": classes, **facts},
    ]
    (kept / "streets.json").write_text(json.dumps({"studies": studies}))
    head, _, road, car = table(kept, "streets | classes | study")
    assert head == ["class", "a", "b", "filters"]
    assert (road, car) == (["road", *["3.00 ± 0.25"] * 2, "1,200"], ["car", *["1.50 ± 0.25"] * 2, "40"])
    head, _, pole, car = table(kept, "streets | object_classes | study")
    assert head[1:6] == ["objects", "size, px", "accuracy", "a", "b"]
    assert pole == ["pole", "7", "10", "0.50", "1.50", "–", "−0.50 (−0.75 to 0.25)"]
    assert car[:3] == ["car", "20", "60"]


def test_reach_has_a_row_for_each_net_beside_its_receptive_field(kept: Path) -> None:
    bins = [
        {"from": 7.8, "to": 20.2, "objects": 12, "reach": 17.4, "low": 16.6, "high": 18.3},
        {"from": 20.2, "to": 40.0, "objects": 0, "reach": None, "low": None, "high": None},
    ]
    found = {"reach": {"rho": -0.001, "low": -0.002, "high": 0.75}}
    facts = {"study": "reach", "of": "study", "by": "size", "bins": bins, "correlation": found}
    studies = [
        {"variant": label, "seed": seed, "receptive_field": side, **facts}
        for label, seed, side in (("deformable", 1, 115), ("dilated 4", 0, 211))
    ]
    (kept / "streets.json").write_text(json.dumps({"studies": studies}))
    head, _, fixed, adapts = table(kept, "streets | reach | study")
    assert head == ["size (objects)", "receptive field", "8 to 20 px (12)", "20 to 40 px (0)", "rank correlation"]
    assert fixed == ["dilated 4, seed 0", "211", "17 (17 to 18)", "–", "0.00 (−0.00 to 0.75)"], "an end tells its side"
    assert adapts[:2] == ["deformable, seed 1", "115"]


def test_a_chart_is_shown_once_it_is_drawn(kept: Path) -> None:
    page = "<!-- table: streets | chart | streets_val | mIoU of all nets -->\n<!-- end -->\n"
    (kept / "streets.json").write_text(json.dumps({"charts": []}))
    assert fill(page, kept).splitlines()[2] == "Not measured."
    (kept / "streets.json").write_text(json.dumps({"charts": ["streets_val"]}))
    filled = fill(page, kept)
    assert re.findall(r'src(?:set)?="(.*?)"', filled) == ["results/streets_val-dark.png", "results/streets_val.png"]
    assert 'alt="mIoU of all nets"' in filled
    beside = fill(page, kept, ".")
    assert re.findall(r'src(?:set)?="(.*?)"', beside) == ["streets_val-dark.png", "streets_val.png"]


def test_lists_of_numbers_take_one_line_and_are_the_same_document(tmp_path: Path) -> None:
    document = {
        "points": [[1.5, -2e-05], [3, 4]],
        "none": [],
        "words": ["a", "b"],
        "mixed": [1, None],
        "deep": {"x": 1},
    }
    write(document, tmp_path / "a" / "x.json")
    text = (tmp_path / "a" / "x.json").read_text()
    assert json.loads(text) == document
    assert "[[1.5, -2e-05], [3, 4]]" in text
    assert "[1, null]" in text


@pytest.mark.parametrize(
    "words",
    [
        "nothing | comparison | creatures",
        "creatures | comparison | others",
        "creatures | correlations | study",
        "creatures | movement | study",
    ],
)
def test_what_there_are_no_results_for_is_said_to_be_missing(kept: Path, words: str) -> None:
    page = f"<!-- table: {words} -->\n| 1 |\n<!-- end -->\n<!-- table: creatures | provenance -->\n<!-- end -->\n"
    filled = fill(page, kept)
    assert filled.startswith(f"<!-- table: {words} -->\n\nNot measured.\n\n<!-- end -->\n")
    assert absent(page, kept) == absent(filled, kept) == [words]


def test_a_table_of_no_kind_is_refused_with_the_kinds(kept: Path) -> None:
    with pytest.raises(DataError, match="colours: there are .*comparison"):
        table(kept, "creatures | colours")


@pytest.mark.parametrize(
    "words, said",
    [
        ("creatures", "there are .*comparison"),
        ("creatures | comparison", "missing .*'sweep'"),
        ("creatures | chart", "missing .*'name'"),
        ("creatures | dilation | creatures | dilated 3", "no net dilated 3; it has dilated 2; dilated 4; deformable"),
        ("broken | comparison | broken", r"broken\.json \(KeyError\('baseline'\)\)"),
        ("broken | dilation | broken | a", r"broken\.json \(KeyError\(\('x', 'medium'\)\)\)"),
    ],
)
def test_a_table_that_can_not_be_made_is_refused_and_not_said_to_be_missing(kept: Path, words: str, said: str) -> None:
    rows = [{"layer": "x", "size": "small", "mean": 1.5, "std": 0.5}]
    broken = {"sweeps": {"broken": {"variants": [{"variant": "a", "effective_dilation": rows}]}}}
    (kept / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(DataError, match=re.escape(f"table: {words}: ") + f".*{said}"):
        table(kept, words)


def test_a_page_with_a_chart_without_a_name_tells_of_the_others() -> None:
    page = "".join(
        f"<!-- table: streets | {words} -->\n<!-- end -->\n" for words in ("chart", "chart | a | A", "iou | b")
    )
    assert charts(page) == {"a"}


def test_columns_are_those_of_all_studies_and_cells_are_read_by_their_names(kept: Path) -> None:
    def study(label: str, correlations: dict[str, float]) -> dict[str, Any]:
        found = {layer: {"rho": rho, "low": None, "high": None, "objects": 9} for layer, rho in correlations.items()}
        return {"study": "objects", "of": "study", "variant": label, "seed": 0, "correlation": found}

    nets = {"a": {"all layers": 0.5, "x": 0.25, "y": 0.75}, "b": {"all layers": 0.6, "y": 0.1, "z": 0.2}}
    studies = [study(label, correlations) for label, correlations in nets.items()]
    (kept / "streets.json").write_text(json.dumps({"studies": studies}))
    head, _, *rows = table(kept, "streets | correlations | study")
    assert head == ["net", "objects", "all layers", "x", "y", "z"]
    assert rows == [["a, seed 0", "9", "0.50", "0.25", "0.75", "–"], ["b, seed 0", "9", "0.60", "–", "0.10", "0.20"]]


@pytest.mark.parametrize("kind", ["lengths", "reach"])
@pytest.mark.parametrize("change", [{"by": "seen"}, {"edge": 21}])
def test_studies_of_other_bins_do_not_share_a_table(kept: Path, kind: str, change: dict[str, Any]) -> None:
    def study(label: str, by: str = "size", edge: float = 20) -> dict[str, Any]:
        found = {"objects": 3, "accuracy": 0.5, "reach": 10.0, "low": None, "high": None}
        bins = [{"from": 8, "to": edge, **found}, {"from": edge, "to": 40, **found}]
        return {
            "study": kind.replace("lengths", "objects"), "of": "study", "variant": label, "seed": 1, "by": by,
            "bins": bins, "receptive_field": 115, "correlation": {"reach": {"rho": None}},
        }  # fmt: skip

    path = kept / "streets.json"
    path.write_text(json.dumps({"studies": [study("a"), study("b")]}))
    assert len(table(kept, f"streets | {kind} | study")) == 4
    path.write_text(json.dumps({"studies": [study("a"), study("b"), study("c", **change)]}))
    with pytest.raises(DataError, match="the bins of a, seed 1 and c, seed 1 differ"):
        table(kept, f"streets | {kind} | study")


def test_a_study_without_objects_has_no_classes(kept: Path) -> None:
    study = {"study": "objects", "of": "study", "variant": "a", "seed": 0, "by": "size", "classes": []}
    (kept / "streets.json").write_text(json.dumps({"studies": [study]}))
    head, _ = table(kept, "streets | object_classes | study")
    assert head == ["class", "objects", "size, px", "accuracy", "rank correlation within"]


def test_a_folder_without_such_sweeps_has_none(tmp_path: Path) -> None:
    assert read_sweeps(tmp_path, "camvid") == {}


def test_kept_runs_say_what_the_runs_said_and_others_join_them(write_run: Callable[..., Path], tmp_path: Path) -> None:
    """The same document, interval and all, without the pictures; a seed that is run elsewhere is counted with them."""
    for seed in (0, 1):
        for label, miou in (("deformable", 0.9), ("dilated 2", 0.7)):
            more = {"per_image": per_image([miou, miou + 0.01 * seed]), "sampling": []}
            folder = write_run(f"here/creatures/{label},{seed}", result(label, seed, miou, **more))
            rows = [{"image": "a", "length": 20.5, "dilation": {"x": 1.5, "y": 2.5}}]
            facts = {"schema": 1, "variant": label, "seed": seed, "by": "length"}
            (folder / "study").mkdir()
            (folder / "study" / "objects.json").write_text(json.dumps({**facts, "objects": rows}))
    write_run("here/creatures/running", None, state="running", step=3)
    sweeps = read_sweeps(tmp_path / "runs" / "here", "creatures")
    kept = tmp_path / "kept"
    written = keep(sweeps, kept)
    assert len(written) == 8
    assert not any("sampling" in path.read_text() for path in written)
    again = evidence(read_sweeps(kept, "creatures"), "creatures")
    before = evidence({"creatures": [run for run in sweeps["creatures"] if run.result]}, "creatures")
    assert again["sweeps"] == before["sweeps"]
    points = {study["variant"]: study.get("points") for study in again["studies"]}
    assert points == {"deformable": [[20.5, 2.0]], "dilated 2": None}
    write_run("there/creatures/deformable,2", result("deformable", 2, 0.95, per_image=per_image([0.9, 0.9])))
    keep(read_sweeps(tmp_path / "runs" / "there", "creatures"), kept)
    assert keep(read_sweeps(kept, "creatures"), tmp_path / "copy"), "a kept run is a run"
    joined = evidence(read_sweeps(kept, "creatures"), "creatures")["sweeps"]["creatures"]["variants"]
    assert [variant["miou"]["n"] for variant in joined] == [2, 3]
    assert joined[1]["difference"]["low"] > 0.1


def test_the_loss_of_a_training_is_kept_by_tenths(write_run: Callable[..., Path], tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = write_run(f"creatures/{seed}", result("dilated 2", seed, 0.7))
        rows = [{"kind": "train", "step": step, "loss": 100.0 - step + seed} for step in range(5, 101, 5)]
        skipped = [{"kind": "skipped", "step": 7, "loss": "nan"}, {"kind": "train", "step": 100, "loss": None}]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + skipped))
    short = write_run("creatures/2", result("dilated 4", 0, 0.7))
    (short / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 3, "loss": 1.0}) + "\n")
    keep(read_sweeps(tmp_path / "runs", "creatures"), tmp_path / "kept")
    document = evidence(read_sweeps(tmp_path / "kept", "creatures"), "creatures")
    runs = document["sweeps"]["creatures"]["runs"]
    assert runs[0]["loss_by_tenth"] == pytest.approx([92.5 - 10 * tenth for tenth in range(10)])
    assert "loss_by_tenth" not in runs[2]
    write(document, tmp_path / "creatures.json")
    means = [f"{93 - 10 * tenth:.3f}" for tenth in range(10)]  # of two seeds
    assert table(tmp_path, "creatures | losses | creatures")[2:] == [["dilated 2", *means]]


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_the_published_tables_are_those_of_the_kept_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(MARKED.findall(text)) >= 10
    beside = os.path.relpath(ROOT / "docs" / "results", page.parent)
    assert fill(text, ROOT / "benchmarks" / "results", beside) == text, "run python scripts/evidence.py"


@pytest.mark.parametrize("name", ["creatures", "car_parts", "camvid", "msrc21"])
def test_published_results_can_be_made_of_the_runs_that_are_kept(name: str) -> None:
    """Which lie in the repository, every one of them."""
    results = ROOT / "benchmarks" / "results"
    published = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["sweeps"]
    kept = read_sweeps(results / "runs", name)
    assert {sweep: [(run.name, run.result and run.result.miou) for run in runs] for sweep, runs in kept.items()} == {
        sweep: [(run["run"], run["miou"]) for run in found["runs"]] for sweep, found in published.items()
    }


def test_the_pages_that_are_filled_are_those_with_results() -> None:
    pages = OmegaConf.load(ROOT / "conf" / "evidence.yaml").pages
    assert sorted(ROOT / page for page in pages) == sorted(RESULTS)


def test_the_pages_show_the_charts_that_are_there_and_those_alone() -> None:
    pages = [ROOT / "README.md", *RESULTS]
    shown = [(page, re.findall(r'src(?:set)?="(.*?)"', page.read_text(encoding="utf-8"))) for page in pages]
    paths = {page.parent / name for page, names in shown for name in names}
    assert not [path for path in paths if not path.is_file()]
    assert set((ROOT / "docs" / "results").glob("*.png")) <= paths
