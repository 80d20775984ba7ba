"""A list of classes as plain text: names, perhaps with their ids and their colours in the masks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg.errors import DataError

COLOUR = r"(?P<r>\d{1,3})[\s,]+(?P<g>\d{1,3})[\s,]+(?P<b>\d{1,3})"
COLOURED = (rf"(?P<name>.*\S)[\s,:]+{COLOUR}:*", rf"{COLOUR}[\s,:]+(?P<name>.*\S)")  # the second is original CamVid's
HEADER = r"name\W+r\W+g\W+b"
NUMBERED = r"(\d+)\s*([:;,=\s])\s*(.*\S)"
IGNORED = "ignored"  # a last line of this name tells the id, and the colour, of pixels that don't count


def read_lines(path: Path, text: str) -> dict[str, Any]:
    """What a list of classes says, as the content of a classes.json.

    A line is NAME or NAME R G B (also R G B NAME, parted by commas or colons too), perhaps with the id before the name.
    Blank lines, those that begin with # and a first line "name,r,g,b" don't count.
    raises: DataError where some lines have a colour and others have none, or two have the same
    """
    lines = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if lines and re.fullmatch(HEADER, lines[0], re.IGNORECASE):
        lines = lines[1:]
    entries = [_entry(line) for line in lines]
    coloured = ["color" in entry for entry in entries]
    if any(coloured) and not all(coloured):
        raise DataError(
            f"{path}: {lines[coloured.index(False)]!r} has no colour, but other lines have; write NAME R G B in each"
        )
    _require_unlike_colours(path, entries)
    for entry, numbered in zip(entries, _numbered([entry["name"] for entry in entries]), strict=False):
        entry |= numbered
    ignored = {"ignore_index": len(entries) - 1} if entries and entries[-1]["name"] == IGNORED else {}
    return {"classes": entries, **ignored}


def _entry(line: str) -> dict[str, Any]:
    for form in COLOURED:
        if match := re.fullmatch(form, line):
            return {"name": match["name"], "color": [int(match[channel]) for channel in "rgb"]}
    return {"name": line}


def _require_unlike_colours(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    owners: dict[tuple[int, ...], str] = {}
    for entry in entries:
        colour = tuple(entry.get("color", ()))
        if colour and owners.setdefault(colour, entry["name"]) != entry["name"]:
            raise DataError(
                f"{path}: {owners[colour]} and {entry['name']} have the same colour {' '.join(map(str, colour))}; a "
                "mask's pixels could be of either"
            )


def _numbered(names: Sequence[str]) -> list[dict[str, Any]]:
    """Names and ids apart, where every name has a number before it: one in order from 0 or 1 if only a space parts
    them, since classes may be called "2 wheels". Otherwise nothing."""
    found = [match for match in (re.fullmatch(NUMBERED, name) for name in names) if match]
    ids = [int(match[1]) for match in found]
    in_order = ids in ([*range(len(names))], [*range(1, len(names) + 1)])
    if len(found) < len(names) or not (in_order or all(not match[2].isspace() for match in found)):
        return []
    return [{"id": number, "name": match[3]} for number, match in zip(ids, found, strict=True)]
