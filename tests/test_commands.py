"""The commands as a user runs them, on small data: train, resume, evaluate, predict, report, sweep."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seg.data import CamVid, Creatures
from seg.engine import RunFolder
from seg.models import Dilated, tiny

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared" / "data"
SMALL = [
    "++data.train.images=16",
    "++data.evaluate.images=6",
    "data.batch_size=4",
    "head.hidden=16",
    "runtime.threads=1",
    "runtime.precision=fp32",
]
real = pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real images of {SHARED} are not here")


def run(script: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / script), *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )


def succeed(script: str, *arguments: str) -> str:
    done = run(script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "deform"
    succeed("train.py", *SMALL, "trainer.iterations=3", "trainer.log_every=1", f"run={folder}")
    return folder


def test_a_trained_run_holds_what_the_contract_says(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    assert result["schema"] == 1
    assert result["data"] == {"name": "creatures", "split": "val", "images": 6}
    assert 0 <= result["miou"] <= 1
    assert set(result["iou_by_size"]) == {"small", "medium", "large", "background"}
    assert {row["layer"] for row in result["effective_dilation"]} == {f"layer4.{block}.conv2" for block in range(3)}
    assert result["cost"]["parameters"] > 0
    assert result["cost"]["flops"] > 0
    assert json.loads((trained / "status.json").read_text())["state"] == "done"
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3]
    assert set(records[0]["offset"]["layer4.0.conv2"]) == {"mean", "max"}
    assert (trained / ".hydra" / "config.yaml").exists()


@pytest.mark.fault(75)
def test_fault_75_a_log_without_a_terminal_is_plain_lines(tmp_path: Path) -> None:
    output = succeed("train.py", *SMALL, "trainer.iterations=1", "evaluate=false", f"hydra.run.dir={tmp_path}")
    assert "training 1/1" in output
    assert f"next:\n  python scripts/evaluate.py run={tmp_path}\n" in output
    assert not re.search("[\r\x1b]", output)


def test_the_same_command_again_says_that_it_is_done(trained: Path) -> None:
    arguments = [*SMALL, "trainer.iterations=3", "trainer.log_every=1", f"hydra.run.dir={trained}"]
    again = succeed("train.py", *arguments, "data.root=elsewhere")
    assert "done already" in again
    assert "its data were at data.root=None" in again
    nowhere = run("train.py", *arguments, "runtime.device=nowhere")
    assert (nowhere.returncode, "runtime.device is 'nowhere'" in nowhere.stderr) == (2, True)
    longer = run("train.py", *arguments, "trainer.iterations=4")
    assert longer.returncode == 2
    assert "trainer.iterations: 3 in the checkpoint, 4 now" in longer.stderr
    assert "weights=CHECKPOINT begins a new run" in longer.stderr
    changed = run("train.py", *arguments, "conv.offset_dilation=2")
    assert changed.returncode == 2
    assert "conv.offset_dilation: 1 in the checkpoint, 2 now" in changed.stderr


def write_folder(root: Path, brightness: int) -> None:
    """Two images a split, of two classes, whose names are the same whatever they show."""
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True)
        for name in ("a.png", "b.png"):
            Image.new("RGB", (32, 32), (brightness,) * 3).save(root / "images" / split / name)
            Image.new("L", (32, 32)).save(root / "labels" / split / name)
    (root / "classes.txt").write_text("ground\nthing\n")


@pytest.mark.parametrize("steps_before", [1, 2])
def test_other_data_in_a_runs_folder_are_refused_and_moved_ones_are_not(tmp_path: Path, steps_before: int) -> None:
    write_folder(tmp_path / "data", 10)
    write_folder(tmp_path / "other", 11)
    given = (
        "train.py", "data=folder", "evaluate=false", "head.hidden=8", "data.batch_size=2", "data.workers=0",
        "data.train_transform.crop=[32,32]", "trainer.iterations=2", "trainer.save_every=1", f"run={tmp_path / 'run'}",
    )  # fmt: skip
    succeed(*given, f"data.root={tmp_path / 'data'}")
    if steps_before == 1:
        (tmp_path / "run" / "checkpoints" / "step_00000002.pt").unlink()
        (tmp_path / "run" / "status.json").write_text(
            (tmp_path / "run" / "status.json").read_text().replace("done", "preempted")
        )
    other = run(*given, f"data.root={tmp_path / 'other'}")
    assert other.returncode == 2
    assert f"trained on other data, of data.root={tmp_path / 'data'}" in other.stderr
    assert "give data.name=NAME or run=FOLDER" in other.stderr
    (tmp_path / "data").rename(tmp_path / "moved")
    said = succeed(*given, f"data.root={tmp_path / 'moved'}")
    assert ("going on from step 1" if steps_before == 1 else "done already") in said


def test_evaluating_again_gives_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    before = json.loads((trained / "result.json").read_text())
    table = succeed("evaluate.py", f"run={trained}", f"output={tmp_path}")
    after = json.loads((tmp_path / "result.json").read_text())
    for key in ("miou", "iou", "per_image", "effective_dilation", "protocol"):
        assert before[key] == after[key], key
    assert f"{after['miou']:.3f}" in table
    for name, value in after["iou"].items():
        assert re.search(rf"^{name} +{value:.3f}$" if value is not None else rf"^{name} ", table, re.MULTILINE)
    assert re.search(r"^layer +small +medium +large +background$", table, re.MULTILINE)
    assert f"all of it is in {tmp_path / 'result.json'}" in table


def test_another_evaluation_does_not_take_the_place_of_a_runs_own(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = (folder / "result.json").read_text()
    for given in (["inference.flip=true"], ["data.evaluate_transform.resize=200"], ["++data.evaluate.images=3"]):
        done = run("evaluate.py", f"run={folder}", "examples=0", *given)
        assert done.returncode == 2
        assert "result.json would be lost, which is of another evaluation" in done.stderr
        assert "give output=FOLDER for it" in done.stderr
        assert "computed in" not in done.stderr, "what is no reason"
    assert (folder / "result.json").read_text() == before
    assert "note" not in succeed("evaluate.py", f"run={folder}", "examples=0")
    said = succeed("evaluate.py", f"run={folder}", "examples=0", "runtime.precision=bf16")
    assert "result.json was computed in fp32; this evaluation, in bf16, takes its place" in said
    after = json.loads((folder / "result.json").read_text())
    assert (after["precision"], json.loads(before)["precision"]) == ("bf16", "fp32")


def test_weights_are_evaluated_as_they_are_in_a_run_of_no_steps(trained: Path, tmp_path: Path) -> None:
    weights = trained / "checkpoints" / "step_00000003.pt"
    arguments = [*SMALL, f"weights={weights}", "trainer.iterations=0", f"hydra.run.dir={tmp_path}"]
    said = succeed("train.py", *arguments)
    before, after = (json.loads((folder / "result.json").read_text()) for folder in (trained, tmp_path))
    for key in ("miou", "iou", "per_image", "effective_dilation"):
        assert before[key] == after[key], key
    assert after["budget"] == "0 steps of batch 4"
    assert "missing" not in said
    assert "done already" in succeed("train.py", *arguments)
    assert "deformable 3 layers" in succeed("report.py", f"runs={tmp_path}")


def test_a_net_with_random_layers_is_not_evaluated_as_it_is(trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "checkpoints" / "step_00000003.pt", weights_only=True)["model"]
    no_offsets = {name: value for name, value in state.items() if ".offset." not in name}
    for name, part in (("no_offsets", no_offsets), ("trunk", {n: v for n, v in state.items() if "head" not in n})):
        torch.save(part, tmp_path / f"{name}.pth")
    given = ("train.py", *SMALL, "trainer.iterations=0", f"run={tmp_path / 'run'}")
    for weights, words in (
        ([], "trainer.iterations=0 evaluates weights as they are; give them as weights=FILE"),
        ([f"weights={tmp_path / 'trunk.pth'}"], "trunk.pth lacks head."),
    ):
        done = run(*given, *weights)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
    succeed(*given, f"weights={tmp_path / 'no_offsets.pth'}")  # a deformable net begins as a dilated one


def test_masks_of_0_and_255_do_not_pass_for_perfect(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("background\ncrack\n")
    for kind, value in (("images", 9), ("labels", 0), ("predictions", 0)):
        folder = tmp_path / kind if kind == "predictions" else tmp_path / kind / "val"
        folder.mkdir(parents=True)
        pixels = np.full((20, 20), value, np.uint8)
        if kind == "labels":
            pixels[5:9] = 255
        Image.fromarray(pixels).save(folder / "a.png")
    given = (f"predictions={tmp_path / 'predictions'}", "data=folder", f"data.root={tmp_path}")
    said = succeed("evaluate.py", *given, f"output={tmp_path / 'out'}")
    assert "mIoU is over 1 of 2 classes; neither labelled nor predicted: crack" in said


def test_sampling_points_lie_on_the_picture_whatever_size_the_truth_has(trained: Path, tmp_path: Path) -> None:
    """The picture has 160 px; the net reads 320, and the truth is brought to that or is left."""
    found = []
    for truth in ("original", "resized"):
        output = tmp_path / truth
        succeed(
            "evaluate.py", f"run={trained}", f"output={output}", "examples=1", "data.evaluate_transform.resize=320",
            f"data.evaluate_transform.truth={truth}",
        )  # fmt: skip
        found.append(json.loads((output / "result.json").read_text())["sampling"])
    assert len(found[0]) == len(found[1]) > 1
    for a, b in zip(*found, strict=True):
        assert a["object_size"] == b["object_size"]
        assert a["unit"] == pytest.approx(b["unit"], abs=2)
        points = np.array(a["points"]["1"]), np.array(b["points"]["1"])
        assert np.abs(points[0] - points[1]).max() < 10, "of the same cell, or of the next"
        assert np.abs(points[1].mean(0) - b["unit"]).max() < 16


def test_a_wrong_value_for_a_trained_run_is_named(trained: Path) -> None:
    for name, given, words in (
        ("evaluate.py", "official=no", "official is 'no': expected true or false"),
        ("evaluate.py", "examples=-1", "examples is -1"),
        ("predict.py", "inference.flip=yes", "inference.flip is 'yes': expected true or false"),
        ("predict.py", "inference.window=513", "inference.window is 513"),
        ("predict.py", "opacity=half", "opacity is 'half'"),
    ):
        wanted = ["input=missing.png", "output=missing"] if name == "predict.py" else []
        done = run(name, f"run={trained}", given, *wanted)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr


def test_a_net_reads_images_as_in_training_whatever_set_is_named(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("imagenet_normalization", "caffe_normalization"))
    found = []
    for given in ([], ["data=creatures", "++data.evaluate.images=6"]):
        said = succeed("evaluate.py", f"run={folder}", f"output={tmp_path / 'out'}", "examples=0", *given)
        found.append(json.loads((tmp_path / "out" / "result.json").read_text()))
        assert found[-1]["config"]["data.normalization._target_"] == "seg.data.caffe_normalization"
    assert "note: data.normalization stays seg.data.caffe_normalization" in said
    assert found[0]["per_image"] == found[1]["per_image"]


def test_prediction_has_the_images_own_size_where_the_truth_was_resized(trained: Path, tmp_path: Path) -> None:
    folder, images = tmp_path / "run", tmp_path / "images" / "city"
    shutil.copytree(trained, folder)
    config = folder / "config.yaml"
    config.write_text(
        config.read_text().replace(
            "_target_: seg.data.evaluation_transform\n    resize: null",
            "_target_: seg.data.evaluation_transform\n    resize: 96\n    truth: resized",
        )
    )
    assert "resized" in config.read_text()
    images.mkdir(parents=True)
    Image.fromarray(np.full((50, 70, 3), 90, np.uint8)).save(images / "a.png")
    # the image lies in a folder of its own, as Cityscapes' do
    assert "1 image " in succeed("predict.py", f"run={folder}", f"input={images.parent}", f"output={tmp_path / 'out'}")
    assert Image.open(tmp_path / "out" / "ids" / "city" / "a.png").size == (70, 50)


def test_a_refused_command_leaves_a_finished_run_as_it_is(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    before = (folder / "status.json").read_text()
    done = run("train.py", *SMALL, "trainer.iterations=3", "seed=4", "conv=dilated", f"run={folder}")
    assert done.returncode == 2
    assert "seed: 0 in the checkpoint, 4 now" in done.stderr
    assert (folder / "status.json").read_text() == before
    assert "deformable 3 layers" in succeed("report.py", f"runs={folder}", f"output={tmp_path / 'report'}")


def test_evaluating_a_trained_run_whose_own_evaluation_failed_makes_it_count(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "result.json").unlink()
    (folder / "status.json").write_text(json.dumps({"state": "failed", "error": "out of memory", "seed": 0}))
    assert "0.0" in succeed("evaluate.py", f"run={folder}", "examples=0")
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["seed"], "error" in status) == ("done", 0, False)
    with (folder / ".lock").open("a+") as lock:  # as a run that works here has it
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "status.json").write_text(json.dumps({"state": "running"}))
        RunFolder(folder).mark_done()
        assert RunFolder(folder).status() == {"state": "running"}


def test_starting_over_takes_the_old_result_away(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    succeed("train.py", *SMALL, "trainer.iterations=1", "resume=never", "evaluate=false", f"run={folder}")
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize(
    "given, words",
    [
        ("data.train_transform.flip=no", "flip is 'no': expected true or false"),
        ("evaluate=no", "evaluate is 'no': expected true or false"),
        ("data.batch_size=abc", "data.batch_size is 'abc'"),
        ("data.thresholds=[1]", "data.thresholds is [1]"),
        ("data.thresholds=[64,32]", "data.thresholds is [64, 32]: expected two lengths in px, the smaller one first"),
        ("weights_bgr=maybe", "weights_bgr is 'maybe'"),
        ("trainer.evaluate_every=0", "trainer.evaluate_every is 0; expected at least 1"),
        ("data.size_by=boxes", "data.size_by is 'boxes'"),
        ("data.evaluate_batch_size=0", "data.evaluate_batch_size is 0"),
        ("data.evaluate.split=vall", "vall"),
        ("seed=abc", "seed is 'abc'"),
        ("seed=-1", "seed is -1"),
    ],
)
def test_a_wrong_value_is_named_before_the_training(given: str, words: str, tmp_path: Path) -> None:
    done = run("train.py", *SMALL, "trainer.iterations=3", given, f"run={tmp_path}")
    assert done.returncode in (2, 3)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "training" not in done.stdout


def test_the_number_of_bad_samples_that_are_passed_over_is_an_argument(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (tmp_path / kind / split).mkdir(parents=True)
    for number in range(4):
        Image.new("RGB", (32, 32)).save(tmp_path / "images" / "train" / f"{number}.png")
        Image.new("L", (32, 32), color=0 if number else 200).save(tmp_path / "labels" / "train" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("ground\nthing\n")
    given = (
        "train.py", "data=folder", f"data.root={tmp_path}", "evaluate=false", "head.hidden=8", "trainer.iterations=3",
        "data.batch_size=2", "data.workers=0", "data.train_transform.crop=[32,32]", "data.on_bad_sample=skip",
    )  # fmt: skip
    refused = run(*given, "data.skip_limit=0", f"run={tmp_path / 'a'}")
    assert (refused.returncode, "1 bad sample, data.skip_limit is 0" in refused.stderr) == (3, True), refused.stderr
    assert str(tmp_path / "labels" / "train" / "0.png") in refused.stderr
    said = succeed(*given, "data.skip_limit=1", f"run={tmp_path / 'b'}")
    assert len(re.findall(r"^passed over: .*/labels/train/0.png: ", said, re.MULTILINE)) == 1
    assert f"training passed over 1 bad sample; {tmp_path / 'b' / 'metrics.jsonl'} names them" in said
    evaluation = ("evaluate.py", f"run={tmp_path / 'b'}", "data.evaluate.split=train", "examples=0")
    assert run(*evaluation).returncode == 3, "a score is of all images or none"
    Image.new("L", (32, 32)).save(tmp_path / "labels" / "train" / "0.png")
    succeed(*evaluation)
    (bad,) = json.loads((tmp_path / "b" / "result.json").read_text())["bad_samples"]
    assert f"{tmp_path}/labels/train/0.png: " in bad
    succeed("report.py", f"runs={tmp_path / 'b'}")
    assert f"training passed over bad samples: {bad}" in (tmp_path / "b" / "report" / "summary.md").read_text()


def test_numbers_of_an_unfinished_training_say_so(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "seed=0,variant=deform_3"  # as a sweep names it
    shutil.copytree(trained, folder)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("iterations: 3\n", "iterations: 5\n"))
    said = succeed("evaluate.py", f"run={folder}", f"output={tmp_path / 'early'}", "examples=0")
    assert "is at step 3 of 5; its training is not finished" in said
    early, whole = (json.loads((path / "result.json").read_text()) for path in (tmp_path / "early", trained))
    assert (early["budget"], whole["budget"]) == ("3 of 5 steps of batch 4", "3 steps of batch 4")
    assert "computed in fp32, after 3 of 5 steps, 255 ignored" in early["protocol"]
    assert "steps" not in whole["protocol"]
    assert early["miou"] == whole["miou"]
    (folder / "status.json").write_text('{"state": "preempted"}')
    said = succeed("evaluate.py", f"run={folder}", "examples=0")
    assert re.search(rf"^deformable 3 layers +1 +{early['miou']:.3f} ", said, re.MULTILINE)
    assert "no report counts it before the training is finished; its state is: preempted" in said
    refused = run("report.py", f"runs={folder}", f"output={tmp_path / 'report'}")
    assert "its result.json isn't counted" in refused.stderr


def test_weights_without_a_stage_that_stays_frozen_are_refused(tmp_path: Path) -> None:
    state = {name: value for name, value in tiny(Dilated).state_dict().items() if not name.startswith("layer1.0")}
    torch.save(state, tmp_path / "part.pth")
    given = ("train.py", *SMALL, "trainer.iterations=1", f"weights={tmp_path / 'part.pth'}", "evaluate=false")
    done = run(*given, "+trunk.frozen_stages=2", f"run={tmp_path / 'a'}")
    assert done.returncode == 2
    assert "part.pth lacks layer1.0.conv1.weight, " in done.stderr
    assert ", which trunk.frozen_stages=2 would keep random; give weights that have them, or" in done.stderr
    succeed(*given, f"run={tmp_path / 'b'}")


def test_a_run_is_evaluated_on_the_way_and_stays_the_same(trained: Path, tmp_path: Path) -> None:
    said = succeed(
        "train.py", *SMALL, "trainer.iterations=3", "trainer.log_every=1", "trainer.evaluate_every=1", "trainer.keep=3",
        f"hydra.run.dir={tmp_path / 'run'}",
    )  # fmt: skip
    results = [json.loads((path / "result.json").read_text()) for path in (trained, tmp_path / "run")]
    assert results[0]["per_image"] == results[1]["per_image"]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    looks = [record for record in records if record["kind"] == "evaluate"]
    assert [(look["step"], look["split"]) for look in looks] == [(1, "val"), (2, "val"), (3, "val")]
    assert looks[-1]["miou"] == results[1]["miou"]
    assert f"step 2: miou {looks[1]['miou']:.3f}, split val" in said
    assert f"mIoU {looks[2]['miou']:.3f} on creatures val, 6 images: {tmp_path / 'run' / 'result.json'}" in said
    assert f"next:\n  python scripts/report.py runs={tmp_path / 'run'}\n" in said
    given = (f"run={tmp_path / 'run'}", "examples=0", f"output={tmp_path / 'early'}")
    for chosen in ("1", tmp_path / "run" / "checkpoints" / "step_00000001.pt"):
        assert "note" not in succeed("evaluate.py", *given, f"checkpoint={chosen}")
        early = json.loads((tmp_path / "early" / "result.json").read_text())
        assert (early["miou"], early["budget"]) == (looks[0]["miou"], "1 of 3 steps of batch 4")
        assert early["train_seconds"] < results[1]["train_seconds"]
    for wrong, words in (
        ((given[0], "checkpoint=1"), "give output=FOLDER with checkpoint="),
        ((*given, "checkpoint=7"), "checkpoint=7 is no file and no step that"),
        ((*given, "checkpoint=7"), "which are 1, 2, 3"),
    ):
        refused = run("evaluate.py", *wrong)
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
    (tmp_path / "run" / "checkpoints" / "step_00000003.pt").unlink()
    succeed("evaluate.py", *given)
    assert json.loads((tmp_path / "early" / "result.json").read_text())["miou"] == looks[1]["miou"]


def test_prediction_equals_evaluation_and_its_files_evaluate_to_the_same(trained: Path, tmp_path: Path) -> None:
    data = Creatures("val", images=6)
    images, predictions = tmp_path / "images", tmp_path / "predictions"
    images.mkdir()
    for index, name in enumerate(data.names):
        Image.fromarray(data[index].image).save(images / f"{name}.png")
    succeed("predict.py", f"run={trained}", f"input={images}", f"output={predictions}")
    label = Image.open(predictions / "labels" / "val_00000.png")
    assert label.mode == "P"
    assert np.array(label).max() < 5
    given = (f"predictions={predictions / 'labels'}", "data=creatures", "++data.evaluate.images=6")
    succeed("evaluate.py", *given, f"output={tmp_path / 'out'}")
    ours, theirs = trained / "result.json", tmp_path / "out" / "result.json"
    assert json.loads(ours.read_text())["iou"] == json.loads(theirs.read_text())["iou"]
    assert "not both" in run("evaluate.py", *given, f"run={trained}").stderr


def test_a_folder_of_predictions_stays_as_it_is_and_its_result_is_not_replaced_by_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., tuple[int, str]]
) -> None:
    write_folder(tmp_path / "data", 10)
    monkeypatch.chdir(tmp_path)
    given = ("data=folder", f"data.root={tmp_path / 'data'}")
    truth = tmp_path / "data" / "labels"
    before = sorted(truth.rglob("*"))
    assert command("evaluate", f"predictions={truth / 'val'}", *given)[0] == 0
    assert sorted(truth.rglob("*")) == before
    result = json.loads((tmp_path / "runs" / "predictions" / "val" / "result.json").read_text())
    assert (result["miou"], result["predictions"]) == (1, str(truth / "val"))
    assert command("evaluate", f"predictions={truth / 'val'}", *given)[0] == 0
    shutil.copytree(truth / "val", tmp_path / "val")
    for other in ([f"predictions={tmp_path / 'val'}"], [f"predictions={truth / 'val'}", "data.evaluate.split=train"]):
        code, said = command("evaluate", *other, *given)
        assert (code, "would be lost" in said, "output=FOLDER" in said) == (2, True, True), said
    code, said = command("evaluate", "predictions=missing", *given)
    assert (code, "predictions=missing: no such folder" in said) == (3, True)


def test_a_bad_image_among_good_ones_is_named_and_the_rest_is_labelled(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (50, 37)).save(tmp_path / "images" / "good.png")
    (tmp_path / "images" / "bad.png").write_bytes(b"<html>404</html>")
    done = run("predict.py", f"run={trained}", f"input={tmp_path / 'images'}", f"output={tmp_path / 'out'}")
    assert done.returncode == 3
    assert "bad.png: the file is a web page" in done.stderr
    assert Image.open(tmp_path / "out" / "labels" / "good.png").size == (50, 37)


def test_a_sweep_resumes_what_is_left_and_reports_it(tmp_path: Path) -> None:
    arguments = ["-m", *SMALL, "trainer.iterations=2", "variant=dilated_2,deform_3", f"hydra.sweep.dir={tmp_path}"]
    succeed("train.py", *arguments)
    folders = sorted(path.parent for path in tmp_path.rglob("result.json"))
    assert [json.loads((f / "result.json").read_text())["variant"] for f in folders] == [
        "deformable 3 layers",
        "dilated 2",
    ]
    (folders[1] / "result.json").unlink()
    again = succeed("train.py", *arguments)
    assert again.count("done already") == 1
    assert f"next:\n  python scripts/report.py runs={tmp_path}\n" in again
    assert again.count("going on from step 2") == 1
    table = succeed("report.py", f"runs={tmp_path}", "baseline=deformable 3 layers")
    assert "dilated 2" in table
    assert "vs deformable 3 layers" in table
    page = (tmp_path / "report" / "index.html").read_text()
    assert "deformable 3 layers" in page
    assert "deformable" not in succeed("report.py", f"runs={tmp_path}", "exclude=*variant=deform_3*")


def test_a_command_that_is_refused_leaves_no_folder(tmp_path: Path) -> None:
    done = run("train.py", "data=voc", f"run={tmp_path / 'a b'}")
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "data.root is missing" in done.stderr


def test_a_job_of_a_sweep_that_is_refused_is_told_to_have_failed(tmp_path: Path) -> None:
    done = run("train.py", "-m", "data=voc", "seed=0,1", f"hydra.sweep.dir={tmp_path}/${{data.name}}")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, f"  python scripts/report.py runs={tmp_path / 'voc'}")
    for name in ("data=voc,seed=0", "data=voc,seed=1"):
        status = RunFolder(tmp_path / "voc" / name).status()
        assert status["state"] == "failed"
        assert status["error"] == "ConfigError: data.root is missing; give it as data.root=VALUE"


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_failed_run_does_not_end_the_sweep(tmp_path: Path, launcher: str) -> None:
    if launcher != "basic":
        pytest.importorskip(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher")
    done = run(
        "train.py", "-m", *SMALL, "trainer.iterations=1", "evaluate=false", "optimizer.lr=-1,0.001",
        f"hydra/launcher={launcher}", f"hydra.sweep.dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 2
    if launcher != "submitit_local":  # whose jobs have log files of their own
        assert "error: lr is -1" in done.stderr
    assert "1 of 2 jobs failed; the same command tries them again" in done.stderr
    assert "  optimizer.lr=-1: lr is -1; expected a positive number\n" in done.stderr
    assert done.stderr.endswith(f"next:\n  python scripts/report.py runs={tmp_path}\n")
    statuses = [json.loads(path.read_text()) for path in tmp_path.rglob("status.json")]
    assert sorted(status["state"] for status in statuses) == ["done", "failed"]
    assert "lr is -1" in next(status["error"] for status in statuses if status["state"] == "failed")


@pytest.mark.parametrize(
    "script, words", [("evaluate.py", "give run="), ("predict.py", "run is missing"), ("report.py", "runs is missing")]
)
def test_a_missing_argument_is_named(script: str, words: str) -> None:
    done = run(script)
    assert done.returncode == 2
    assert words in done.stderr


def test_doctor_says_which_operators_run() -> None:
    assert re.search(r"operators on cpu +(compiled|reference)", succeed("doctor.py"))


def test_doctor_shows_why_operators_are_not_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEG_KERNELS", "everything")
    done = run("doctor.py")
    assert done.returncode == 1
    assert re.search(r"operators on cpu +SEG_KERNELS", done.stdout)
    assert "torch" in done.stdout
    assert "Traceback" not in done.stderr


def test_check_data_reads_the_embedded_set() -> None:
    assert "creatures" in succeed("check_data.py", "++data.train.images=4", "++data.evaluate.images=4")


@real
def test_camvid_trains_from_partial_weights_and_evaluates(tmp_path: Path) -> None:
    weights = SHARED / "weights" / "resnet18-imagenet-conv1-layer3.safetensors"
    output = succeed(
        "train.py", "data=camvid", f"data.root={SHARED / 'camvid'}", "trunk=resnet18", "optimizer=sgd",
        f"weights={weights}", "head.hidden=16", "trainer.iterations=2", "data.batch_size=2", "data.workers=0",
        "evaluate=false", "data.train_transform.crop=[96,128]", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    assert re.search(r"missing: .*layer4.0.conv1.weight", output)
    assert CamVid(SHARED / "camvid", "test").classes[0] == "sky"
    table = succeed(
        "evaluate.py", f"run={tmp_path}", "data.evaluate.split=val", "data.evaluate_transform.resize=90", "examples=1"
    )
    assert "deformable 3 layers" in table
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["data"]["images"] == 101
    assert "connected components" in result["protocol"]


@real
def test_car_parts_train_and_measure_dilation_by_object_masks(tmp_path: Path) -> None:
    succeed(
        "train.py", "data=voc", f"data.root={SHARED / 'car-parts'}", "trunk=resnet18", "head.hidden=16",
        "trainer.iterations=2", "data.batch_size=2", "data.workers=0", "data.train_transform.crop=[96,96]",
        "data.evaluate_transform.resize=128", f"hydra.run.dir={tmp_path}",
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["data"]["name"] == "car-parts"
    assert "annotated objects" in result["protocol"]
    rows = [row for row in result["effective_dilation"] if row["count"]]
    assert {row["size"] for row in rows} == {"small", "medium", "large", "background"}


@pytest.mark.fault(56)
def test_fault_56_a_signal_to_all_processes_of_a_sweep_ends_it_with_a_checkpoint(tmp_path: Path) -> None:
    """As a cluster sends it: data workers get it too."""
    arguments = [*SMALL, "trainer.iterations=20000", "variant=dilated_2,dilated_4", f"hydra.sweep.dir={tmp_path}"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *arguments, "trainer.log_every=1", "data.workers=2"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while process.poll() is None and not list(tmp_path.rglob("metrics.jsonl")):
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        errors = process.communicate()[1]
    assert process.returncode == 75, errors
    (status,) = tmp_path.rglob("status.json")
    assert json.loads(status.read_text())["state"] == "preempted"
    assert list(status.parent.glob("checkpoints/step_*.pt"))
