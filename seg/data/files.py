"""Data sets of files: lists of ids, the files that belong to an id, and the sample made of them."""

import re
import unicodedata
from collections.abc import Container, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from seg.data.images import read_image, read_mask, read_objects
from seg.data.labels import Classes
from seg.data.object_size import connected_components
from seg.data.sample import IGNORE, Sample
from seg.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


@dataclass(frozen=True)
class Entry:
    """The files of one sample; objects is None where the data set has no object masks."""

    name: str
    image: Path
    label: Path
    objects: Path | None = None


class FileDataset:
    """A data set whose samples are an image file, a label file and perhaps an object file each."""

    def __init__(
        self, name: str, split: str, entries: Sequence[Entry], classes: Classes, things: Sequence[str] | None
    ) -> None:
        if not entries:
            raise DataError(f"{name} {split}: the split is empty")
        self.name = name
        self.split = split
        self.entries = entries
        self.names = [entry.name for entry in entries]
        self.classes = classes.names
        self.palette = classes.palette
        self.flip_pairs = classes.flip_pairs
        self.object_source = "components" if entries[0].objects is None else "masks"
        self.with_objects = True
        self._classes = classes
        self._things = classes.things if things is None else classes.numbers(things)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} {self.split} has {len(self)} images, there is no number {index}")
        entry = self.entries[index]
        image, label = read_image(entry.image), self.read_label(entry)
        _require_size(entry.label, label, entry.image, image)
        objects = self._objects(entry, label) if self.with_objects else None
        return Sample(image, label, objects, entry.name, self.flip_pairs)

    def _objects(self, entry: Entry, label: NDArray[np.uint8]) -> NDArray[np.int32]:
        if entry.objects is None:
            return connected_components(label, self._things)
        objects = self.read_objects(entry.objects, label)
        _require_size(entry.objects, objects, entry.label, label)
        return objects

    def without_objects(self) -> Self:
        """The same images and labels alone, for training, which asks for no sizes: finding objects takes its time."""
        alone = copy(self)
        alone.with_objects = False
        return alone

    def read_label(self, entry: Entry) -> NDArray[np.uint8]:
        """Class ids of one sample, 255 = ignored."""
        return self._classes.label(read_mask(entry.label, colours=bool(self._classes.colours)), entry.label)

    def classes_of(self, prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The values of a predicted label file as class ids; what is none of the classes becomes 255."""
        return prediction

    def other_numbering(self, counts: NDArray[np.int64]) -> str | None:
        """What to say of predicted files whose values, counted [256], must be of another numbering; None of others."""
        return None

    def read_objects(self, path: Path, label: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Objects of one sample: 0 = none, k = object k, -1 = unknown. Unknown are the largest value that the file's
        encoding has (255 in 8 bits, 65535 in 16) and the pixels of no object whose label is ignored."""
        numbers = read_objects(path)
        unknown = numbers == (255 if numbers.dtype == np.uint8 else 65535)
        if numbers.shape == label.shape:
            unknown |= (numbers == 0) & (label == IGNORE)
        return np.where(unknown, -1, numbers.astype(np.int32))


def read_ids(path: Path, *, of_files: bool = False) -> list[str]:
    """The ids in a list file, one a line; blank lines, spaces at the ends and Windows line ends don't matter.

    of_files: the lines are paths of files, which may lead anywhere
    raises:   DataError for a missing or empty list, an id that stands there twice or that leaves the data set's folder
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such list of ids{_other_lists(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as a list of ids ({error})") from None
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise DataError(f"{path}: the list of ids is empty")
    if not of_files:
        require_safe(ids, path)
    require_unique(ids, path)
    return ids


def require_safe(ids: Iterable[str], path: Path) -> None:
    """Raises DataError for an id that would lead out of the data set's folder."""
    for one in ids:
        parts = PurePosixPath(one.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or "\0" in one:
            raise DataError(
                f"{path}: the id {one!r} leads out of the data set's folder; a list has one id a line, such as "
                "2007_000032, not the paths of files"
            )


def require_unique(ids: Sequence[str], path: Path) -> None:
    """Raises DataError if an id occurs twice, since it would count twice in every metric."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise DataError(f"{path}: the id {one!r} stands there twice; remove one")
        seen.add(one)


def find_root(given: Path | str, candidates: Iterable[str], needed: str, hint: str) -> Path:
    """The first of the candidate folders under a root that has what is needed.

    raises: DataError that says what was looked for, and where
    """
    root = Path(given).expanduser()
    if not root.is_dir():
        raise DataError(f"root={given}: no such folder; {hint}")
    for candidate in candidates:
        if (root / candidate / needed).exists():
            return root / candidate
    raise DataError(f"root={given}: there is no {needed} in it; {hint}")


def find_image(folder: Path, name: str, suffixes: Sequence[str] = SUFFIXES) -> Path:
    """The image of an id, whatever its suffix, also in capitals or with one; where there is none that of the first
    suffix, so that the error of reading it names a file."""
    # macOS writes ä as two characters, others as one
    for written in dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))):
        for spelled in (str.lower, str.upper, str.title):
            for suffix in suffixes:
                if (path := folder / f"{written}{spelled(suffix)}").is_file():
                    return path
    return folder / f"{name}{suffixes[0]}"


def is_picture(path: Path) -> bool:
    """Whether a name is that of a picture, of a kind that is read here or of another."""
    return path.suffix.lower() in PIL.Image.registered_extensions()


def visible(folder: Path) -> Iterator[Path]:
    """Everything in a folder and the folders in it, in order, but for what is hidden, as ._ID.jpg of macOS."""
    paths = sorted(folder.rglob("*"))
    return (path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def images_in(folder: Path) -> dict[str, Path]:
    """Every image in a folder and the folders in it: id -> file, in order of the ids."""
    found: dict[str, Path] = {}
    for path in visible(folder):
        if path.suffix.lower() not in SUFFIXES or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            raise DataError(f"{path} and {found[name]} have the same id {name!r}; remove one")
        found[name] = path
    return found


def owner(stem: str, names: Container[str]) -> str | None:
    """The longest of the names that a file's has before or behind it something parted by _, -, . or a space."""
    parts = re.split(r"([_\-. ]+)", stem)
    cuts = range(len(parts), 0, -1)
    pieces = ("".join(piece) for cut in cuts for piece in (parts[:cut], parts[len(parts) - cut :]))
    return next((piece for piece in pieces if piece in names), None)


def require_split(root: Path, split: str, folder: Path, way_out: str = "") -> Path:
    """The folder of a split; raises DataError that lists the ones there are."""
    if not folder.is_dir():
        above = folder.parent if folder.parent.is_dir() else root
        beside = sorted(path.name for path in above.iterdir() if path.is_dir())
        there = f"there are {', '.join(beside)} in {above}" if beside else f"{above} has no folders"
        raise DataError(f"split={split}: no folder {folder.relative_to(root)} in {root}; {there}{way_out}")
    return folder


def _other_lists(path: Path) -> str:
    lists = sorted(other.stem for other in path.parent.glob("*.txt")) if path.parent.is_dir() else []
    return f"; there are lists for {', '.join(lists)}" if lists else ""


def _require_size(path: Path, mask: np.ndarray, other_path: Path, other: np.ndarray) -> None:
    (height, width), (other_height, other_width) = mask.shape[:2], other.shape[:2]
    if (height, width) != (other_height, other_width):
        raise DataError(
            f"{path} is {width}x{height} px but {other_path} is {other_width}x{other_height} px; they must agree"
        )
