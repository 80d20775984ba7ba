"""Cityscapes, read from labelIds and instanceIds as they come, without a conversion step."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seg.data.files import Entry, FileDataset, find_root, require_split
from seg.data.images import read_mask, read_objects
from seg.data.labels import Classes
from seg.data.sample import IGNORE, Array
from seg.errors import ConfigError, DataError

HINT = "give the folder that holds leftImg8bit and gtFine"
UNLABELLED = "; if they are of split=test, that has no public labels: predict.py writes what its server takes"
FILES = {"labelIds": "labelIds", "trainIds": "labelTrainIds"}
LABEL_IDS = range(34)
FIRST_INSTANCE = 1000  # label id * 1000 + number; below it the value is a label id alone


class CityscapesClass(NamedTuple):
    """One of the 19 classes that are evaluated; its place in CITYSCAPES_CLASSES is the train id."""

    name: str
    label_id: int
    colour: tuple[int, int, int]
    has_instances: bool = False


CITYSCAPES_CLASSES = (
    CityscapesClass("road", 7, (128, 64, 128)),
    CityscapesClass("sidewalk", 8, (244, 35, 232)),
    CityscapesClass("building", 11, (70, 70, 70)),
    CityscapesClass("wall", 12, (102, 102, 156)),
    CityscapesClass("fence", 13, (190, 153, 153)),
    CityscapesClass("pole", 17, (153, 153, 153)),
    CityscapesClass("traffic light", 19, (250, 170, 30)),
    CityscapesClass("traffic sign", 20, (220, 220, 0)),
    CityscapesClass("vegetation", 21, (107, 142, 35)),
    CityscapesClass("terrain", 22, (152, 251, 152)),
    CityscapesClass("sky", 23, (70, 130, 180)),
    CityscapesClass("person", 24, (220, 20, 60), True),
    CityscapesClass("rider", 25, (255, 0, 0), True),
    CityscapesClass("car", 26, (0, 0, 142), True),
    CityscapesClass("truck", 27, (0, 0, 70), True),
    CityscapesClass("bus", 28, (0, 60, 100), True),
    CityscapesClass("train", 31, (0, 80, 100), True),
    CityscapesClass("motorcycle", 32, (0, 0, 230), True),
    CityscapesClass("bicycle", 33, (119, 11, 32), True),
)
LABEL_ID_OF = np.array([one.label_id for one in CITYSCAPES_CLASSES], dtype=np.uint8)  # train id -> label id


class Cityscapes(FileDataset):
    """Cityscapes with its 19 classes; all other label ids are ignored.

    root:   leftImg8bit/SPLIT/CITY/ID_leftImg8bit.png, gtFine/SPLIT/CITY/ID_gtFine_labelIds.png and ..._instanceIds.png
    labels: "labelIds", or "trainIds" for files that were converted already (..._labelTrainIds.png)

    Objects are the instances of instanceIds, numbered anew from 1; where a split has no instanceIds files, objects are
    connected components. A group of things that was not taken apart (a value under 1000 of a class with instances)
    and ignored pixels of no instance are of unknown size.
    raises: DataError for files that are missing or bad, and for train ids where label ids are expected or the reverse
    """

    def __init__(self, root: Path | str, split: str = "train", *, labels: str = "labelIds") -> None:
        if labels not in FILES:
            raise ConfigError(f"labels={labels!r}: one of {', '.join(FILES)} is needed")
        folder = find_root(root, (".", "cityscapes", "Cityscapes"), "leftImg8bit", HINT)
        self._labels = labels
        super().__init__("cityscapes", split, _entries(folder, split, FILES[labels]), _classes(labels), None)

    def read_label(self, entry: Entry) -> NDArray[np.uint8]:
        mask = read_mask(entry.label)
        counts = np.bincount(mask.ravel(), minlength=256)
        present = np.flatnonzero(counts)
        if self._labels == "labelIds" and _looks_like_train_ids(counts):
            raise DataError(
                f"{entry.label}: has the values {_listed(present)}, which are train ids where label ids are expected; "
                "give the original labelIds files, or name them ..._labelTrainIds.png and say "
                "+data.train.labels=trainIds +data.evaluate.labels=trainIds"
                + (UNLABELLED if present.max(initial=0) < LABEL_ID_OF[0] else "")
            )
        if self._labels == "trainIds" and _looks_like_label_ids(present):
            raise DataError(
                f"{entry.label}: has the values {_listed(present)}, which are label ids where train ids are expected; "
                "leave out labels=trainIds: label ids need no conversion"
            )
        return self._classes.label(mask, entry.label)

    def classes_of(self, prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Predictions are label ids, as Cityscapes' own evaluation wants them."""
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[LABEL_ID_OF] = np.arange(len(LABEL_ID_OF))
        return table[prediction]

    def other_numbering(self, counts: NDArray[np.int64]) -> str | None:
        if not _looks_like_train_ids(counts):
            return None
        values = _listed(np.flatnonzero(counts))
        return (
            f"the values are {values}, train ids where label ids are expected; predict.py "
            "archive=cityscapes writes label ids to FOLDER/label_ids"
        )

    def read_objects(self, path: Path, label: NDArray[np.uint8]) -> NDArray[np.int32]:
        return number_instances(read_objects(path), label)


def number_instances(values: Array, label: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The values of an instanceIds file -> objects: 1, 2, ... for instances, 0 for stuff, -1 for groups."""
    found, inverse = np.unique(values, return_inverse=True)
    groups = [one.label_id for one in CITYSCAPES_CLASSES if one.has_instances]
    numbers = np.zeros(len(found), dtype=np.int32)
    instances = found >= FIRST_INSTANCE
    numbers[instances] = np.arange(1, int(instances.sum()) + 1)
    numbers[np.isin(found, groups)] = -1
    objects: NDArray[np.int32] = numbers[inverse].reshape(values.shape)
    if objects.shape == label.shape:
        objects[(objects == 0) & (label == IGNORE)] = -1
    return objects


def to_label_ids(label: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Train ids -> the label ids that Cityscapes' own evaluation reads; 255 -> 0 (unlabeled)."""
    table = np.zeros(256, dtype=np.uint8)
    table[: len(LABEL_ID_OF)] = LABEL_ID_OF
    return table[label]


def _classes(labels: str) -> Classes:
    ids = dict.fromkeys(LABEL_IDS, IGNORE)
    ids.update({one.label_id: train_id for train_id, one in enumerate(CITYSCAPES_CLASSES)})
    return Classes(
        tuple(one.name for one in CITYSCAPES_CLASSES),
        np.array([one.colour for one in CITYSCAPES_CLASSES], dtype=np.uint8),
        ids if labels == "labelIds" else {},
        tuple(train_id for train_id, one in enumerate(CITYSCAPES_CLASSES) if one.has_instances),
    )


def _entries(folder: Path, split: str, kind: str) -> list[Entry]:
    images = require_split(folder, split, folder / "leftImg8bit" / split)
    truth = require_split(folder, split, folder / "gtFine" / split)
    entries = []
    with_objects = any(truth.glob("*/*_gtFine_instanceIds.png"))
    for image in sorted(images.glob("*/*_leftImg8bit.png")):
        name = image.name.removesuffix("_leftImg8bit.png")
        stem = truth / image.parent.name / f"{name}_gtFine"
        objects = stem.with_name(f"{stem.name}_instanceIds.png") if with_objects else None
        entries.append(Entry(name, image, stem.with_name(f"{stem.name}_{kind}.png"), objects))
    if not entries:
        raise DataError(f"{images}: there are no CITY/*_leftImg8bit.png files in it")
    first = entries[0].label
    if not first.is_file() and first.with_name(f"{entries[0].name}_gtFine_{FILES['trainIds']}.png").is_file():
        raise DataError(
            f"{first}: no such file, but there is one of train ids; give the original labelIds files, or say "
            "+data.train.labels=trainIds +data.evaluate.labels=trainIds"
        )
    return entries


def _looks_like_train_ids(counts: NDArray[np.int64]) -> bool:
    """All values are train ids, and as label ids they would make no sense: 255 isn't one, or most of it were void."""
    train_ids = [*range(len(CITYSCAPES_CLASSES)), IGNORE]
    if counts[train_ids].sum() < counts.sum():
        return False
    return bool(counts[IGNORE]) or counts[LABEL_ID_OF].sum() < 0.5 * counts.sum()


def _looks_like_label_ids(present: NDArray[np.int64]) -> bool:
    return bool(((present >= len(CITYSCAPES_CLASSES)) & (present < len(LABEL_IDS))).any())


def _listed(values: NDArray[np.int64]) -> str:
    return ", ".join(str(value) for value in values)
