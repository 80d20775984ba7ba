"""CamVid with 11 classes, in the arrangement of the SegNet tutorial."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seg.data.files import Entry, FileDataset, find_image, find_root, images_in, read_ids, require_split
from seg.data.labels import Classes, read_classes
from seg.data.sample import IGNORE
from seg.errors import DataError

CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "sidewalk", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (0, 0, 192), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOID = 11
THINGS = ("signsymbol", "car", "pedestrian", "bicyclist")
HINT = "give the folder that holds images/SPLIT and labels/SPLIT, or the SegNet tutorial's with train and trainannot"


class CamVid(FileDataset):
    """CamVid: 367 train, 101 val and 233 test images; void (11) is ignored.

    root:   images/SPLIT/ID.jpg, labels/SPLIT/ID.png and, if it is to be a part of them, SPLIT.txt with the ids;
            or SPLIT/ID.png and SPLITannot/ID.png as in the SegNet tutorial
    things: names of the classes that are objects, by default those of classes.json, or signs, cars, pedestrians and
            bicyclists; CamVid has no object masks, so objects are connected components
    raises: DataError for a root, list or file that is missing or bad
    """

    def __init__(self, root: Path | str, split: str = "train", *, things: Sequence[str] | None = None) -> None:
        folder = Path(root).expanduser()
        if (folder / f"{split}annot").is_dir():
            entries = _tutorial_entries(folder, split)
        else:
            folder = find_root(root, (".", "CamVid", "camvid"), "labels", HINT)
            entries = _entries(folder, split)
        own = folder / "classes.json"
        classes = read_classes(own) if own.is_file() else _classes()
        if things is None and classes.names == CAMVID_CLASSES and len(classes.things) in (0, VOID):  # it names none
            things = THINGS
        super().__init__("camvid", split, entries, classes, things)


def _entries(folder: Path, split: str) -> list[Entry]:
    images, labels = require_split(folder, split, folder / "images" / split), folder / "labels" / split
    ids = folder / f"{split}.txt"
    found = {name: find_image(images, name) for name in read_ids(ids)} if ids.is_file() else images_in(images)
    if not found:
        raise DataError(f"{images}: there are no images in it")
    return [Entry(name, image, labels / f"{name}.png") for name, image in found.items()]


def _tutorial_entries(folder: Path, split: str) -> list[Entry]:
    labels = images_in(folder / f"{split}annot")
    if not labels:
        raise DataError(f"{folder / f'{split}annot'}: there are no masks in it")
    return [Entry(name, find_image(folder / split, name), label) for name, label in labels.items()]


def _classes() -> Classes:
    ids = {**{number: number for number in range(VOID)}, VOID: IGNORE, IGNORE: IGNORE}
    return Classes(CAMVID_CLASSES, np.array(COLOURS, dtype=np.uint8), ids)
