"""What a run survives that comes from outside: other weights, no memory, a moved clock, secrets, other folders."""

import json
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import nn

from seg.analysis import offset_statistics
from seg.data import Creatures, evaluation_transform, train_loader
from seg.data.sample import Batch
from seg.engine import RunFolder, Runtime, Schedule, Trainer, evaluate, sgd
from seg.engine.resume import check_config
from seg.errors import ConfigError, Preempted, RunError
from seg.models import Deform

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import command  # noqa: E402
import training  # noqa: E402
from arguments import misused  # noqa: E402
from run import comparable  # noqa: E402
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


def train(folder: Path, model: nn.Module, iterations: int = 1, **keywords: Any) -> None:
    Trainer(iterations=iterations).train(
        model,
        OneBatch(),
        sgd(model, lr=0.1),
        Schedule(iterations),
        folder=RunFolder(folder),
        runtime=Runtime(device="cpu", precision="fp32"),
        config={},
        **keywords,
    )


@pytest.mark.fault(4)
def test_fault_04_offsets_that_are_no_numbers_are_told_with_the_layers_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Deform(4, 2))
    nn.init.constant_(model[1].offset.bias, torch.nan)
    train(tmp_path, model, observe=offset_statistics)
    assert "the offsets of 1 explode: mean nan, largest nan cells at step 1" in capsys.readouterr().err


@pytest.mark.fault(52)
def test_fault_52_a_checkpoint_of_another_net_is_refused_with_the_keys(tmp_path: Path) -> None:
    train(tmp_path, nn.Sequential(nn.Conv2d(3, 2, 1)))
    with pytest.raises(ConfigError, match=r"(?s)another model.*0\.weight"):
        train(tmp_path, nn.Sequential(nn.Conv2d(3, 5, 1)), iterations=2)


@pytest.mark.fault(54)
def test_fault_54_another_batch_size_is_refused_by_its_key(tmp_path: Path) -> None:
    before, now = (comparable(configuration(tmp_path, f"data.batch_size={size}")) for size in (2, 4))
    with pytest.raises(ConfigError, match="data.batch_size: 2 in the checkpoint, 4 now"):
        check_config(before, now)


@pytest.mark.fault(58)
def test_fault_58_out_of_memory_is_told_with_the_knobs_and_the_sweep_goes_on(tmp_path: Path) -> None:
    """The first run's crops would take 120 GB each."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/train.py"), "-m", *TINY, "evaluate=false", "runtime.threads=1",
         f"hydra.sweep.dir={tmp_path}", "data.train_transform.crop=[200000,200000],[32,32]"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "error: out of memory" in done.stderr
    assert "use a smaller data.batch_size with a larger trainer.accumulate" in done.stderr
    assert "Traceback" not in done.stderr
    states = {path.parent.name: json.loads(path.read_text())["state"] for path in tmp_path.rglob("status.json")}
    assert [states[name] for name in sorted(states, key=len)] == ["done", "failed"]


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RunError(
            "rank 1: Traceback (most recent call last):\n  ...\ntorch.OutOfMemoryError: CUDA out of memory. Tried"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_fault_58_memory_is_short_whoever_says_so(error: Exception, capsys: pytest.CaptureFixture) -> None:
    command._tell(error)
    told = capsys.readouterr().err
    assert re.match(r"error: out of memory \(.*(CUDA out of memory|CUBLAS|MemoryError).*\); use a smaller data", told)
    assert told.count("\n") == 1


def test_a_preempted_job_asks_slurm_to_queue_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
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
    monkeypatch.setenv("RANK", "1")
    command._job(run)(DictConfig({}))  # the other ranks end in peace: a failure of theirs could end the first
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Preempted):
        command._job(run)(DictConfig({}))
    assert asked.read_text() == "requeue 12\n"
    assert "queue it by hand: scontrol requeue 12" in capsys.readouterr().err


@pytest.mark.fault(58)
def test_fault_58_a_failed_job_leaves_its_memory_to_the_next_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Hydra keeps each job's error until the end, and with it the frames that held the nets."""
    nets: list[weakref.ref] = []
    alive = []

    def run(config: DictConfig) -> None:
        alive.append([one() is not None for one in nets])
        net = nn.Linear(2, 2)
        nets.append(weakref.ref(net))
        try:
            net(torch.ones(3))
        except RuntimeError as error:
            raise RunError(f"job {config.seed}") from error

    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1,2", f"hydra.sweep.dir={tmp_path}"])
    for name in ("PYTHONPATH", "HYDRA_FULL_ERROR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as ended:
        command.command("train")(run)()
    assert ended.value.code == 1
    assert alive == [[], [False], [False, False]]
    assert re.findall(r"error: job \d", capsys.readouterr().err) == ["error: job 0", "error: job 1", "error: job 2"]


@pytest.mark.timeout(120)
def test_a_sweep_whose_data_are_not_there_tells_of_each_job_and_ends(tmp_path: Path) -> None:
    """The error of such data and Hydra's own name each other as their context."""
    given = ["-m", "data=voc", "data.root=/nowhere", "seed=0,1", f"hydra.sweep.dir={tmp_path}"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *given], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 3
    assert done.stderr.count("error: root=/nowhere: no such folder") == 2


@pytest.mark.parametrize(
    "place", [{"WORLD_SIZE": "2", "RANK": "1"}, {"SEG_RANKS": "slurm", "SLURM_STEP_NUM_TASKS": "8"}]
)
def test_a_sweep_is_not_started_by_each_rank_of_a_run(place: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert misused(["-m", "seed=0,1"], "train") is None
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert "leave out -m" in (misused(["-m", "seed=0,1"], "train") or "")
    assert misused(["seed=0"], "train") is None


def test_the_ranks_of_a_run_that_was_killed_leave_word_that_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(function: Any, config: DictConfig, *, count: int) -> None:
        RunFolder(config.run).write_status("running")
        raise RunError(f"rank 0 of {count} died (SIGKILL)")

    monkeypatch.setattr(training, "launch", killed)
    with pytest.raises(RunError, match="rank 0 of 2 died"):
        train_run(configuration(tmp_path, "trainer.devices=2"))
    status = RunFolder(tmp_path).status()
    assert (status["state"], status["error"]) == ("failed", "RunError: rank 0 of 2 died (SIGKILL)")


@pytest.mark.parametrize("launcher, device", [("joblib", "cuda:1"), ("basic", "auto")])
def test_jobs_that_share_a_host_take_its_gpus_by_turns(
    launcher: str, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra sweep")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = [f"hydra/launcher={launcher}", "hydra.job.num=4", "hydra.job.id=4"]
        config = compose("train", given, return_hydra_config=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: config.hydra)
    assert training._device(config) == device
    config.runtime.device = "cuda:2"
    assert training._device(config) == "cuda:2"


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


@pytest.mark.fault(74)
def test_fault_74_a_run_opens_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    train_run(configuration(tmp_path, "evaluate=true"))
    assert (tmp_path / "result.json").is_file()


@pytest.mark.fault(79)
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("method, workers", [("fork", (os.cpu_count() or 1) + 1), ("spawn", 1)])
def test_fault_79_workers_beyond_the_cores_and_spawned_ones_read_the_same_batches(
    method: str, workers: int, start_method: Callable[[str], None]
) -> None:
    data = Creatures("train", images=8)
    expected = list(train_loader(data, evaluation_transform(), batch_size=2).epoch(0))
    start_method(method)
    loader = train_loader(data, evaluation_transform(), batch_size=2, workers=workers)
    assert len(expected) == 4
    for ours, theirs in zip(expected, loader.epoch(0), strict=True):
        assert torch.equal(ours.image, theirs.image)
        assert torch.equal(ours.label, theirs.label)
    assert {worker._popen.method for worker in loader._loader._iterator._workers} == {method}  # type: ignore[union-attr]


@pytest.fixture
def start_method() -> Iterator[Callable[[str], None]]:
    """Choose how processes are started, until the test is over."""
    before = multiprocessing.get_start_method()
    yield lambda method: multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_start_method(before, force=True)


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
