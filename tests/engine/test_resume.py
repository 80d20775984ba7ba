"""Averaged weights, and a run over real data workers that stops and goes on."""

from pathlib import Path

import pytest
import torch
from torch import nn

from seg.data import Creatures, Sample, train_loader, training_transform
from seg.engine import RunFolder, Runtime, Schedule, Trainer, checkpoint, sgd
from seg.engine.resume import differing_keys
from seg.errors import DataError


class Damaged(Creatures):
    """One image can't be read."""

    def __getitem__(self, index: int) -> Sample:
        if index == 4:
            raise DataError("image 4: the file is empty; fetch it again")
        return super().__getitem__(index)


def train(
    folder: Path,
    iterations: int,
    workers: int = 0,
    dataset: type[Creatures] = Creatures,
    save_every: int = 1,
    resume: str = "auto",
) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.2), nn.Conv2d(4, 5, 1))
    transform = training_transform(flip=True, rotate90=False, crop=(20, 24), scale=None, resize=None, color=0.0)
    return Trainer(iterations=iterations, save_every=save_every, keep=9, average=0.75).train(
        model,
        train_loader(dataset("val", images=6), transform, batch_size=2, seed=3, workers=workers),
        sgd(model, lr=0.1),
        Schedule(6),
        folder=RunFolder(folder),
        runtime=Runtime(device="cpu", precision="fp32"),
        resume=resume,
    )


def weights(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in state.values()])


def test_average_decays_exponentially_and_forgets_the_first_steps_sooner(tmp_path: Path) -> None:
    averaged = train(tmp_path, 3)
    states = [checkpoint.load(path) for path in reversed(checkpoint.list_checkpoints(tmp_path / "checkpoints"))]
    first, second, third = (weights(state["model"]) for state in states)
    decays = 2 / 11, 3 / 12  # after one step and two; 0.75 from the 26th on
    expected = decays[1] * (decays[0] * first + (1 - decays[0]) * second) + (1 - decays[1]) * third
    assert torch.allclose(weights(averaged.state_dict()), expected, atol=1e-7)
    assert torch.equal(weights(averaged.state_dict()), weights(states[-1]["average"]))
    assert not torch.allclose(expected, third)


@pytest.mark.fault(53)
@pytest.mark.parametrize("workers", [0, 2])
def test_fault_53_average_and_weights_go_on_bit_for_bit_with_workers(tmp_path: Path, workers: int) -> None:
    """Stopped inside the first epoch of three batches, and at its end."""
    whole = train(tmp_path / "whole", 5)
    for stop in (2, 3, 5):
        parts = train(tmp_path / "parts", stop, workers)
    assert torch.equal(weights(whole.state_dict()), weights(parts.state_dict()))
    last = [checkpoint.newest(tmp_path / name / "checkpoints")[0] for name in ("whole", "parts")]
    assert torch.equal(weights(last[0]["model"]), weights(last[1]["model"]))


@pytest.mark.fault(32)
@pytest.mark.parametrize("workers", [0, 2])
def test_fault_32_what_was_trained_before_a_bad_file_is_kept_and_goes_on(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="image 4"):
        train(tmp_path / "parts", 5, workers, Damaged, save_every=5)
    (kept,) = checkpoint.list_checkpoints(tmp_path / "parts" / "checkpoints")
    assert f"saved at step {checkpoint.load(kept)['step']}; the same command goes on" in capsys.readouterr().err
    mended = train(tmp_path / "parts", 5, workers)
    assert torch.equal(weights(train(tmp_path / "whole", 5).state_dict()), weights(mended.state_dict()))


def test_a_checkpoint_of_an_older_version_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """It holds the generators of its one process without a list, and a number of devices that has to agree no more."""
    whole = train(tmp_path / "whole", 5)
    train(tmp_path / "parts", 2)
    path = checkpoint.list_checkpoints(tmp_path / "parts" / "checkpoints")[0]
    state = checkpoint.load(path)
    (state["random"],) = state["random"]
    state["config"]["trainer.devices"] = 1
    checkpoint.save(path.parent, 2, state)
    assert torch.equal(weights(whole.state_dict()), weights(train(tmp_path / "parts", 5).state_dict()))


def test_from_an_earlier_checkpoint_the_later_ones_and_the_result_are_gone(tmp_path: Path) -> None:
    """They are another training's: `auto` would go on from them, and `keep` would throw the new ones away."""
    whole = train(tmp_path, 5)
    (tmp_path / "result.json").write_text("{}")
    second = tmp_path / "checkpoints" / "step_00000002.pt"
    with pytest.raises(DataError):
        train(tmp_path, 5, dataset=Damaged, save_every=9, resume=str(second))
    steps = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(tmp_path / "checkpoints")]
    assert max(steps) < 5
    assert 2 in steps
    assert not (tmp_path / "result.json").exists()
    assert torch.equal(weights(whole.state_dict()), weights(train(tmp_path, 5, resume=str(second)).state_dict()))


def test_a_run_that_starts_over_leaves_no_events_of_the_one_before(tmp_path: Path) -> None:
    train(tmp_path, 1)
    events = tmp_path / "tensorboard" / "events.out.tfevents.1"
    events.parent.mkdir()
    events.write_bytes(b"")
    train(tmp_path, 1)
    assert events.exists()
    train(tmp_path, 1, resume="never")
    assert not events.exists()


def test_configurations_differ_in_what_has_to_agree_alone() -> None:
    saved, current = {"lr": 0.1, "trainer.devices": 1}, {"lr": 0.1, "trainer.average": None}
    assert differing_keys(saved, current) == []
    assert differing_keys(saved, current | {"lr": 0.2, "trainer.average": 0.9}) == ["lr", "trainer.average"]


def test_weights_may_move_and_images_may_not_change() -> None:
    saved = {"weights": "/home/a/net.pth", "images": "3, by the digest 0a"}
    assert differing_keys(saved, {"weights": "b/net.pth", "images": "3, by the digest 0a"}) == []
    assert differing_keys(saved, {"weights": "b/other.pth", "images": "3, by the digest 0b"}) == ["images", "weights"]
    assert differing_keys({"weights": None}, {"weights": "net.pth", "images": "3"}) == ["weights"], "older ones lack it"


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_a_decay_out_of_range_is_named(decay: float) -> None:
    with pytest.raises(ValueError, match="trainer.average is"):
        Trainer(iterations=1, average=decay)
