"""One's own images and masks, in folders."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg.data.files import (
    SUFFIXES,
    Entry,
    FileDataset,
    find_image,
    find_root,
    images_in,
    is_picture,
    owner,
    read_ids,
    require_split,
    visible,
)
from seg.data.labels import read_classes
from seg.errors import DataError

HINT = "give the folder that holds images, labels and classes.txt (or classes.json)"


class Folder(FileDataset):
    """Images, class masks and, if there are any, object masks of one's own.

        root/classes.txt                one class a line, NAME or NAME R G B, the first is id 0; or classes.json
        root/images/SPLIT/ID.jpg        any common format; ID may contain folders
        root/labels/SPLIT/ID.png        8-bit greyscale or palette: class ids, 255 = ignored; or the colours that
                                        classes.txt gives. PNG, or another format that keeps values
        root/objects/SPLIT/ID.png       optional, 8- or 16-bit: 0 = no object, 1, 2, ... = objects,
                                        255 (8-bit) or 65535 (16-bit) = unknown
        root/SPLIT.txt                  optional: the ids of the split, one a line; without it, every image in
                                        images/SPLIT. With it, files may also lie in images/ directly.

    classes: another file of classes; see seg.data.labels.read_classes for what it may say
    things:  names of the classes that are objects where there are no object masks: then objects are connected
             components
    raises:  DataError for a root, split, list or file that is missing or bad
    """

    def __init__(
        self,
        root: Path | str,
        split: str = "train",
        *,
        classes: Path | str | None = None,
        things: Sequence[str] | None = None,
    ) -> None:
        folder = find_root(root, (".",), "images", HINT)
        images = _part(folder, "images", split)
        labels = _part(folder, "labels", split)
        objects = _part(folder, "objects", split) if (folder / "objects").is_dir() else None
        entries = [
            Entry(name, image, _mask(labels, name), None if objects is None else _mask(objects, name))
            for name, image in _images(folder, images, split).items()
        ]
        super().__init__(folder.resolve().name, split, entries, read_classes(_classes_file(folder, classes)), things)
        self._images, self._labels = images, labels
        self._listed = (folder / f"{split}.txt").is_file()

    def read_label(self, entry: Entry) -> NDArray[np.uint8]:
        if not entry.label.is_file() and (other := self._misnamed.get(entry.name)):
            raise DataError(
                f"{entry.label}: no such file, but there is {other.relative_to(self._labels)}; a mask has the name of "
                "its image, in the same folders, and ends in .png"
            )
        return super().read_label(entry)

    @cached_property
    def _misnamed(self) -> dict[str, Path]:
        """Masks of nearly the name, or in another folder, of an image that has none: image -> mask."""
        missing = {Path(entry.name).name: entry.name for entry in self.entries if not entry.label.is_file()}
        used = {entry.label for entry in self.entries}
        found: dict[str, Path] = {}
        for path in visible(self._labels) if missing else ():
            if is_picture(path) and path not in used and (name := owner(path.stem, missing)):
                found.setdefault(missing[name], path)
        return found

    def left_out(self) -> dict[str, str]:
        """What is wrong with each picture that no sample is made of -> its name, where no list leaves it out."""
        used = {path for entry in self.entries for path in (entry.image, entry.label)} | {*self._misnamed.values()}
        folders = () if self._listed else (self._images, self._labels)
        beside = [path for folder in folders for path in visible(folder) if is_picture(path) and path not in used]
        return {f"{path}: {self._why_left_out(path)}": path.stem for path in beside}

    def _why_left_out(self, path: Path) -> str:
        if not path.exists():
            return "a link to a file that isn't there"
        if path.is_relative_to(self._labels):
            return f"there is no image {self._images / path.relative_to(self._labels).with_suffix('')} for this mask"
        return f"images of this suffix are not read ({', '.join(SUFFIXES)} are)"


def _part(folder: Path, part: str, split: str) -> Path:
    by_split, ids = folder / part / split, folder / f"{split}.txt"
    if ids.is_file() and not by_split.is_dir():
        return folder / part
    return require_split(folder, split, by_split, f"; make it, or list the split's ids in {ids}")


def _mask(folder: Path, name: str) -> Path:
    return find_image(folder, name, (".png", *SUFFIXES))


def _images(folder: Path, images: Path, split: str) -> dict[str, Path]:
    ids = folder / f"{split}.txt"
    if ids.is_file():
        listed = {name: find_image(images, name) for name in read_ids(ids)}
        for name, path in listed.items():
            if Path(name).suffix.lower() in SUFFIXES and not path.is_file():
                raise DataError(f"{ids}: {name!r} is the name of a file; a list has ids, such as {Path(name).stem}")
        return listed
    found = images_in(images)
    if not found:
        raise DataError(f"{images}: there are no images in it ({', '.join(SUFFIXES)})")
    return found


def _classes_file(folder: Path, given: Path | str | None) -> Path:
    if given is not None:
        return Path(given).expanduser()
    for name in ("classes.json", "classes.txt"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: there is no classes.txt or classes.json in it; write one class name a line, id 0 first")
