"""Records of a run as rows: flat names for nested values, and a CSV file of them for spreadsheets."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seg.engine.checkpoint import write_text


def flat(record: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a record by path, such as offset/layer4.0.conv2/mean; a list becomes its words."""
    row: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            row |= flat(value, f"{prefix}{key}/")
        else:
            row[prefix + key] = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
    return row


def write_rows(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write the file anew, with a column for every name; a record without it leaves the field empty."""
    rows = [flat(record) for record in records]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_text(path, _lines(columns, [dict(zip(columns, columns, strict=True)), *rows]))


def append_row(path: Path, record: dict[str, Any]) -> bool:
    """Add a row; False, with nothing written, where the file has not all the columns for it."""
    columns, row = _columns(path), flat(record)
    if not row.keys() <= set(columns):
        return False
    with path.open("a", newline="") as file:
        file.write(_lines(columns, [row]))
    return True


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _lines(columns: list[str], rows: Iterable[dict[str, Any]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
