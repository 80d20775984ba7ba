"""The training loop on a net of one layer: what it computes, logs, saves and survives."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from seg.data.sample import Batch
from seg.engine import RunFolder, Runtime, Schedule, Trainer, sgd
from seg.engine.runtime import listening
from seg.engine.train import cross_entropy
from seg.errors import ConfigError, Preempted, RunError
from seg.models import Deform


class Batches:
    """Five batches an epoch, different in every epoch, the same for the same (epoch, batch)."""

    poisoned: tuple[int, ...] = ()

    def __len__(self) -> int:
        return 5

    def epoch(self, number: int, start: int = 0):
        for index in range(start, 5):
            generator = torch.Generator().manual_seed(100 * number + index)
            image = torch.rand(2, 3, 8, 8, generator=generator)
            if 5 * number + index in self.poisoned:
                image[0, 0, 0, 0] = math.nan
            label = (image[:, 0] > 0.5).long()
            yield Batch(image, label, torch.zeros(2, 8, 8), (f"{number}-{index}-a", f"{number}-{index}-b"))


class Signalled(Batches):
    """A signal strikes in the batch of this number, counted over the epochs."""

    def __init__(self, struck: int, signal_number: int = signal.SIGTERM) -> None:
        self.struck, self.signal_number = struck, signal_number

    def epoch(self, number: int, start: int = 0):
        for index, batch in enumerate(super().epoch(number, start), start):
            if 5 * number + index == self.struck:
                os.kill(os.getpid(), self.signal_number)
            yield batch


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.2), nn.Conv2d(4, 2, 1))


def train(
    folder: Path,
    *,
    iterations: int = 12,
    total: int = 12,
    loader=None,
    resume: str = "auto",
    config=None,
    precision="fp32",
    observe=None,
    validate=None,
    **trainer,
):
    model = net()
    Trainer(iterations=iterations, **{"log_every": 1, "save_every": 4, **trainer}).train(
        model,
        loader or Batches(),
        sgd(model, lr=0.1),
        Schedule(total),
        folder=RunFolder(folder),
        runtime=Runtime(device="cpu", precision=precision),
        resume=resume,
        config=config or {"lr": 0.1},
        observe=observe,
        validate=validate,
    )
    return model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_loss_falls_and_every_step_is_logged(tmp_path: Path) -> None:
    train(tmp_path, iterations=60, total=60)
    records = RunFolder(tmp_path).read_metrics()
    assert [record["step"] for record in records] == list(range(1, 61))
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]
    assert records[7]["epoch"] == 1


@pytest.mark.fault(53)
@pytest.mark.parametrize(("stop_at", "precision"), [(5, "fp32"), (7, "fp32"), (7, "bf16")])
def test_fault_53_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, stop_at: int, precision: str) -> None:
    whole = train(tmp_path / "whole", precision=precision)
    train(tmp_path / "parts", iterations=stop_at, precision=precision)
    parts = train(tmp_path / "parts", precision=precision)
    assert torch.equal(weights(whole), weights(parts))
    losses = [[record["loss"] for record in RunFolder(tmp_path / name).read_metrics()] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_record_after_a_stop_has_the_mean_loss_of_the_steps_before_it_too(tmp_path: Path) -> None:
    train(tmp_path / "whole", iterations=8, log_every=4)
    with pytest.raises(Preempted, match="at step 6"):
        train(tmp_path / "parts", iterations=8, log_every=4, loader=Signalled(5))
    train(tmp_path / "parts", iterations=8, log_every=4)
    whole, parts = (RunFolder(tmp_path / name).read_metrics() for name in ("whole", "parts"))
    assert [(row["step"], row["loss"]) for row in whole] == [(row["step"], row["loss"]) for row in parts]


def test_going_on_in_another_precision_is_said_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train(tmp_path, iterations=2, precision="bf16")
    train(tmp_path, iterations=4)
    assert "trained in bf16 so far; goes on in fp32 here" in capsys.readouterr().out
    found = [record["precision"] for record in RunFolder(tmp_path).read_metrics()]
    assert found == ["bf16", "bf16", "fp32", "fp32"]


def test_a_run_goes_on_in_fp16_from_a_precision_without_a_scale(tmp_path: Path) -> None:
    train(tmp_path, iterations=2)
    train(tmp_path, iterations=4, precision="fp16")
    assert [record["precision"] for record in RunFolder(tmp_path).read_metrics()] == ["fp32", "fp32", "fp16", "fp16"]


def test_offsets_that_explode_are_told_of_once_for_each_layer(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    means = iter([2.0, 17.0, 40.0, 3.0])

    def observe(model: nn.Module):
        mean = next(means)
        return nullcontext({"a": {"mean": mean, "max": 20.0}, "b": {"mean": 1.0, "max": 9 * mean}})

    train(tmp_path, iterations=4, observe=observe)
    told = [line for line in capsys.readouterr().err.splitlines() if "explode" in line]
    assert told == [
        "the offsets of a explode: mean 17.0, largest 20.0 cells at step 2 (limits: mean 16, largest 100); "
        "lower optimizer.lr or optimizer.offset_lr",
        "the offsets of b explode: mean 1.0, largest 153.0 cells at step 2 (limits: mean 16, largest 100); "
        "lower optimizer.lr or optimizer.offset_lr",
    ]


def test_the_time_spent_waiting_for_batches_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    class Slow(Batches):
        def epoch(self, number: int, start: int = 0):
            for batch in super().epoch(number, start):
                now[0] += 3
                yield batch

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    train(tmp_path, iterations=4, loader=Slow(), accumulate=2, log_every=2)
    found = [(record["seconds"], record["waited"]) for record in RunFolder(tmp_path).read_metrics()]
    assert found == [(12, 12), (24, 12)]


def test_evaluations_on_the_way_leave_no_trace_in_the_training(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def validate(model: nn.Module) -> dict:
        torch.rand(3)  # as a loader draws its seed
        with torch.inference_mode():
            model.eval()(torch.rand(1, 3, 8, 8))
        return {"miou": float(weights(model).abs().sum()), "split": "val"}

    plain = train(tmp_path / "plain")
    looked = train(tmp_path / "looked", evaluate_every=3, validate=validate)
    assert torch.equal(weights(plain), weights(looked))
    found = RunFolder(tmp_path / "looked").read_metrics()
    scores = {record["step"]: record["miou"] for record in found if record["kind"] == "evaluate"}
    assert list(scores) == [3, 6, 9], "the last step is left to the evaluation of the trained net"
    after = train(tmp_path / "six", iterations=6)
    assert scores[6] == float(weights(after).abs().sum())
    assert f"step 6: miou {scores[6]:.3f}, split val" in capsys.readouterr().err
    losses = [
        [row["loss"] for row in RunFolder(tmp_path / name).read_metrics() if "loss" in row]
        for name in ("plain", "looked")
    ]
    assert losses[0] == losses[1]


def test_evaluations_on_the_way_need_something_that_evaluates(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="trainer.evaluate_every is 3, but nothing evaluates this net"):
        train(tmp_path, evaluate_every=3)


def test_an_evaluation_on_the_way_that_ends_the_run_loses_no_step(tmp_path: Path) -> None:
    def stopped(model: nn.Module) -> dict:
        raise Preempted("stopped by a signal while evaluating")

    with pytest.raises(Preempted):
        train(tmp_path / "parts", evaluate_every=7, validate=stopped)
    (tmp_path / "parts" / "result.json").write_text("{}")  # of step 7: it would be taken for the last one's
    parts = train(tmp_path / "parts", evaluate_every=7, validate=lambda model: {"miou": 0.5})
    assert torch.equal(weights(parts), weights(train(tmp_path / "whole")))
    assert not (tmp_path / "parts" / "result.json").exists()
    again = train(tmp_path / "parts", evaluate_every=7, validate=lambda model: pytest.fail("evaluated already"))
    assert torch.equal(weights(parts), weights(again))
    looks = [row["step"] for row in RunFolder(tmp_path / "parts").read_metrics() if row["kind"] == "evaluate"]
    assert looks == [7], "what the signal ended is made up for"


def test_a_signal_before_an_evaluation_on_the_way_ends_it_at_once(tmp_path: Path) -> None:
    def validate(model: nn.Module) -> dict:
        with listening() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop
        return {"miou": 0.5}

    with pytest.raises(Preempted, match="at step 8"):
        train(tmp_path, evaluate_every=7, validate=validate)


def test_the_average_is_what_is_evaluated_on_the_way_and_its_time_is_not_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, seen = [100.0], []

    def validate(model: nn.Module) -> dict:
        now[0] += 60
        seen.append(weights(model))
        return {"miou": 0.5}

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    model = train(tmp_path, iterations=4, average=0.5, evaluate_every=2, validate=validate)
    state = torch.load(tmp_path / "checkpoints" / "step_00000002.pt")
    assert torch.equal(seen[0], torch.cat([value.flatten() for value in state["average"].values()]))
    assert not torch.equal(seen[0], weights(model))
    assert [row["seconds"] for row in RunFolder(tmp_path).read_metrics() if row["kind"] == "train"] == [0, 0, 0, 0]


@pytest.mark.fault(42)
def test_fault_42_a_batch_without_labels_has_no_loss_and_no_gradient() -> None:
    logits = torch.rand(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_cross_entropy_is_the_mean_over_labelled_pixels() -> None:
    logits, label = torch.rand(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    label[0, 0] = 255
    assert cross_entropy(logits, label) == pytest.approx(float(F.cross_entropy(logits, label, ignore_index=255)))


def test_accumulating_two_batches_is_one_batch_of_both() -> None:
    """The mean of the gradients of two halves with the same number of labels is that of the whole."""
    first, second = list(Batches().epoch(0))[:2]

    class Joined(Batches):
        def epoch(self, number: int, start: int = 0):
            yield Batch(
                torch.cat([first.image, second.image]),
                torch.cat([first.label, second.label]),
                torch.cat([first.size, second.size]),
                first.names + second.names,
            )

    results = []
    for loader, accumulate in ((Batches(), 2), (Joined(), 1)):
        torch.manual_seed(0)
        model = nn.Conv2d(3, 2, 1)
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            Trainer(iterations=1, accumulate=accumulate).train(
                model,
                loader,
                sgd(model, lr=0.1),
                Schedule(1),
                folder=RunFolder(folder),
                runtime=Runtime(device="cpu", precision="fp32"),
            )
        results.append(weights(model))
    assert torch.allclose(*results, atol=1e-7)


@pytest.mark.fault(57)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fault_57_a_step_that_is_not_finite_is_skipped_and_named(tmp_path: Path, precision: str) -> None:
    loader = Batches()
    loader.poisoned = (3,)
    model = train(tmp_path, loader=loader, precision=precision)
    assert weights(model).isfinite().all()
    records = RunFolder(tmp_path).read_metrics()
    (skipped,) = [record for record in records if record["kind"] == "skipped"]
    assert skipped["names"] == ["0-3-a", "0-3-b"]
    losses = {record["step"]: record["loss"] for record in records if record["kind"] == "train"}
    assert losses.pop(4) is None
    assert all(map(math.isfinite, losses.values()))


def test_a_skipped_step_leaves_no_trace_in_batch_norm(tmp_path: Path) -> None:
    loader = Batches()
    loader.poisoned = (3,)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    Trainer(iterations=8).train(
        model, loader, sgd(model, lr=0.1), Schedule(8),
        folder=RunFolder(tmp_path), runtime=Runtime(device="cpu", precision="fp32"),
    )  # fmt: skip
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    assert int(model[1].num_batches_tracked) == 7


@pytest.mark.fault(57)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_fault_57_many_such_steps_end_the_run(tmp_path: Path, precision: str) -> None:
    loader = Batches()
    loader.poisoned = tuple(range(2, 12))
    with pytest.raises(RunError, match="3 steps in a row.*lower optimizer.lr, or set trainer.clip"):
        train(tmp_path, loader=loader, patience=3, precision=precision)


def test_the_rate_of_offsets_is_blamed_where_there_are_some(tmp_path: Path) -> None:
    loader = Batches()
    loader.poisoned = (0,)
    model = nn.Sequential(Deform(3, 2))
    with pytest.raises(RunError, match="lower optimizer.lr or optimizer.offset_lr, or set trainer.clip"):
        Trainer(iterations=1, patience=1).train(
            model, loader, sgd(model, lr=0.1), Schedule(1),
            folder=RunFolder(tmp_path), runtime=Runtime(device="cpu", precision="fp32"),
        )  # fmt: skip


def test_a_batch_of_one_value_a_channel_is_refused_with_the_keys(tmp_path: Path) -> None:
    class Single(Batches):
        def epoch(self, number: int, start: int = 0):
            yield Batch(torch.zeros(1, 3, 1, 1), torch.zeros(1, 1, 1).long(), torch.zeros(1, 1, 1), ("a",))

    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    with pytest.raises(ConfigError, match=r"batch of 1 \(1x1 px\).*raise data.batch_size or data.train_transform.crop"):
        Trainer(iterations=1).train(
            model, Single(), sgd(model, lr=0.1), Schedule(1),
            folder=RunFolder(tmp_path), runtime=Runtime(device="cpu", precision="fp32"),
        )  # fmt: skip


@pytest.mark.fault(55)
def test_fault_55_a_changed_configuration_is_listed_and_refused(tmp_path: Path) -> None:
    train(tmp_path, iterations=4, config={"lr": 0.1, "conv.dilation": 2})
    with pytest.raises(ConfigError, match="conv.dilation: 2 in the checkpoint, 4 now"):
        train(tmp_path, config={"lr": 0.1, "conv.dilation": 4})
    train(tmp_path, resume="never", config={"lr": 0.1, "conv.dilation": 4})


@pytest.mark.fault(56)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_fault_56_a_signal_saves_and_the_run_goes_on(tmp_path: Path, number: int) -> None:
    code = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_train import Signalled, train
        from seg.engine import RunFolder
        from seg.errors import Preempted
        folder = RunFolder({str(tmp_path)!r})
        try:
            with folder.running():
                train(folder.path, loader=Signalled(6, {int(number)}))
        except Preempted:
            sys.exit(75)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "preempted"
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt") if "07" in path.name]
    whole = train(tmp_path / "whole")
    assert torch.equal(weights(train(tmp_path)), weights(whole))


@pytest.mark.parametrize(
    ("resume", "again"), [("auto", "again to go on"), ("never", "again with resume=auto to go on")]
)
def test_a_signal_in_the_last_step_ends_the_run_before_its_evaluation(tmp_path: Path, resume: str, again: str) -> None:
    with pytest.raises(Preempted, match=f"at step 7; run the same command {again}"):
        train(tmp_path, iterations=7, loader=Signalled(6), resume=resume)
    assert torch.equal(weights(train(tmp_path, iterations=7)), weights(train(tmp_path / "whole", iterations=7)))


@pytest.mark.parametrize("key", ["accumulate", "log_every", "save_every", "keep", "patience", "evaluate_every"])
def test_counts_out_of_range_are_named(key: str) -> None:
    with pytest.raises(ValueError, match=f"trainer.{key} is 0; expected at least 1"):
        Trainer(**{"iterations": 1, key: 0})
    with pytest.raises(ValueError, match="trainer.iterations is -1; expected at least 0"):
        Trainer(iterations=-1)
