"""Reading run folders: what counts, what is marked, and which errors name which file and key."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seg.errors import ConfigError, DataError
from seg.report.headline import notes
from seg.report.reading import finished, read_result, read_run, read_runs
from seg.report.tables import runs_cell
from seg.report.variants import gather, samples_fixed
from seg.report.write import write_report
from tests.report.conftest import per_image, result

Write = Callable[..., Path]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Any], Any]:
    def read(document: Any) -> Any:
        path = tmp_path / "result.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return read_result(path)

    return read


def test_result_keeps_every_number(read: Callable) -> None:
    found, variant, seed = read(result("deformable 3 layers", 2, 0.75))
    assert (variant, seed, found.miou) == ("deformable 3 layers", 2, 0.75)
    assert found.iou == {"background": 0.9, "red": 0.8, "green": None}
    assert found.cost["parameters"] == 208000
    assert found.effective_dilation[2].mean == 4.5


def test_nan_and_null_and_absence_are_all_no_number(read: Callable) -> None:
    assert read(result("a", miou=float("nan")))[0].miou is None
    assert read(result("a", miou=None))[0].miou is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, ["schema is 2", "reads 1"]),
        ({"miou": "high"}, ["miou", "'high'"]),
        ({"miou": True}, ["miou", "True"]),
        ({"data": {"split": "val"}}, ["data has no name"]),
        ({"data": ["voc"]}, ["data is list"]),
        ({"iou": [0.1]}, ["iou is list"]),
        ({"effective_dilation": [{"size": "small", "mean": 1, "count": 1}]}, ["no 'layer'"]),
        ({"per_image": [{"name": "a", "intersection": [1], "union": [1, 2]}]}, ["per_image", "[1, 2] classes"]),
        ({"examples": [{"name": "a", "image": "../../x.png", "label": "l", "prediction": "p"}]}, ["outside the run"]),
        ({"sampling": [{"name": "a", "object_size": "small", "unit": [1], "points": {}}]}, ["[y, x]"]),
    ],
)
def test_wrong_content_is_named_with_its_file(read: Callable, change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read({**result("a"), **change})
    for word in ["result.json", *words]:
        assert word in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000, "\x00"])
def test_broken_json_names_the_file(read: Callable, text: str) -> None:
    with pytest.raises(DataError, match=r"result\.json"):
        read(text)


def test_images_pair_up_whatever_their_order(read: Callable) -> None:
    rows = per_image([0.1, 0.2, 0.3])
    forward, backward = (read(result("a", per_image=order))[0].images for order in (rows, rows[::-1]))
    assert forward.names == backward.names
    assert (forward.intersection == backward.intersection).all()


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_folder_without_runs_is_an_error_with_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=name):
        read_runs(tmp_path / name)


def test_folder_of_failed_runs_lists_why(write_run: Write) -> None:
    folder = write_run("a", None, state="failed", error="out of memory").parent
    write_run("b", "{", state="done")
    with pytest.raises(DataError, match=r"a: failed \(out of memory\); b: unreadable"):
        finished(read_runs(folder))


def test_broken_result_marks_its_run_and_keeps_the_others(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2")).parent
    write_run("b", '{"schema": 1, "da', variant="dilated 2", seed=1)
    good, bad = read_runs(folder)
    assert (good.state, bad.state, bad.variant, bad.seed) == ("done", "unreadable", "dilated 2", 1)
    assert "b/result.json" in (bad.error or "")


def test_broken_status_marks_its_run(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2"))
    (folder / "status.json").write_text("")
    assert [run.state for run in read_runs(folder.parent)] == ["unreadable"]


def test_result_of_an_unfinished_training_is_not_counted(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2"), state="preempted")
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 300}')
    run = read_runs(folder.parent)[0]
    assert (run.state, run.result) == ("preempted", None)
    assert "step 300" in (run.error or "")
    alone = read_run(folder)  # as it is shown to who evaluated it
    assert (alone.state, alone.result is None) == ("preempted", False)


def test_the_step_of_a_killed_run_is_that_of_its_last_record(write_run: Write) -> None:
    folder = write_run("a", None, state="running")
    write_run("b", result("dilated 2"))
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 40}\n{"kind": "evaluate", "step": 50}\n')
    assert [run.error for run in read_runs(folder.parent) if run.error] == [
        "at step 50: still running, or killed; run it again to resume"
    ]


def test_trained_run_without_result_is_not_evaluated(write_run: Write) -> None:
    assert read_runs(write_run("a", None).parent)[0].state == "not evaluated"


def test_a_folder_that_holds_hydras_alone_is_no_run_and_one_with_checkpoints_is(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2")).parent
    (folder / "b" / ".hydra").mkdir(parents=True)
    (folder / "c" / "checkpoints").mkdir(parents=True)
    assert [(run.name, run.state) for run in read_runs(folder)] == [("a", "done"), ("c", "not evaluated")]


def test_runs_on_other_data_are_marked_not_averaged(write_run: Write) -> None:
    other = {"name": "camvid", "split": "test", "images": 4}
    folder = write_run("a", result("dilated 2")).parent
    write_run("b", result("dilated 2", 1))
    write_run("c", result("dilated 2", 2, data=other))
    runs = read_runs(folder)
    assert [run.state for run in runs] == ["done", "done", "other data"]
    assert "camvid test" in (runs[2].error or "")
    assert runs[2].result is None


def test_runs_of_one_label_and_other_settings_are_told_apart(write_run: Write) -> None:
    """They are no seeds of one net; what seeds of one net may differ in tells nothing."""
    settings = {"optimizer.lr": 0.004, "schedule.iterations": 100, "trainer.iterations": 100, "weights": "a/net.pth"}
    for name, seed, changes in (
        ("a", 0, {"runtime.precision": "bf16"}),
        ("b", 1, {"runtime.precision": "fp32", "weights": "b/net.pth", "trainer.new": 1}),
        ("c", 0, {"optimizer.lr": 0.001, "optimizer.kind": "slow"}),
        ("d", 0, {"optimizer.lr": 0.001, "trainer.iterations": 200, "schedule.iterations": 200}),
    ):
        folder = write_run(name, result("deformable", seed, config={"seed": seed, **settings, **changes}))
    write_run("e", None, state="failed", variant="deformable")
    assert [run.variant for run in read_runs(folder.parent)] == [
        *["deformable, optimizer.lr=0.004, trainer.iterations=100"] * 2,
        "deformable, optimizer.lr=0.001, trainer.iterations=100",
        "deformable, optimizer.lr=0.001, trainer.iterations=200",
        "deformable",
    ]


def test_a_run_that_failed_is_in_the_row_of_its_own_setting(write_run: Write) -> None:
    for name, size in (("a", 2), ("b", 2)):
        folder = write_run(name, result("dilated 2", config={"data.batch_size": size}))
    for name, size in (("c", 1), ("d", 1), ("e", 2)):
        write_run(name, None, state="failed", variant="dilated 2", config={"data.batch_size": size})
    rows = {variant.label: runs_cell(variant).text for variant in gather(read_runs(folder.parent))}
    assert rows == {"dilated 2, data.batch_size=2": "2, 1 failed", "dilated 2, data.batch_size=1": "2 failed"}


def test_runs_that_failed_leave_the_labels_of_runs_like_them(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2", 0, config={"seed": 0, "data.batch_size": 2}))
    write_run("b", None, state="failed", variant="dilated 2", config={"seed": 1, "data.batch_size": 2})
    write_run("c", None, state="failed", variant="dilated 2")
    assert {run.variant for run in read_runs(folder.parent)} == {"dilated 2"}


def test_checkpoints_of_two_runs_make_two_nets_and_one_on_two_machines_makes_one(write_run: Write) -> None:
    for name, start in (("a", "here/wide"), ("b", "there/wide"), ("c", "here/narrow")):
        weights = f"{start}/checkpoints/step_00001000.pt"
        folder = write_run(name, result("deformable", config={"weights": weights}))
    assert [run.variant for run in read_runs(folder.parent)] == [
        *["deformable, weights=wide/checkpoints/step_00001000.pt"] * 2,
        "deformable, weights=narrow/checkpoints/step_00001000.pt",
    ]


def test_results_that_were_measured_differently_are_told_apart(write_run: Write) -> None:
    protocol = (
        "set val, 4 images: one matrix, {}, computed in {}, 255 ignored; object size is that of a box, cut at {} px"
    )
    for name, how in (
        ("a", ("single scale, no flip", "fp32", "32 and 64")),
        ("b", ("single scale, no flip", "bf16", "32 and 64")),
        ("c", ("scales 0.5, 1", "fp32", "32 and 64")),
        ("d", ("single scale, no flip", "fp32", "16 and 64")),
    ):
        folder = write_run(name, result("deformable", protocol=protocol.format(*how)))
    assert [run.variant for run in read_runs(folder.parent)] == [
        *["deformable, single scale, no flip, cut at 32 and 64 px"] * 2,
        "deformable, scales 0.5, 1, cut at 32 and 64 px",
        "deformable, single scale, no flip, cut at 16 and 64 px",
    ]


def test_an_inference_is_told_by_the_protocol_alone(write_run: Write) -> None:
    for name, how, config in (
        ("a", "single scale, no flip", {}),
        ("b", "scales 0.5, 1, no flip", {"inference.scales": [0.5, 1.0], "inference.output_stride": None}),
        ("c", "single scale, no flip, at stride 4", {"inference.scales": [1.0], "inference.output_stride": 4}),
    ):
        folder = write_run(name, result("deformable", protocol=f"set val: {how}", config={"seed": 0, **config}))
    labels = [run.variant for run in read_runs(folder.parent)]
    assert labels == ["deformable, single scale", "deformable, scales 0.5, 1", "deformable, single scale, at stride 4"]


def test_a_broken_file_of_one_run_leaves_the_others(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2"))
    row = {"name": "x", "object_size": "small", "unit": [1, 2], "points": {"first": []}}
    write_run("b", result("dilated 2", sampling=[row]))
    (write_run("c", result("dilated 2")) / "metrics.jsonl").mkdir()
    found = read_runs(folder.parent)
    assert [run.state for run in found] == ["done", "unreadable", "unreadable"]
    assert "a sampling level is 'first'" in (found[1].error or "")
    assert "metrics.jsonl: can't be read" in (found[2].error or "")


def test_settings_that_vary_together_are_told_by_the_first(write_run: Write) -> None:
    for name, target, hidden in (("a", "seg.models.tiny", 128), ("b", "seg.models.resnet50", 256)):
        folder = write_run(name, result("dilated 2", config={"trunk._target_": target, "head.hidden": hidden}))
    assert [run.variant for run in read_runs(folder.parent)] == ["dilated 2, trunk=tiny", "dilated 2, trunk=resnet50"]


def test_the_rate_of_offsets_does_not_tell_nets_without_them_apart(write_run: Write) -> None:
    for kind, label in (("Dilated", "dilated 2"), ("Deform", "deformable")):
        for rate in (0.1, 1.0):
            config = {"conv._target_": f"seg.models.{kind}", "optimizer.offset_lr": rate}
            folder = write_run(f"{kind}{rate}", result(label, config=config))
    labels = {run.variant for run in read_runs(folder.parent)}
    assert labels == {"dilated 2", "deformable, optimizer.offset_lr=0.1", "deformable, optimizer.offset_lr=1.0"}


def test_a_result_without_a_key_does_not_pool_those_that_differ_in_it(write_run: Write) -> None:
    for name, config in (("a", {}), ("b", {"trainer.average": None}), ("c", {"trainer.average": 0.999})):
        folder = write_run(name, result("dilated 2", config={"seed": 0, **config}))
    labels = [run.variant for run in read_runs(folder.parent)]
    assert labels == ["dilated 2", "dilated 2, trainer.average=None", "dilated 2, trainer.average=0.999"]


def test_a_key_that_some_runs_lack_is_noted(write_run: Write) -> None:
    for seed, config in enumerate(({}, {"new": None}, {"data.train.images": 100})):
        folder = write_run(str(seed), result("dilated 2", seed, config={"seed": seed, **config}))
    runs = read_runs(folder.parent)
    assert "Some runs of dilated 2 say data.train.images=100, and others don't say." in notes(runs, gather(runs))


def test_labels_of_two_nets_without_a_configuration_are_no_seeds_of_one(write_run: Write) -> None:
    for name, miou in (("pspnet", 0.6), ("segformer", 0.8)):
        folder = write_run(name, {**result("ids", miou=miou), "seed": None})
    assert [run.variant for run in read_runs(folder.parent)] == ["ids, pspnet", "ids, segformer"]


def test_images_or_classes_of_one_name_are_told_apart(write_run: Write) -> None:
    others = [{**row, "name": f"other {row['name']}"} for row in per_image([0.5] * 4)]
    for name, rows in (("a", per_image([0.5] * 4)), ("b", per_image([0.6] * 4)), ("c", others)):
        folder = write_run(name, result("dilated 2", per_image=rows))
    runs = read_runs(folder.parent)
    assert [run.state for run in runs] == ["done", "done", "other data"]
    assert (
        runs[2].error == "evaluated on other images or classes than the others, though both are called creatures val "
        "(4 images)"
    )
    (folder / "result.json").write_text(json.dumps(result("dilated 2", iou={"road": 0.5})))
    assert [run.state for run in read_runs(folder.parent)] == ["done", "done", "other data"]


def test_what_nets_differ_in_beside_their_convolutions_is_noted(write_run: Write) -> None:
    for label, kind, trunk, weights in (
        ("dilated 2", "Dilated", "18", "a/net.pth"),
        ("x", "Deform", "101", "b/net.pth"),
    ):
        config = {"conv._target_": f"seg.models.{kind}", "trunk._target_": f"seg.models.resnet{trunk}"}
        config |= {"conv.dilation": kind, "trunk.replaced": len(kind), "weights": weights, "seed": 0}
        folder = write_run(label, result(label, config=config))
    runs = read_runs(folder.parent)
    found = notes(runs, gather(runs))
    assert "The variants differ in more than their convolutions: trunk=resnet18 or trunk=resnet101." in found
    assert "Weights called net.pth come from a/net.pth, b/net.pth; they are taken for one file." in found


def test_a_net_is_fixed_or_adapts_by_its_configuration_whatever_its_label(write_run: Write) -> None:
    spread = result("x")["effective_dilation"]
    for label, kind, rows in (
        ("baseline", "Dilated", []), ("dilateddeform 3 layers", "DilatedDeform", spread), ("dilated by 2", "Deform", [])
    ):  # fmt: skip
        config = {"conv._target_": f"seg.models.{kind}"}
        folder = write_run(label, result(label, config=config, effective_dilation=rows))
    adapts = {variant.label: variant.adapts for variant in gather(read_runs(folder.parent))}
    assert adapts == {"baseline": False, "dilateddeform 3 layers": True, "dilated by 2": True}
    studies = [{"variant": "baseline", "conv": "Dilated"}, {"variant": "dilated by 2", "conv": "Deform"}]
    assert [samples_fixed(study) for study in studies] == [True, False]
    assert [samples_fixed({"variant": label}) for label in ("baseline", "dilated 2")] == [False, True], "by the label"


def test_a_run_has_one_alarm_however_many_layers_explode(write_run: Write) -> None:
    folder = write_run("a", result("deformable"))
    offsets = {f"layer{k}": {"mean": 1e300, "max": 1e300} for k in range(30)}
    (folder / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 20, "offset": offsets}))
    runs = read_runs(folder.parent)
    (alarm,) = [note for note in notes(runs, gather(runs)) if "explode" in note]
    said = "the offsets of layer0 explode: mean 1e+300, largest 1e+300 cells at step 20 (and of 29 more layers)"
    assert alarm == f"deformable, seed 0: {said}."


def test_copies_of_one_run_are_noted(write_run: Write) -> None:
    for name in "ab":
        folder = write_run(name, result("dilated 2"))
    runs = read_runs(folder.parent)
    assert "dilated 2 has several runs of seed 0: its ± is not that of as many seeds." in notes(runs, gather(runs))
    assert not any("several runs" in note for note in notes(runs[:1], gather(runs[:1])))


def test_runs_are_left_out_by_the_names_of_their_folders(write_run: Write) -> None:
    for name in ("old/seed=0", "old/seed=1", "seed=0,x=1", "seed=1,x=1"):
        write_run(name, result("dilated 2"))
    folder = write_run("seed=1,x=12", result("dilated 2")).parent

    def left(*patterns: str) -> list[str]:
        return [run.name for run in read_runs(folder, patterns)]

    assert left("old", "seed=1,x=1") == ["seed=0,x=1", "seed=1,x=12"]
    assert left("*seed=1*") == ["old/seed=0", "seed=0,x=1"]
    with pytest.raises(ConfigError, match="exclude=seed=2: no run is called so; one is called old/seed=0"):
        left("old", "seed=2")
    with pytest.raises(ConfigError, match="no run is left of 5"):
        left("*")


def test_one_run_folder_is_a_sweep_of_one(write_run: Write) -> None:
    folder = write_run("alone", result("dilated 2"))
    assert [run.name for run in read_runs(folder)] == ["alone"]


def test_metrics_line_cut_by_a_kill_is_passed_over(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2"))
    (folder / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 2.5}\n{"kind": "train", "st')
    assert read_runs(folder)[0].training == ({"kind": "train", "step": 1, "loss": 2.5},)


@pytest.mark.parametrize(
    "changes",
    [
        {"per_image": [{"name": "a", "intersection": [float("nan")], "union": [3]}]},
        {"per_image": [{"name": "a", "intersection": [1], "union": [10**400]}]},
        {"effective_dilation_histogram": [{"layer": "a", "size": "small", "edges": [0, float("inf")], "counts": [1]}]},
        {"sampling": [{"name": "a", "object_size": "small", "unit": [1, 2], "points": {"\u00b2": [1, 2]}}]},
    ],
)
def test_numbers_that_are_none_mark_their_run_and_leave_the_others(write_run: Write, changes: dict[str, Any]) -> None:
    folder = write_run("good", result("dilated 2")).parent
    write_run("bad", result("deformable 3 layers", **changes))
    states = {run.name: run.state for run in read_runs(folder)}
    assert states == {"good": "done", "bad": "unreadable"}


def test_text_that_no_file_holds_is_shown_with_a_question_mark(write_run: Write, tmp_path: Path) -> None:
    folder = write_run(b"caf\xe9".decode(errors="surrogateescape"), result("net \ud800", miou=10**400)).parent
    write_run("b", result("dilated 2", data={"name": "creatures", "split": "val", "images": float("nan")}))
    write_run("c", result("dilated 2", data={"name": "creatures", "split": "val", "images": None}))
    assert "net ?" in write_report(folder, tmp_path / "page").read_text()


def test_seeds_that_predict_other_classes_are_of_one_net(write_run: Write) -> None:
    for seed, classes in enumerate(("3 classes", "2 of 3 classes", "3 classes")):
        protocol = f"creatures val: one confusion matrix, mIoU over {classes}; object size is a side"
        folder = write_run(f"run{seed}", result("dilated 2", seed, protocol=protocol)).parent
    variants = gather(read_runs(folder))
    assert [(variant.label, variant.miou.n) for variant in variants] == [("dilated 2", 3)]
