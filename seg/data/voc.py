"""PASCAL VOC 2012 for segmentation, with or without SBD; any data set in VOC layout."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg.data.files import Entry, FileDataset, find_root, read_ids
from seg.data.labels import Classes, read_classes, voc_palette
from seg.data.mat import read_mat
from seg.errors import ConfigError, DataError

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
LABELS = "SegmentationClass"
VOC_ID = re.compile(r"20\d\d_\d{6}")  # year and number
HINT = "give the folder that holds JPEGImages, SegmentationClass and ImageSets/Segmentation, or VOCdevkit"
SBD_HINT = "give the folder that holds SBD's img, cls, inst, train.txt and val.txt (benchmark_RELEASE/dataset)"


class VOC(FileDataset):
    """A data set in the layout of VOC 2012, read from the original archive as it unpacks.

    root:     VOCdevkit, VOC2012 in it, or the folder that holds VOCdevkit
              JPEGImages/ID.jpg  SegmentationClass/ID.png  SegmentationObject/ID.png  ImageSets/Segmentation/SPLIT.txt
    split:    the name of a list; or "train_aug": VOC's train list and all of SBD without VOC's val list, which are
              10,582 images in the original archives; where both have an image, VOC's finer masks are taken
    sbd_root: SBD's folder, for train_aug
    labels:   the folder of the label images. Another than SegmentationClass, such as the SegmentationClassAug that goes
              round with all of train_aug, needs no sbd_root but a list of its ids; object masks are not read beside it
    things:   names of the classes that are objects where SegmentationObject is missing: then objects are connected
              components; all classes but the background unless given

    A classes.json beside JPEGImages (or in root) names other classes than VOC's 21; see seg.data.labels.read_classes.
    In SegmentationObject, 255 and the pixels of no object that are ignored are of unknown size.
    name is "PASCAL VOC" for VOC's classes and ids alone; other images in this layout go by their folder's name.
    raises: DataError for a root, list or file that is missing or bad, ConfigError for train_aug without sbd_root
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        *,
        sbd_root: Path | str | None = None,
        labels: str = LABELS,
        things: Sequence[str] | None = None,
    ) -> None:
        folder = find_root(root, (".", "VOC2012", "VOCdevkit/VOC2012"), "ImageSets/Segmentation", HINT)
        lists = folder / "ImageSets" / "Segmentation"
        if labels != LABELS and sbd_root is not None:
            raise ConfigError(
                f"labels={labels} and sbd_root={sbd_root} are two sources of the same labels; leave out one"
            )
        if not (folder / labels).is_dir():
            raise DataError(f"labels={labels}: there is no such folder in {folder}")
        if split == "train_aug" and labels == LABELS:
            entries = _augmented(folder, lists, sbd_root)
        else:
            entries = [_voc_entry(folder, name, labels) for name in read_ids(lists / f"{split}.txt")]
        classes = _classes(folder, Path(root).expanduser())
        name = _name(folder, classes, entries) + ("" if labels == LABELS else f" with {labels}")
        super().__init__(name, split, entries, classes, things)

    def read_label(self, entry: Entry) -> NDArray[np.uint8]:
        if entry.label.suffix == ".mat":
            return self._classes.label(read_mat(entry.label, "GTcls"), entry.label)
        return super().read_label(entry)

    def read_objects(self, path: Path, label: NDArray[np.uint8]) -> NDArray[np.int32]:
        if path.suffix == ".mat":
            return read_mat(path, "GTinst").astype(np.int32)
        return super().read_objects(path, label)


def augmented_ids(train: Sequence[str], sbd: Sequence[str], val: Sequence[str]) -> list[str]:
    """VOC's train list, then what SBD adds to it in order of the ids, without anything in VOC's val list."""
    held_out = set(val)
    added = sorted(set(sbd) - set(train) - held_out)
    return [name for name in train if name not in held_out] + added


def _augmented(folder: Path, lists: Path, sbd_root: Path | str | None) -> list[Entry]:
    if sbd_root is None:
        raise ConfigError(
            f"split=train_aug needs SBD's images, +data.train.sbd_root=FOLDER; {SBD_HINT}; or, with all masks as PNGs "
            "in VOC2012 and their list as train_aug.txt, +data.train.labels=SegmentationClassAug"
        )
    sbd = find_root(sbd_root, (".", "dataset", "benchmark_RELEASE/dataset"), "cls", SBD_HINT)
    train, val = read_ids(lists / "train.txt"), read_ids(lists / "val.txt")
    in_sbd = [name for part in ("train", "val") for name in read_ids(sbd / f"{part}.txt")]
    own = set(train)
    with_objects = (folder / "SegmentationObject").is_dir()
    return [
        _voc_entry(folder, name) if name in own else _sbd_entry(folder, sbd, name, with_objects)
        for name in augmented_ids(train, in_sbd, val)
    ]


def _voc_entry(folder: Path, name: str, labels: str = LABELS) -> Entry:
    objects = folder / "SegmentationObject"
    return Entry(
        name,
        folder / "JPEGImages" / f"{name}.jpg",
        folder / labels / f"{name}.png",
        objects / f"{name}.png" if labels == LABELS and objects.is_dir() else None,
    )


def _sbd_entry(folder: Path, sbd: Path, name: str, with_objects: bool) -> Entry:
    image = folder / "JPEGImages" / f"{name}.jpg"
    if not image.is_file():
        image = sbd / "img" / f"{name}.jpg"
    return Entry(name, image, sbd / "cls" / f"{name}.mat", sbd / "inst" / f"{name}.mat" if with_objects else None)


def _name(folder: Path, classes: Classes, entries: Iterable[Entry]) -> str:
    """What results call the data: no number on other images may pass for one on VOC."""
    if classes.names == VOC_CLASSES and all(VOC_ID.fullmatch(entry.name) for entry in entries):
        return "PASCAL VOC"
    own = (path.name for path in (folder.resolve(), *folder.resolve().parents))
    return next((name for name in own if name and name not in ("VOC2012", "VOCdevkit")), "unnamed data")


def _classes(folder: Path, root: Path) -> Classes:
    for place in (folder, root):
        if (place / "classes.json").is_file():
            return read_classes(place / "classes.json")
    return Classes(VOC_CLASSES, voc_palette(len(VOC_CLASSES)), things=tuple(range(1, len(VOC_CLASSES))))
