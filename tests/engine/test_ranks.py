"""Two processes on one run: the same numbers as one, and a clear end when one of them dies."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from seg.engine import RunFolder, Runtime, checkpoint, ranks, sgd
from seg.engine.launch import launch
from seg.engine.ranks import Ranks
from seg.errors import ConfigError, Preempted, RunError
from seg.models import ASPPv3, DeepLab, Dilated, tiny
from seg.models.block import FrozenNorm
from tests.engine.two_ranks import (
    IMAGES,
    Stopped,
    Struck,
    aborting,
    evaluation_of,
    evaluation_struck,
    hung,
    net,
    struck,
    train,
    two_ranks,
    weights,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The started processes take over the search path, and find what they run there."""
    root = str(ROOT)
    sys.path.insert(0, root)
    yield
    sys.path.remove(root)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("ranks")
    launch(two_ranks, folder, count=2)
    return folder, torch.load(folder / "results.pt")


def test_two_ranks_train_as_one_process_with_the_same_batches(shared: tuple[Path, dict], tmp_path: Path) -> None:
    _, results = shared
    alone = weights(train(tmp_path, Ranks()))
    assert (alone - weights(net(0.0))).abs().max() > 0.01
    assert (alone - results["equal"]).abs().max() < 1e-10


@pytest.mark.fault(53)
def test_fault_53_two_ranks_resume_bit_for_bit_at_an_epochs_end_and_inside_it(shared: tuple[Path, dict]) -> None:
    _, results = shared  # stopped after 4, 6 and 8 batches; an epoch has 3
    assert torch.equal(results["whole"], results["parts"])


@pytest.mark.fault(54)
def test_fault_54_another_number_of_ranks_goes_on_and_says_so(
    shared: tuple[Path, dict], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder, results = shared
    (folder / "equal" / "checkpoints" / "step_00000007.pt").unlink()
    assert (weights(train(folder / "equal", Ranks())) - results["equal"]).abs().max() < 1e-10
    assert "written by 2 processes and goes on with 1" in capsys.readouterr().out


@pytest.mark.fault(62)
def test_fault_62_two_ranks_count_as_one_process_where_images_do_not_divide(shared: tuple[Path, dict]) -> None:
    _, results = shared
    alone = evaluation_of(Ranks())
    assert torch.equal(results["counts"], torch.stack([alone.confusion.counts, *[c.counts for c in alone.by_size]]))
    assert results["names"] == alone.names == [str(i) for i in range(IMAGES)]
    assert torch.equal(results["per_image"], torch.stack(alone.per_image))


def test_all_ranks_evaluate_the_net_that_was_saved(shared: tuple[Path, dict]) -> None:
    folder, results = shared
    statistics = results["statistics"]
    assert torch.equal(statistics[0], statistics[1]), "each rank's batch norm saw its own part of the batches"
    state = torch.load(folder / "normed" / "checkpoints" / "step_00000007.pt")["average"]
    saved = [state[name] for name in state if "running" in name or "tracked" in name]
    assert torch.equal(statistics[0], torch.cat([value.flatten() for value in saved]))


def test_a_run_of_two_ranks_writes_each_record_once(shared: tuple[Path, dict]) -> None:
    steps = [record["step"] for record in RunFolder(shared[0] / "whole").read_metrics()]
    assert steps == list(range(1, 8))


def test_a_dead_rank_ends_the_job_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"(rank 1 died \(SIGKILL\)|rank 0 of 2 lost the others).*same command again"):
        launch(struck, tmp_path, Struck, count=2)


def test_a_hanging_rank_ends_the_job_with_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seg.engine.launch.PATIENCE", 1.0)
    before = multiprocessing.active_children()  # a loader's workers of another test, if it was not collected yet
    with pytest.raises(RunError, match=r"rank 0 of 2 lost the others .*same command again"):
        launch(hung, tmp_path, count=2)
    assert not set(multiprocessing.active_children()) - set(before)


def test_a_rank_that_is_done_ends_before_torchs_threads_can_abort_it(tmp_path: Path) -> None:
    launch(aborting, tmp_path, count=1)


@pytest.mark.parametrize("code, override", [(0, "--cfg=job"), (2, "colour=red"), (3, "data.root=nowhere")])
def test_a_command_that_is_a_rank_ends_so_too(code: int, override: str, tmp_path: Path) -> None:
    of_torchrun = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    train = str(ROOT / "scripts" / "train.py")
    start = f"import atexit, os, runpy; atexit.register(os.abort); runpy.run_path({train!r}, None, '__main__')"
    done = subprocess.run(
        [sys.executable, "-c", start, "data=voc", override],
        cwd=tmp_path,
        env=os.environ | of_torchrun | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'scripts'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr


def processes_of(session: int) -> list[int]:
    """Every process of a session, and so of a job that was started in one of its own."""
    stats = [path.read_text().rpartition(")") for path in Path("/proc").glob("[0-9]*/stat")]
    return [int(head.split()[0]) for head, _, tail in stats if int(tail.split()[3]) == session]


@pytest.mark.fault(56)
def test_fault_56_a_signal_to_the_starter_or_to_all_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable, "scripts/train.py", "trainer.devices=2", f"run={tmp_path}", f"hydra.run.dir={tmp_path}",
        "++data.train.images=8", "data.batch_size=2", "data.train_transform.crop=[32,32]", "head.hidden=8",
        "trainer.iterations=20000", "trainer.log_every=1", "evaluate=false", "data.workers=1",
    ]  # fmt: skip
    folder, steps = RunFolder(tmp_path), [0]
    for number, reach in ((signal.SIGTERM, lambda pid: [pid]), (signal.SIGINT, processes_of)):
        with subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as job:
            while job.poll() is None and (folder.read_metrics() or [{"step": 0}])[-1]["step"] < steps[-1] + 2:
                time.sleep(0.05)
            for pid in reach(job.pid):
                os.kill(pid, number)
            errors = job.communicate()[1]
        assert job.returncode == 75, errors
        told = re.findall(r"^stopped by a signal at step (\d+); run the same command again", errors, re.MULTILINE)
        assert len(told) == 1, errors
        assert folder.status()["state"] == "preempted"
        assert checkpoint.list_checkpoints(folder.checkpoints)[0].name == f"step_{int(told[0]):08d}.pt"
        steps.append(int(told[0]))
    assert 0 < steps[1] < steps[2]
    assert [record["step"] for record in folder.read_metrics()] == list(range(1, steps[2] + 1))


@pytest.mark.fault(56)
def test_fault_56_a_signal_to_one_rank_saves_and_ends_all(tmp_path: Path) -> None:
    with pytest.raises(Preempted, match="step 3"):
        launch(struck, tmp_path, Stopped, count=2)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == ["step_00000003.pt"]


@pytest.mark.fault(56)
def test_fault_56_a_signal_to_one_rank_ends_an_evaluation_of_all(tmp_path: Path) -> None:
    with pytest.raises(Preempted, match="while evaluating"):
        launch(evaluation_struck, tmp_path, count=2)


def test_a_batch_that_can_not_be_divided_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.batch_size is 5, shared by 2"):
        Ranks(0, 2).share(5)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_on_gpus_alone_trained_norms_are_synchronized_and_frozen_ones_stay(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed to DistributedDataParallel, which itself would ask for the GPUs and for the other ranks."""
    monkeypatch.setattr(ranks, "DistributedDataParallel", lambda model, **options: model)
    runtime = Runtime(device="cpu")
    runtime.device = torch.device(device)
    model = DeepLab(tiny(Dilated, norm="frozen"), 5, head=ASPPv3)
    optimizer, before = sgd(model, lr=0.1), {name: value.clone() for name, value in model.state_dict().items()}
    kinds = [type(module) for module in model.modules()]

    synchronized = Ranks(0, 2).parallel(model, runtime)

    norm = nn.SyncBatchNorm if device == "cuda" else nn.BatchNorm2d
    assert kinds.count(nn.BatchNorm2d) == 7
    assert [type(m) for m in synchronized.modules()] == [norm if k is nn.BatchNorm2d else k for k in kinds]
    frozen = [module for module in synchronized.modules() if type(module) is FrozenNorm]
    assert len(frozen) > 10
    assert not any(parameter.requires_grad for module in frozen for parameter in module.parameters())
    after = synchronized.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    stepped = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert stepped == {id(parameter) for parameter in synchronized.parameters() if parameter.requires_grad}
