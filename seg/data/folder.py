"""One's own images and masks, in folders."""

from collections.abc import Sequence
from pathlib import Path

from seg.data.files import (
    SUFFIXES,
    Entry,
    FileDataset,
    find_image,
    find_root,
    images_in,
    is_picture,
    read_ids,
    require_split,
)
from seg.data.labels import read_classes
from seg.errors import DataError

HINT = "give the folder that holds images, labels and classes.txt (or classes.json)"


class Folder(FileDataset):
    """Images, class masks and, if there are any, object masks of one's own.

        root/classes.txt                one class name a line, the first is id 0; or classes.json
        root/images/SPLIT/ID.jpg        any common format; ID may contain folders
        root/labels/SPLIT/ID.png        8-bit greyscale or palette PNG: class ids, 255 = ignored
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
        self._folders = () if (folder / f"{split}.txt").is_file() else (images, labels)

    def left_out(self) -> list[str]:
        """A line for each picture that no sample is made of, where there is no list that leaves it out."""
        used = {path for entry in self.entries for path in (entry.image, entry.label)}
        beside = (path for folder in self._folders for path in sorted(folder.rglob("*")) if path not in used)
        reasons = {True: "there is no image for this mask", False: "images of this suffix are not read"}
        return [f"{path}: {reasons[path.suffix.lower() in SUFFIXES]}" for path in beside if is_picture(path)]


def _part(folder: Path, part: str, split: str) -> Path:
    by_split = folder / part / split
    if (folder / f"{split}.txt").is_file() and not by_split.is_dir():
        return folder / part
    return require_split(folder, split, by_split)


def _mask(folder: Path, name: str) -> Path:
    return find_image(folder, name, (".png",))


def _images(folder: Path, images: Path, split: str) -> dict[str, Path]:
    ids = folder / f"{split}.txt"
    if ids.is_file():
        return {name: find_image(images, name) for name in read_ids(ids)}
    found = images_in(images)
    if not found:
        raise DataError(f"{images}: there are no images in it")
    return found


def _classes_file(folder: Path, given: Path | str | None) -> Path:
    if given is not None:
        return Path(given).expanduser()
    for name in ("classes.json", "classes.txt"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: there is no classes.txt or classes.json in it; write one class name a line, id 0 first")
