"""Typed access to JSON files; every error names the file and the key."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seg.errors import DataError
from seg.report.results import Numbers


def load(path: Path) -> Any:
    """The document in a file; NaN and infinities, which are no JSON, are null."""
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); evaluate the run again") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None


def lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The lines of metrics.jsonl; one that is cut off, as a kill leaves it, is passed over."""
    if not path.exists():
        return
    try:
        written = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from error
    for line in written.split("\n"):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            yield row


def mapping(value: Any, path: Path, key: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{path}: {key} is {type(value).__name__}; expected an object")
    return value


def rows_of(document: Mapping[str, Any], key: str, path: Path) -> list[Mapping[str, Any]]:
    rows = document.get(key) or []
    if not isinstance(rows, list):
        raise DataError(f"{path}: {key} is {type(rows).__name__}; expected a list of objects")
    return [mapping(row, path, f"an entry of {key}") for row in rows]


def word(row: Mapping[str, Any], key: str, path: Path) -> str:
    if row.get(key) is None:
        raise DataError(f"{path}: an entry has no {key!r}; it has {sorted(row)}")
    return plain(str(row[key]))


def plain(text: str) -> str:
    """The text with "?" for what no file can hold, such as half a character of a name that is no UTF-8."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")


def number(row: Mapping[str, Any], key: str, path: Path) -> float | None:
    """A finite number, or None where it is missing, null or NaN."""
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(f"{path}: {key} is {value!r}; expected a number or null")
    return value if _finite(value) else None


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all that a float holds
        return False


def numbers(document: Mapping[str, Any], key: str, path: Path) -> Numbers:
    table = mapping(document.get(key) or {}, path, key)
    return {str(name): number(table, name, path) for name in table}


def list_of_numbers(row: Mapping[str, Any], key: str, path: Path) -> tuple[float, ...]:
    values = row.get(key)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise DataError(f"{path}: {key} isn't a list of numbers")
    if not all(map(_finite, values)):
        raise DataError(f"{path}: {key} has a number that is not finite")
    return tuple(values)


def inside(name: str, path: Path) -> Path:
    """A path that a file names, which may only point below that file's folder: a report embeds what it points to."""
    found = (path.parent / name).resolve()
    if not found.is_relative_to(path.parent.resolve()):
        raise DataError(f"{path}: {name!r} points outside the run folder")
    return found
