"""Batches for training and evaluation: the same ones for the same seed, whatever the number of workers."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.queues import Queue
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data._utils.signal_handling import _remove_worker_pids

from seg.counts import counted
from seg.data.object_size import object_size
from seg.data.order import Key, OrderedBatches, ShuffledBatches
from seg.data.sample import Batch, Dataset, Sample
from seg.data.transforms import Normalization, Transform, imagenet_normalization
from seg.errors import ConfigError, DataError, RunError

POLICIES = ("raise", "skip")
SECONDS_TO_SAVE = 60


@dataclass(frozen=True)
class Loaded:
    """What a worker made of one key: a sample, or none; and what was wrong with the data on the way."""

    sample: Sample | None
    problems: tuple[str, ...] = ()


class Transformed:
    """(epoch, index) -> transformed sample, seeded by (seed, epoch, index). Bad data come back as a value, since an
    exception would reach the main process wrapped in the worker's traceback."""

    def __init__(self, dataset: Dataset, transform: Transform, seed: int, replacements: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.replacements = replacements

    def __getitem__(self, key: Key) -> Loaded:
        epoch, index = key
        problems: list[str] = []
        for step in range(self.replacements + 1):
            try:
                sample = self._sample(epoch, (index + step) % len(self.dataset), step)
            except DataError as error:
                problems.append(str(error))
            else:
                return Loaded(sample, tuple(problems))
        return Loaded(None, tuple(problems))

    def _sample(self, epoch: int, index: int, step: int) -> Sample:
        # what takes a bad sample's place may be in the batch already, and is changed otherwise than there
        key = [self.seed, epoch, index, step] if step else [self.seed, epoch, index]
        seed = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        return self.transform(self.dataset[index], int(seed))


class Collate:
    """Samples -> (batch or none, problems with single samples, what forbids the batch as a whole)."""

    def __init__(self, normalization: Normalization, size_by: str) -> None:
        self.normalization = normalization
        self.size_by = size_by

    def __call__(self, loaded: Sequence[Loaded]) -> tuple[Batch | None, list[str], str]:
        problems = [problem for one in loaded for problem in one.problems]
        samples = [one.sample for one in loaded if one.sample is not None]
        mismatch = _mismatch(samples)
        if mismatch or not samples:
            return None, problems, mismatch
        return self.batch(samples), problems, ""

    def batch(self, samples: Sequence[Sample]) -> Batch:
        """Samples of equal sizes as one batch."""
        image = torch.from_numpy(np.stack([sample.image for sample in samples]))
        label = torch.from_numpy(np.stack([sample.label for sample in samples])).long()
        size = torch.from_numpy(np.stack([self._size(sample) for sample in samples]))
        names = tuple(sample.name for sample in samples)
        return Batch(self.normalization(image), label, size, names, samples[0].flip_pairs)

    def _size(self, sample: Sample) -> np.ndarray:
        if sample.objects is None:
            return np.full(sample.label.shape, np.nan, dtype=np.float32)
        return object_size(sample.objects, self.size_by) * np.float32(sample.pixel)


def _mismatch(samples: Sequence[Sample]) -> str:
    for other in samples[1:]:
        first = samples[0]
        for kind in ("image", "label"):
            a, b = getattr(first, kind).shape, getattr(other, kind).shape
            if a != b:
                return (
                    f"{first.name} and {other.name} can't share a batch: their {kind}s are {a[1]}x{a[0]} and "
                    f"{b[1]}x{b[0]} px; set data.batch_size or data.evaluate_batch_size to 1, or a crop in training"
                )
    return ""


class Batches:
    """Reads batches from workers, or in this process where workers is 0, and ends cleanly on bad data.

    skipped: what was wrong with the data passed over under on_bad_sample="skip", one entry a file
    """

    def __init__(
        self, source: Transformed, sampler: ShuffledBatches | OrderedBatches, collate: Collate, options: "Reading"
    ) -> None:
        self.skipped: dict[str, int] = {}
        self._options = options
        self._replaces = source.replacements > 0
        self._sampler = sampler
        self._loader: DataLoader[Any] = DataLoader(
            source,  # type: ignore[arg-type]  # a map from keys, not from numbers
            batch_sampler=sampler,  # type: ignore[arg-type]
            num_workers=options.workers,
            collate_fn=collate,
            pin_memory=options.pin_memory,
            persistent_workers=options.workers > 0,
            worker_init_fn=_start_worker if options.workers else None,
            generator=torch.Generator(),  # so that the global random state isn't touched
        )

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Batch]:
        try:
            loaded = iter(self._loader)
            _tell_of_deaths_here_alone(loaded)
            for batch, problems, mismatch in loaded:
                self._count(problems)
                if mismatch:
                    raise DataError(mismatch)
                if batch is not None:
                    yield batch
                elif self._replaces:  # else epochs without a batch would follow one another for ever
                    raise DataError(f"no good sample was found to take the place of bad ones: {problems[-1]}")
        except (RuntimeError, ConnectionError, EOFError) as error:
            of_workers = ("DataLoader worker", "Pin memory thread")  # the thread dies of what a dead worker leaves
            if isinstance(error, RuntimeError) and not any(words in str(error) for words in of_workers):
                raise
            self._end_workers()
            raise RunError(
                f"a data worker died ({str(error).splitlines()[0]}); where memory is short, use fewer workers "
                "or smaller batches. data.workers=0 needs no shared memory; a container has more of it with "
                "docker run --shm-size=8g"
            ) from None

    def _end_workers(self) -> None:
        """Now, since the garbage collector would come to it at any time, and wait for them 10 s."""
        if (reading := self._loader._iterator) is not None:
            reading._shutdown_workers()  # type: ignore[attr-defined]
            self._loader._iterator = None

    def _count(self, problems: list[str]) -> None:
        for problem in problems:
            self.skipped[problem] = self.skipped.get(problem, 0) + 1
            if self._options.on_bad_sample == "raise":
                raise DataError(problem)
            if len(self.skipped) > self._options.skip_limit:
                bad, named = counted(len(self.skipped), "bad sample"), "\n  ".join(self.skipped)
                raise DataError(f"{bad}, data.skip_limit is {self._options.skip_limit}:\n  {named}")


def _tell_of_deaths_here_alone(loaded: Any) -> None:
    """Takes torch's signal handler off the workers of an iterator over a DataLoader.

    It raises wherever the process is, in the middle of a step or of a save. Without it a worker's death shows when
    a batch of it is waited for, within the 5 s after which torch looks whether its workers live.
    """
    if getattr(loaded, "_worker_pids_set", False):
        _remove_worker_pids(id(loaded))
        loaded._worker_pids_set = False


class EpochBatches(Batches):
    """Training batches, epoch by epoch: `for batch in loader.epoch(3, start=7)`."""

    _sampler: ShuffledBatches

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, without the first `start` ones, which are not even read.

        Each batch is a function of (seed, epoch, its number) alone, so a run that stopped after `start` batches
        of this epoch goes on exactly where it was. One epoch is read at a time.
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"start={start}: an epoch has {len(self)} batches")
        self._sampler.epoch, self._sampler.start = epoch, start
        return iter(self)


@dataclass(frozen=True)
class Reading:
    """How samples are read: worker processes, what to do about bad ones, and into which kind of memory."""

    workers: int = 0
    on_bad_sample: str = "raise"
    skip_limit: int = 10
    pin_memory: bool = False

    def __post_init__(self) -> None:
        if self.on_bad_sample not in POLICIES:
            raise ConfigError(f"on_bad_sample={self.on_bad_sample!r}: one of {', '.join(POLICIES)} is needed")
        if self.workers < 0:
            raise ConfigError(f"workers={self.workers}: 0 (this process) or more are needed")


def train_loader(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int,
    seed: int = 0,
    normalization: Normalization | None = None,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    on_bad_sample: str = "raise",
    skip_limit: int = 10,
    size_by: str = "object",
    pin_memory: bool = False,
) -> EpochBatches:
    """Shuffled batches of batch_size samples on each of `world` ranks; read them with `.epoch(number, start)`.

    normalization: ImageNet's unless given
    on_bad_sample: "raise" a DataError, or "skip": the next good sample takes the place of a bad one; after
                   skip_limit different problems it is an error all the same
    pin_memory:    make batches in memory that a GPU can copy from while it computes
    raises:        ConfigError if the data set is shorter than one batch of all ranks
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: at least 1 is needed")
    if len(dataset) < batch_size * world:
        ranks = f" on each of {world} ranks" if world > 1 else ""
        raise ConfigError(
            f"{dataset.name} {dataset.split} has {counted(len(dataset), 'image')}, batch_size={batch_size}{ranks} "
            "takes more: lower batch_size"
        )
    options = Reading(workers, on_bad_sample, skip_limit, pin_memory)
    # one more bad sample than skip_limit ends the run, so more replacements are never needed
    source = Transformed(dataset, transform, seed, skip_limit if on_bad_sample == "skip" else 0)
    sampler = ShuffledBatches(len(dataset), batch_size, seed, rank, world)
    return EpochBatches(source, sampler, Collate(normalization or imagenet_normalization(), size_by), options)


def evaluate_loader(
    dataset: Dataset,
    transform: Transform,
    *,
    batch_size: int = 1,
    normalization: Normalization | None = None,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    on_bad_sample: str = "raise",
    skip_limit: int = 10,
    size_by: str = "object",
    pin_memory: bool = False,
) -> Batches:
    """Every image once, in order; rank r of `world` reads images r, r + world, ... Iterate over it.

    Images of different sizes need batch_size=1. A skipped sample is missing from its batch.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size}: at least 1 is needed")
    options = Reading(workers, on_bad_sample, skip_limit, pin_memory)
    source = Transformed(dataset, transform, 0, 0)
    sampler = OrderedBatches(len(dataset), batch_size, rank, world)
    return Batches(source, sampler, Collate(normalization or imagenet_normalization(), size_by), options)


def one_batch(
    dataset: Dataset,
    index: int,
    transform: Transform,
    *,
    normalization: Normalization | None = None,
    size_by: str = "object",
) -> Batch:
    """A batch of one sample, for pictures and measurements."""
    collate = Collate(normalization or imagenet_normalization(), size_by)
    return collate.batch([transform(dataset[index])])


def _start_worker(_: int) -> None:
    """A worker computes on one thread, and outlives a signal for as long as the main process takes to save: clusters
    send it to every process of a job, and the death of a worker would end the run without a checkpoint."""
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_TO_SAVE))
    Queue._on_queue_feeder_error = staticmethod(_end_of_worker)  # type: ignore[attr-defined]


def _end_of_worker(error: Exception, _: object) -> None:
    """What a worker can't hand over would be waited for for ever, as multiprocessing only prints the error."""
    print(f"a data worker can't hand over its batch: {error}", file=sys.stderr, flush=True)
    os._exit(1)
