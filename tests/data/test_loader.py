import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg.data import (
    Batch,
    Creatures,
    Folder,
    Sample,
    evaluate_loader,
    evaluation_transform,
    one_batch,
    train_loader,
    training_transform,
)
from seg.data.loader import EpochBatches
from seg.data.order import ShuffledBatches
from seg.errors import ConfigError, DataError, RunError


def creatures_loader(workers: int = 0, *, seed: int = 1, images: int = 12, batch_size: int = 4) -> EpochBatches:
    transform = training_transform(crop=(64, 64), scale=(0.5, 2.0), rotate90=True, color=0.2)
    data = Creatures("val", images=images)
    return train_loader(data, transform, batch_size=batch_size, seed=seed, workers=workers)


def same(a: Batch, b: Batch) -> bool:
    sizes = torch.equal(a.size.nan_to_num(-1), b.size.nan_to_num(-1))
    return torch.equal(a.image, b.image) and torch.equal(a.label, b.label) and sizes and a.names == b.names


def test_a_batch_has_the_promised_types_and_memory_layout() -> None:
    batch = next(creatures_loader().epoch(0))
    assert batch.image.shape == (4, 3, 64, 64)
    assert batch.image.dtype == torch.float32
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert batch.label.dtype == torch.int64
    assert batch.size.dtype == torch.float32
    assert batch.label.shape == batch.size.shape == (4, 64, 64)
    assert len(batch) == 4
    assert batch.to("cpu").names == batch.names


@pytest.mark.fault(46)
def test_fault_46_augmentations_differ_in_every_sample_worker_and_epoch() -> None:
    class OneImage(Creatures):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(0)

    transform = training_transform(crop=(64, 64), scale=(0.5, 2.0))
    loader = train_loader(OneImage("val", images=8), transform, batch_size=4, workers=2)
    images = [image for epoch in range(2) for batch in loader.epoch(epoch) for image in batch.image]
    assert len({image.numpy().tobytes() for image in images}) == 16


@pytest.mark.fault(46)
def test_fault_46_batches_are_the_same_for_0_and_2_workers_and_another_seed_differs() -> None:
    alone, helped = creatures_loader(0), creatures_loader(2)
    for epoch in (0, 1):
        for a, b in zip(alone.epoch(epoch), helped.epoch(epoch), strict=True):
            assert same(a, b)
    assert not same(next(alone.epoch(0)), next(alone.epoch(1)))
    assert not same(next(alone.epoch(0)), next(creatures_loader(0, seed=2).epoch(0)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_after_the_batches_already_used(workers: int) -> None:
    loader = creatures_loader(workers)
    whole = list(loader.epoch(3))
    assert len(whole) == len(loader) == 3
    for batch, expected in zip(loader.epoch(3, start=1), whole[1:], strict=True):
        assert same(batch, expected)
    assert list(loader.epoch(3, start=3)) == []


def test_an_epoch_that_was_left_half_way_does_not_leak_into_the_next() -> None:
    loader = creatures_loader(2)
    expected = list(creatures_loader(0).epoch(5))
    next(loader.epoch(4))
    assert all(same(a, b) for a, b in zip(loader.epoch(5), expected, strict=True))


def test_skipped_batches_are_not_read() -> None:
    class Counting(Creatures):
        read = 0

        def __getitem__(self, index: int) -> Sample:
            Counting.read += 1
            return super().__getitem__(index)

    loader = train_loader(Counting("val", images=12), training_transform(), batch_size=4)
    list(loader.epoch(0, start=2))
    assert Counting.read == 4


def test_a_start_beyond_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="start=4: an epoch has 3 batches"):
        creatures_loader().epoch(0, start=4)


def test_an_epoch_has_every_image_once_and_orders_differ() -> None:
    loader = creatures_loader()
    orders = [[name for batch in loader.epoch(epoch) for name in batch.names] for epoch in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == Creatures("val", images=12).names
    assert orders[0] != orders[1]


def test_loading_leaves_the_global_random_states_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    list(creatures_loader(0).epoch(0))
    list(creatures_loader(1).epoch(0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tobytes() == before[1]  # type: ignore[union-attr]


def test_ranks_share_the_batches_of_one_process() -> None:
    alone = [key for batch in ShuffledBatches(25, 6, 0, rank=0, world=1) for key in batch]
    ranks = [list(ShuffledBatches(25, 2, 0, rank=rank, world=3)) for rank in range(3)]
    together = [key for number in range(4) for rank in ranks for key in rank[number]]
    assert [len(rank) for rank in ranks] == [4, 4, 4]
    assert together == alone


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_every_image_once_on_any_number_of_ranks(world: int) -> None:
    data = Creatures("val", images=7)
    names: list[str] = []
    for rank in range(world):
        loader = evaluate_loader(data, evaluation_transform(), batch_size=2, rank=rank, world=world)
        batches = list(loader)
        assert len(batches) == len(loader)
        names += [name for batch in batches for name in batch.names]
    assert sorted(names) == data.names


def test_one_batch_is_the_evaluation_batch_of_one_image() -> None:
    data = Creatures("val", images=2)
    batches = list(evaluate_loader(data, evaluation_transform()))
    assert same(one_batch(data, 1, evaluation_transform()), batches[1])


def test_evaluation_labels_keep_the_original_resolution() -> None:
    batch = one_batch(Creatures("val", images=1), 0, evaluation_transform(resize=80))
    assert batch.image.shape[-2:] == (80, 80)
    assert batch.label.shape[-2:] == batch.size.shape[-2:] == (160, 160)


@pytest.mark.fault(44)
def test_fault_44_a_data_set_shorter_than_a_batch_is_refused_before_training() -> None:
    with pytest.raises(ConfigError, match=r"creatures val has 12 images, batch_size=8 on each of 2 ranks"):
        train_loader(Creatures("val", images=12), training_transform(), batch_size=8, world=2)


@pytest.mark.fault(44)
def test_fault_44_the_last_incomplete_training_batch_is_left_out() -> None:
    loader = creatures_loader(images=9, batch_size=4)
    assert [len(batch) for batch in loader.epoch(0)] == [4, 4]


@pytest.mark.fault(45)
class Unsendable(str):
    """A name that no worker can hand over, as no batch where there is no shared memory left."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise OSError("No space left on device")


class Unsent(Creatures):
    def __getitem__(self, index: int) -> Sample:
        return replace(super().__getitem__(index), name=Unsendable("a"))


def test_a_batch_that_a_worker_cannot_hand_over_ends_the_run() -> None:
    loader = evaluate_loader(Unsent("val", images=2), evaluation_transform(), batch_size=1, workers=1)
    with pytest.raises(RunError, match=r"a data worker died.*data.workers=0 needs no shared memory"):
        list(loader)


@pytest.mark.parametrize("killed", [1, 2])
def test_fault_45_a_killed_worker_ends_the_run_with_one_clear_line(killed: int) -> None:
    """Where a batch is waited for; not in the middle of a step, which the sleep stands for, nor of what follows."""
    loader = creatures_loader(2, images=60)
    batches = loader.epoch(0)
    next(batches)
    for process in loader._loader._iterator._workers[:killed]:  # type: ignore[union-attr]
        os.kill(process.pid, signal.SIGKILL)
    time.sleep(0.2)
    with pytest.raises(RunError, match="a data worker died") as caught:
        list(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.fault(32)
def test_fault_32_a_bad_file_is_one_line_without_a_workers_traceback(folder_root: Path, workers: int) -> None:
    bad = folder_root / "images" / "train" / "train_3.png"
    bad.write_bytes(b"")
    loader = train_loader(Folder(folder_root), training_transform(), batch_size=2, workers=workers)
    with pytest.raises(DataError) as caught:
        list(loader.epoch(0))
    assert str(caught.value) == f"{bad}: the file is empty; fetch it again"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.fault(32)
def test_fault_32_a_skipped_sample_is_counted_and_its_place_taken(folder_root: Path, workers: int) -> None:
    bad = folder_root / "images" / "train" / "train_3.png"
    bad.write_bytes(b"<html>Not found</html>")
    loader = train_loader(
        Folder(folder_root), training_transform(color=0.5), batch_size=2, workers=workers, on_bad_sample="skip"
    )
    batches = list(loader.epoch(0))
    names = [name for batch in batches for name in batch.names]
    assert len(names) == 6
    assert "train_3" not in names
    assert names.count("train_4") == 2
    images = [image for batch in batches for image in batch.image]
    first, second = (image for image, name in zip(images, names, strict=True) if name == "train_4")
    assert first.shape != second.shape or not torch.equal(first, second), "each with changes of its own"
    assert list(loader.skipped.values()) == [1]
    assert str(bad) in next(iter(loader.skipped))
    list(loader.epoch(1))
    assert list(loader.skipped.values()) == [2], "a file is one problem, however often it is met"


@pytest.mark.fault(32)
def test_fault_32_more_bad_samples_than_the_limit_are_an_error_all_the_same(folder_root: Path) -> None:
    for number in (0, 2, 4):
        (folder_root / "images" / "train" / f"train_{number}.png").write_bytes(b"")
    loader = train_loader(Folder(folder_root), training_transform(), batch_size=2, on_bad_sample="skip", skip_limit=2)
    with pytest.raises(DataError, match="3 bad samples, data.skip_limit is 2"):
        list(loader.epoch(0))


@pytest.mark.fault(32)
def test_fault_32_bad_samples_alone_are_an_error_however_few(folder_root: Path) -> None:
    for path in (folder_root / "images" / "train").iterdir():
        path.write_bytes(b"")
    loader = train_loader(Folder(folder_root), training_transform(), batch_size=2, on_bad_sample="skip")
    with pytest.raises(DataError, match=r"no good sample was found to take the place of bad ones: .*train_.*\.png"):
        list(loader.epoch(0))


def test_a_skipped_sample_is_missing_from_an_evaluation(folder_root: Path) -> None:
    (folder_root / "labels" / "val" / "val_0.png").unlink()
    loader = evaluate_loader(Folder(folder_root, "val"), evaluation_transform(), on_bad_sample="skip")
    assert [batch.names for batch in loader] == [("val_1",)]
    assert len(loader.skipped) == 1


@pytest.mark.parametrize("policy", ["raise", "skip"])
def test_images_of_different_sizes_in_a_batch_are_refused_by_name(policy: str) -> None:
    class Growing(Creatures):
        def __getitem__(self, index: int) -> Sample:
            return Creatures("val", size=64 + 16 * index)[0]

    data = Growing("val", images=2)
    assert len(list(evaluate_loader(data, evaluation_transform(), on_bad_sample=policy))) == 2
    with pytest.raises(
        DataError, match="their images are 64x64 and 80x80 px; set data.batch_size or data.evaluate_batch_size to 1"
    ):
        list(evaluate_loader(data, evaluation_transform(), batch_size=2, on_bad_sample=policy))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"on_bad_sample": "ignore"}, "on_bad_sample='ignore': one of raise, skip"),
        ({"workers": -1}, "workers=-1"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_loader(Creatures("val"), training_transform(), **{"batch_size": 4, **arguments})  # type: ignore[arg-type]


def test_what_workers_run_can_be_sent_to_a_fresh_process() -> None:
    loader = creatures_loader()._loader
    source, collate = pickle.loads(pickle.dumps((loader.dataset, loader.collate_fn)))
    batch, problems, mismatch = collate([source[(0, 1)]])
    assert batch.names == ("val_00001",)
    assert (problems, mismatch) == ([], "")
