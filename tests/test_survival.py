"""What a run survives that comes from outside: other weights, no memory, a moved clock, secrets, other folders."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

from seg.data import Creatures, evaluation_transform, train_loader
from seg.data.sample import Batch
from seg.engine import RunFolder, Runtime, Schedule, Trainer, evaluate, sgd
from seg.errors import ConfigError, Preempted, RunError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import command  # noqa: E402
from training import train_run  # noqa: E402

TINY = [
    "++data.train.images=4",
    "++data.evaluate.images=2",
    "data.batch_size=2",
    "head.hidden=8",
    "trainer.iterations=1",
    "runtime.precision=fp32",
]


def configuration(folder: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", [*TINY, "evaluate=false", "runtime.threads=1", f"run={folder}", *overrides])


class OneBatch:
    def __len__(self) -> int:
        return 1

    def epoch(self, number: int, start: int = 0):
        yield Batch(torch.rand(2, 3, 8, 8), torch.ones(2, 8, 8).long(), torch.zeros(2, 8, 8), ("street_7", "street_8"))


def train(folder: Path, model: nn.Module, iterations: int = 1) -> None:
    Trainer(iterations=iterations).train(
        model,
        OneBatch(),
        sgd(model, lr=0.1),
        Schedule(iterations),
        folder=RunFolder(folder),
        runtime=Runtime(device="cpu", precision="fp32"),
        config={},
    )


@pytest.mark.fault(52)
def test_fault_52_a_checkpoint_of_another_net_is_refused_with_the_keys(tmp_path: Path) -> None:
    train(tmp_path, nn.Sequential(nn.Conv2d(3, 2, 1)))
    with pytest.raises(ConfigError, match=r"(?s)another model.*0\.weight"):
        train(tmp_path, nn.Sequential(nn.Conv2d(3, 5, 1)), iterations=2)


@pytest.mark.fault(58)
def test_fault_58_out_of_memory_is_told_with_the_knobs(capsys: pytest.CaptureFixture[str]) -> None:
    def run(config: DictConfig) -> None:
        torch.empty(2**60)

    with pytest.raises(RuntimeError, match="memory"):
        command._job(run)(DictConfig({}))
    told = capsys.readouterr().err
    assert "out of memory" in told
    assert "data.batch_size" in told
    assert "Traceback" not in told


def test_a_preempted_job_asks_slurm_to_queue_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """scontrol is a stub here that notes what it is asked for."""
    asked, stub = tmp_path / "asked", tmp_path / "scontrol"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "12")

    def run(config: DictConfig) -> None:
        raise Preempted("stopped")

    for wanted in ("0", "1"):  # not in an interactive job, where nobody set it
        monkeypatch.setenv("SEG_REQUEUE", wanted)
        with pytest.raises(Preempted):
            command._job(run)(DictConfig({}))
    assert asked.read_text() == "requeue 12\n"


@pytest.mark.fault(60)
def test_fault_60_durations_do_not_follow_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9, 0, -3600))  # an hour back at every look
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    with RunFolder(tmp_path).running() as folder:
        train(tmp_path, nn.Conv2d(3, 2, 1))
    assert 0 <= folder.status()["seconds"] < 600
    assert 0 <= folder.read_metrics()[-1]["seconds"] < 600


@pytest.mark.fault(67)
def test_fault_67_logits_that_are_not_finite_end_the_evaluation_with_the_images_name() -> None:
    model = nn.Conv2d(3, 2, 1)
    nn.init.constant_(model.bias, torch.nan)
    batches = OneBatch().epoch(0)
    with pytest.raises(RunError, match="logits of street_7, street_8 are not finite"):
        evaluate(
            model, batches, classes=2, thresholds=(4, 8), runtime=Runtime(device="cpu", precision="fp32"), images=2
        )


@pytest.mark.fault(73)
def test_fault_73_secrets_of_the_environment_are_in_no_file_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "verysecret")
    train_run(configuration(tmp_path))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.yaml", "status.json", "metrics.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if b"verysecret" in path.read_bytes()]


@pytest.mark.fault(79)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_fault_79_more_workers_than_cores_read_the_same_batches() -> None:

    data = Creatures("train", images=8)
    counts = (0, (os.cpu_count() or 1) + 1)
    batches = [
        list(train_loader(data, evaluation_transform(), batch_size=2, workers=workers).epoch(0)) for workers in counts
    ]
    assert len(batches[0]) == len(batches[1]) == 4
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.label, theirs.label)


@pytest.mark.fault(76)
def test_fault_76_training_from_a_folder_that_is_read_only_writes_only_the_run(tmp_path: Path) -> None:
    here, run = tmp_path / "here", tmp_path / "run"
    here.mkdir()
    here.chmod(0o555)
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/train.py"), *TINY, "evaluate=false", f"hydra.run.dir={run}"],
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert not list(here.iterdir())
