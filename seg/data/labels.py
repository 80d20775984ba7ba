"""Class names, palettes and ids: what the values of a mask mean."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seg.data.class_lines import read_lines
from seg.data.sample import IGNORE, Array
from seg.errors import ConfigError, DataError

BACKGROUND = ("background", "_background_")  # names of a class that is no thing
NO_CLASS = 254  # marks, in a table of ids, the values that a mask must not have


def voc_palette(colours: int = 256) -> NDArray[np.uint8]:
    """The PASCAL VOC colour map, uint8 [colours, 3]: the bits of an id, dealt out to red, green and blue."""
    ids = np.arange(colours)
    palette = np.zeros((colours, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((ids >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return palette


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    names:      by class id
    palette:    uint8 [C, 3], RGB
    ids:        value in a file -> class id, for files that number classes otherwise; a missing value is an error
    things:     ids of the classes that come as countable objects
    flip_pairs: ids that change places in a mirror image
    colours:    colour in a mask (red, green, blue) -> class id; empty where masks of colours can't be read
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]
    ids: Mapping[int, int] = field(default_factory=dict)
    things: tuple[int, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    colours: Mapping[tuple[int, int, int], int] = field(default_factory=dict)

    @cached_property
    def _table(self) -> NDArray[np.uint8]:
        table = np.full(256, NO_CLASS, dtype=np.uint8)
        table[: len(self.names)] = np.arange(len(self.names))
        table[IGNORE] = IGNORE
        if self.ids:
            table[:] = NO_CLASS
            table[list(self.ids)] = list(self.ids.values())
        return table

    def label(self, mask: NDArray[np.uint8], path: Path | str) -> NDArray[np.uint8]:
        """A mask's values [H, W], or colours [H, W, 3], as class ids; raises DataError that names those which stand for
        no class."""
        if mask.ndim == 3:
            return self._label_of_colours(mask, path)
        label: NDArray[np.uint8] = self._table[mask]
        wrong = label == NO_CLASS
        if wrong.any():
            values = np.unique(mask[wrong])
            listed = ", ".join(str(value) for value in values[:8]) + (", ..." if len(values) > 8 else "")
            raise DataError(f"{path}: {int(wrong.sum())} pixels have the value {listed}, expected {self._expected()}")
        return label

    def _label_of_colours(self, mask: NDArray[np.uint8], path: Path | str) -> NDArray[np.uint8]:
        known = sorted(self.colours)
        codes, values = _codes(np.array(known, dtype=np.uint8)), _codes(mask)
        place = np.searchsorted(codes, values).clip(max=len(codes) - 1)
        wrong = codes[place] != values
        if wrong.any():
            colours, counts = np.unique(mask[wrong], axis=0, return_counts=True)
            listed = ", ".join(" ".join(map(str, colours[k])) for k in np.argsort(-counts)[:4].tolist())
            raise DataError(
                f"{path}: {int(wrong.sum())} pixels have the colour {listed}{', ...' if len(colours) > 4 else ''}, "
                f"expected one of the {len(known)} colours in the list of classes; add it there, or write the masks "
                "anew without smoothing, resizing or JPEG on the way"
            )
        return np.array([self.colours[colour] for colour in known], dtype=np.uint8)[place]

    def _expected(self) -> str:
        if self.ids:
            return "one of " + ", ".join(str(value) for value in sorted(self.ids))
        return f"0 to {len(self.names) - 1} ({len(self.names)} classes), or {IGNORE} for ignored pixels"

    def numbers(self, names: Sequence[str]) -> tuple[int, ...]:
        """The ids of classes given by name; raises ConfigError for an unknown one."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise ConfigError(f"things={unknown}: the classes are {', '.join(self.names)}")
        return tuple(self.names.index(name) for name in names)


def read_classes(path: Path) -> Classes:
    """Classes from a file.

    A .txt file has one name a line, the first of which is id 0; see seg.data.class_lines for what else may stand there.
    A .json file has
        {"classes": [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...],
         "ignore_index": 255, "background": 0, "things": [1, 2], "left_right_pairs": [[3, 5]]}
    where only "classes" is required, and in it only "name". The id that is to be ignored may be listed among the
    classes (it must be the last then). Where each has a colour, masks may be of these colours. Without "things", every
    class but the background is one. The classes of a pair, ids or names, change places in a mirror image.

    raises: DataError that names the file and the entry
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: can't be read as a list of classes in UTF-8 ({error})") from None
    if path.suffix != ".json":
        return _classes(path, read_lines(path, text))
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(content, dict):
        raise DataError(f'{path}: expected an object with the key "classes", found a {type(content).__name__}')
    return _classes(path, content)


def _classes(path: Path, content: dict[str, Any]) -> Classes:
    ignore = content.get("ignore_index", content.get("ignore_id", IGNORE))
    entries = content.get("classes")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "name" in entry for entry in entries):
        raise DataError(f'{path}: "classes" must be a list of objects with a "name"')
    for number, entry in enumerate(entries):
        if entry.get("id", number) != number:
            raise DataError(
                f"{path}: class {entry['name']!r} has id {entry['id']}, expected {number}: ids must run from 0"
            )
    colours = _colours(path, entries, ignore)
    if ignore == len(entries) - 1:
        entries = entries[:-1]
    names = tuple(str(entry["name"]) for entry in entries)
    _check_names(path, names, ignore)
    background = content.get("background", 0 if names[0] in BACKGROUND else None)
    if background is not None:
        given = names.index(background) if background in names else background
        (background,) = _numbers(path, "background", [given], len(names))
    things = content.get("things", [number for number in range(len(names)) if number != background])
    counted = {number: number for number in range(len(names))}
    ids = {} if ignore == IGNORE else {**counted, ignore: IGNORE, IGNORE: IGNORE}
    return Classes(
        names,
        _palette(path, entries),
        ids,
        _numbers(path, "things", things, len(names)),
        _pairs(path, content.get("left_right_pairs", []), names),
        colours,
    )


def _check_names(path: Path, names: tuple[str, ...], ignore: object) -> None:
    if len(names) < 2 or len(names) > NO_CLASS:
        raise DataError(f"{path}: {len(names)} classes, expected 2 to {NO_CLASS}; the background, id 0, is one too")
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise DataError(f"{path}: class names must differ, {', '.join(sorted(repeated))} stands there twice")
    if not isinstance(ignore, int) or not len(names) <= ignore <= IGNORE:
        raise DataError(f"{path}: ignored id {ignore!r}, expected a number from {len(names)} to {IGNORE}")


def _colour(path: Path, entry: dict[str, Any]) -> tuple[int, int, int] | None:
    colour = entry.get("color", entry.get("colour"))
    if colour is None:
        return None
    if len(colour) != 3 or not all(isinstance(value, int) and 0 <= value <= 255 for value in colour):
        raise DataError(f"{path}: colour {colour} of class {entry['name']!r}, expected three numbers from 0 to 255")
    red, green, blue = colour
    return red, green, blue


def _palette(path: Path, entries: list[dict[str, Any]]) -> Array:
    palette = voc_palette(len(entries))
    for number, entry in enumerate(entries):
        if (colour := _colour(path, entry)) is not None:
            palette[number] = colour
    return palette


def _colours(path: Path, entries: list[dict[str, Any]], ignore: object) -> dict[tuple[int, int, int], int]:
    """Colour -> class id, where every entry has a colour of its own; empty otherwise."""
    found: dict[tuple[int, int, int], int] = {}
    for number, entry in enumerate(entries):
        if (colour := _colour(path, entry)) is not None:
            found.setdefault(colour, IGNORE if number == ignore else number)
    return found if len(found) == len(entries) else {}


def _codes(colours: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colours [..., 3] as one number each, in the order of (red, green, blue)."""
    red, green, blue = (colours[..., channel].astype(np.uint32) for channel in range(3))
    codes: NDArray[np.uint32] = red * np.uint32(1 << 16) + green * np.uint32(1 << 8) + blue
    return codes


def _numbers(path: Path, key: str, values: Any, classes: int) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(isinstance(v, int) and 0 <= v < classes for v in values):
        raise DataError(f'{path}: "{key}" has {values!r}, expected class ids from 0 to {classes - 1}')
    return tuple(values)


def _pairs(path: Path, pairs: Any, names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    if not isinstance(pairs, list):
        raise DataError(f'{path}: "left_right_pairs" is {pairs!r}, expected a list of pairs of classes')
    found = tuple(_pair(path, pair, names) for pair in pairs)
    paired = [number for pair in found for number in pair]
    repeated = [names[number] for number in dict.fromkeys(paired) if paired.count(number) > 1]
    if repeated:
        raise DataError(f'{path}: "left_right_pairs" has {", ".join(repeated)} twice, expected each class once at most')
    return found


def _pair(path: Path, pair: Any, names: tuple[str, ...]) -> tuple[int, int]:
    """Two ids, or two names, as ids."""
    if not isinstance(pair, list) or len(pair) != 2:
        raise DataError(f'{path}: "left_right_pairs" has the entry {pair!r}, expected two class ids or two names')
    left, right = _numbers(
        path, "left_right_pairs", [names.index(one) if one in names else one for one in pair], len(names)
    )
    return left, right
