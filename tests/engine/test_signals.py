"""Signals at bad moments: what was asked for happens, and no file is left half-written."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seg.data.sample import Batch
from seg.engine import RunFolder, Runtime, checkpoint, evaluate
from seg.engine.ranks import Ranks
from seg.engine.runtime import Stop
from seg.errors import Preempted
from tests.engine.two_ranks import net, train


def strike() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def exit_code_of(work: Callable[[], object]) -> int:
    """Of a process that listens for signals while it works; 1 where the work comes to its end."""
    child = os.fork()
    if child == 0:
        try:
            with Stop().listen():
                work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def strike_twice() -> None:
    Stop.APART = 0.0
    strike()
    strike()


@pytest.mark.fault(56)
def test_fault_56_a_second_signal_exits_at_once() -> None:
    assert exit_code_of(strike) == 1
    assert exit_code_of(strike_twice) == 128 + signal.SIGTERM


def test_a_signal_that_comes_by_two_ways_is_one() -> None:
    assert exit_code_of(lambda: (strike(), strike())) == 1


@pytest.mark.fault(56)
def test_fault_56_a_signal_between_the_loops_leaves_the_run_preempted(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Preempted, match="run the same command again"), folder.running():
        strike()
    assert folder.status()["state"] == "preempted"
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.fault(56)
def test_fault_56_a_signal_amid_a_save_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def struck(source: str, target: Path) -> None:
        if Path(target).name == "step_00000004.pt":
            strike()
        replace(source, target)

    monkeypatch.setattr(os, "replace", struck)
    with pytest.raises(Preempted, match="step [45]"):
        train(tmp_path, Ranks())
    assert checkpoint.list_checkpoints(tmp_path / "checkpoints")[-1].name == "step_00000004.pt"
    assert checkpoint.newest(tmp_path / "checkpoints")[1] == []
    assert not list((tmp_path / "checkpoints").glob(".*"))


@pytest.mark.fault(56)
def test_fault_56_two_signals_amid_a_save_leave_the_previous_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, 1, {"model": {}, "step": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *names: strike_twice())
        assert exit_code_of(lambda: checkpoint.save(tmp_path, 2, {"model": {}, "step": 2})) == 128 + signal.SIGTERM
    assert checkpoint.newest(tmp_path) == ({"model": {}, "step": 1}, [])


@pytest.mark.fault(56)
def test_fault_56_a_signal_amid_an_evaluation_ends_it() -> None:
    read = []

    def batches():
        for index in range(4):
            if index == 1:
                strike()
            read.append(index)
            image = torch.rand(1, 3, 6, 7, dtype=torch.float64)
            yield Batch(image, torch.zeros(1, 6, 7, dtype=torch.int64), torch.zeros(1, 6, 7), (str(index),))

    with pytest.raises(Preempted, match="while evaluating.*same command again"):
        evaluate(
            net(0.0),
            batches(),
            classes=2,
            thresholds=(20, 40),
            runtime=Runtime(device="cpu", precision="fp32"),
            images=4,
        )
    assert read == [0, 1]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
