"""The records of a run in a CSV file, and in the programs that show runs, each read back by its own reader."""

import csv
import sys
from pathlib import Path

import pytest

from seg.engine import RunFolder
from seg.engine.trackers import MLflow, TensorBoard, Tracker, WandB
from seg.errors import ConfigError

RECORDS = [
    {"kind": "train", "step": 1, "loss": 2.5, "offset": {"layer4.0.conv2": {"mean": 0.25, "max": 1.5}}},
    {"kind": "skipped", "step": 2, "loss": "nan", "names": ["a", "b,c"]},
    {"kind": "train", "step": 2, "loss": None},
    {"kind": "evaluate", "step": 2, "miou": 0.75},
]


def table(folder: RunFolder) -> list[dict[str, str]]:
    with folder.rows.open(newline="") as file:
        return [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]


def logged(path: Path, *trackers: Tracker, records: list[dict] = RECORDS) -> RunFolder:
    folder = RunFolder(path)
    folder.listeners.extend(trackers)
    for record in records:
        folder.log(record)
    return folder


def test_the_csv_file_has_a_column_for_every_number_of_any_record(tmp_path: Path) -> None:
    assert table(logged(tmp_path)) == [
        {"kind": "train", "step": "1", "loss": "2.5", "offset/layer4.0.conv2/mean": "0.25", "offset/layer4.0.conv2/max": "1.5"},  # noqa: E501
        {"kind": "skipped", "step": "2", "loss": "nan", "names": "a b,c"},
        {"kind": "train", "step": "2"},
        {"kind": "evaluate", "step": "2", "miou": "0.75"},
    ]  # fmt: skip


def test_a_resumed_run_goes_on_in_the_csv_file_where_it_does_in_the_other(tmp_path: Path) -> None:
    folder = logged(tmp_path)
    folder.rows.write_text(folder.rows.read_text() + "train,3,0.")  # a kill cut this line short
    folder.rewind_metrics(1)
    folder.log({"kind": "train", "step": 2, "loss": 2.0})
    assert [(row["step"], row["loss"]) for row in table(folder)] == [("1", "2.5"), ("2", "2.0")]


def test_a_folder_that_another_process_owns_is_not_written_or_shown(tmp_path: Path) -> None:
    folder, seen = RunFolder(tmp_path, owned=False), []
    folder.listeners.append(seen.append)
    folder.log(RECORDS[0])
    assert not seen
    assert not list(tmp_path.iterdir())


def test_tensorboard_shows_a_resumed_run_once(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for records in (RECORDS, [{"kind": "train", "step": 2, "loss": 1.0}]):  # again from step 1's checkpoint
        with TensorBoard(tmp_path, {}) as tracker:
            logged(tmp_path, tracker, records=records)
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 2.5), (2, 1.0)]
    assert [event.value for event in events.Scalars("train/offset/layer4.0.conv2/max")] == [1.5]


def test_mlflow_goes_on_with_the_run_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    for records in (RECORDS, [{"kind": "train", "step": 3, "loss": 1.0}]):
        with MLflow(tmp_path, {"optimizer.lr": 0.1}, experiment="tests") as tracker:
            logged(tmp_path, tracker, records=records)
    client = mlflow.MlflowClient((tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("tests").experiment_id])
    assert run.data.params == {"optimizer.lr": "0.1"}
    assert run.info.status == "FINISHED"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert [(metric.step, metric.value) for metric in losses] == [(1, 2.5), (3, 1.0)]


def test_wandb_writes_below_the_runs_folder_when_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "verysecret" * 4)
    with WandB(tmp_path, {"optimizer.lr": 0.1}, project="tests") as tracker:
        logged(tmp_path, tracker)
    (file,) = tmp_path.rglob("*.wandb")
    assert b"train/loss" in file.read_bytes()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"verysecret" in path.read_bytes()]


@pytest.mark.parametrize("module, make", [("tensorboard", TensorBoard), ("wandb", WandB), ("mlflow", MLflow)])
def test_a_missing_package_is_named_with_its_extra(
    module: str, make: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    choices = {"tensorboard": {}, "wandb": {"project": "tests"}, "mlflow": {"experiment": "tests"}}[module]
    with pytest.raises(ConfigError, match=rf"logger={module} needs {module}.*: scripts/setup.sh {module}$"):
        make(tmp_path, {}, **choices)


def test_a_tracker_that_fails_is_told_of_once_and_does_not_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Lost(Tracker):
        def log(self, record: dict) -> None:
            raise ConnectionError("the server is gone")

        def close(self, *, failed: bool) -> None:
            raise ConnectionError("still")

    with Lost() as tracker:
        folder = logged(tmp_path, tracker)
    assert len(folder.read_metrics()) == len(RECORDS)
    assert capsys.readouterr().err == "Lost shows no more of this run: the server is gone\n"
