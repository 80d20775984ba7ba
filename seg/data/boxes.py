"""Objects as boxes with a class, out of data sets whose objects have masks: what a RoI head is trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg.counts import counted
from seg.data.labels import BACKGROUND
from seg.data.object_size import boxes
from seg.data.order import OrderedBatches, ShuffledBatches
from seg.data.sample import IGNORE, Dataset, Sample
from seg.data.transforms import Normalization, Transform, imagenet_normalization, mirror
from seg.errors import ConfigError, DataError


@dataclass(frozen=True)
class Boxed:
    """Images and boxes in them, moved as one, so that a net of both can stand where one of images does.

    image: float32 [N, 3, h, w], padded with zeros to a common size
    rois:  float32 [R, 5], (image, x1, y1, x2, y2) in px of `image`; the last row and column are before x2 and y2
    """

    image: Tensor
    rois: Tensor

    def to(self, device: torch.device | str, *, memory_format: Any = torch.preserve_format, **options: Any) -> "Boxed":
        """The same on another device; the memory format is that of the images."""
        return Boxed(self.image.to(device, memory_format=memory_format, **options), self.rois.to(device, **options))


@dataclass(frozen=True)
class BoxBatch:
    """Boxes of some images. label: int64 [R], class ids; size: float32 [R], square root of a box's area in label px."""

    image: Boxed
    label: Tensor
    size: Tensor
    names: tuple[str, ...]


def object_boxes(
    sample: Sample, smallest: int = 8, background: int | None = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes [R, 4], (x1, y1, x2, y2) in label px, and classes [R] of the objects whose sides have `smallest` px.

    An object's class is the commonest one among its pixels that are labelled and not of the class `background`.
    """
    found: list[tuple[list[int], int]] = []
    for number, (rows, columns) in boxes(_objects(sample)).items():
        corners = [columns.start, rows.start, columns.stop, rows.stop]
        labels = sample.label[rows, columns][_objects(sample)[rows, columns] == number]
        counts = np.bincount(labels[(labels != IGNORE) & (labels != background)], minlength=1)
        if counts.any() and min(corners[2] - corners[0], corners[3] - corners[1]) >= smallest:
            found.append((corners, int(counts.argmax())))
    return (
        np.array([corners for corners, _ in found], dtype=np.float32).reshape(-1, 4),
        np.array([label for _, label in found], dtype=np.int64),
    )


def _objects(sample: Sample) -> NDArray[np.int32]:
    if sample.objects is None:
        raise DataError(f"{sample.name}: there are no objects, whose boxes are needed; use data with instance masks")
    return sample.objects


class BoxLoader:
    """Batches of images with their objects' boxes; images without any are left out.

    flip: mirror left and right in half of the cases, as a function of (seed, epoch, image)
    """

    def __init__(
        self,
        dataset: Dataset,
        transform: Transform,
        *,
        batch_size: int,
        seed: int = 0,
        flip: bool = False,
        smallest: int = 8,
        normalization: Normalization | None = None,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size={batch_size}: at least 1 is needed")
        self.dataset, self.transform, self.batch_size, self.seed = dataset, transform, batch_size, seed
        self.flip, self.smallest = flip, smallest
        self.background = next((number for number, name in enumerate(dataset.classes) if name in BACKGROUND), None)
        self.normalization = normalization or imagenet_normalization()
        self.indices = [i for i in range(len(dataset)) if len(self.boxes(dataset[i])[0])]
        if len(self.indices) < batch_size:
            raise ConfigError(
                f"{dataset.name} {dataset.split} has {counted(len(self.indices), 'image')} with objects of {smallest} "
                f"px or more, batch_size={batch_size} takes more: lower batch_size"
            )

    def __len__(self) -> int:
        return len(self.indices) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[BoxBatch]:
        """Training batches of an epoch, without the first `start` ones."""
        order = ShuffledBatches(len(self.indices), self.batch_size, self.seed, 0, 1)
        order.epoch, order.start = epoch, start
        for keys in order:
            yield self.batch([self.read(self.indices[index], epoch) for _, index in keys])

    def __iter__(self) -> Iterator[BoxBatch]:
        """Every image once, in order."""
        for keys in OrderedBatches(len(self.indices), self.batch_size, 0, 1):
            yield self.batch([self.read(self.indices[index], None) for _, index in keys])

    def read(self, index: int, epoch: int | None) -> Sample:
        """A sample as the net sees it."""
        if epoch is None:
            return self.transform(self.dataset[index])
        draws = np.random.default_rng([self.seed, epoch, index, 1])  # what else is drawn from such a key lacks the 1
        seed, mirrored = int(draws.integers(2**32)), self.flip and draws.random() < 0.5
        sample = self.transform(self.dataset[index], seed)
        return mirror(sample) if mirrored else sample

    def boxes(self, sample: Sample) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The boxes and classes of a sample's objects."""
        return object_boxes(sample, self.smallest, self.background)

    def batch(self, samples: list[Sample]) -> BoxBatch:
        """Images side by side, at the upper left of a common size, and all their boxes."""
        height, width = (max(sample.image.shape[a] for sample in samples) for a in (0, 1))
        image = torch.zeros(len(samples), 3, height, width)
        rois, labels, sizes = [], [], []
        for n, sample in enumerate(samples):
            h, w = sample.image.shape[:2]
            image[n, :, :h, :w] = self.normalization(torch.from_numpy(np.ascontiguousarray(sample.image))[None])[0]
            corners, label = self.boxes(sample)
            sizes.append(np.sqrt((corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])))
            ratio = np.array([w, h, w, h]) / np.array([*sample.label.shape[::-1], *sample.label.shape[::-1]])
            number = np.full((len(corners), 1), n)
            rois.append(np.concatenate([number, corners * ratio], axis=1).astype(np.float32))
            labels.append(label)
        boxed = Boxed(image, torch.from_numpy(np.concatenate(rois)))
        targets = torch.from_numpy(np.concatenate(labels)), torch.from_numpy(np.concatenate(sizes))
        return BoxBatch(boxed, *targets, tuple(sample.name for sample in samples))
