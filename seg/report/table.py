"""A table as cells, and its plain text and Markdown forms; the page renders the same cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Cell:
    """What a table shows at one place; the value, where there is one, decides what is marked as best."""

    text: str
    value: float | None = None
    title: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """columns: (group, name) each, where columns of one group share a heading; rows: a label and its cells."""

    title: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    corner: str = "variant"


def mark_best(table: Table, columns: Iterable[int]) -> Table:
    """The table with the highest value of each named column marked."""
    cells = [list(row) for _, row in table.rows]
    for column in columns:
        for row, cell in zip(cells, best_of([row[column] for row in cells]), strict=True):
            row[column] = cell
    labels = [label for label, _ in table.rows]
    return replace(table, rows=tuple((label, tuple(row)) for label, row in zip(labels, cells, strict=True)))


def best_of(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The cells with the highest value marked, and those that print the same; none where all print the same."""
    known = [cell for cell in cells if cell.value is not None]
    differ = len({cell.text.split(" ±")[0] for cell in known}) > 1
    best = max(known, key=lambda cell: cell.value or 0.0).text.split(" ±")[0] if differ else None
    return tuple(replace(cell, best=cell.text.split(" ±")[0] == best) for cell in cells)


def as_text(table: Table) -> str:
    """Aligned columns for a terminal; a heading over the columns of a group."""
    names = [table.corner, *(name for _, name in table.columns)]
    body = [[label, *(cell.text for cell in cells)] for label, cells in table.rows]
    widths = [max(len(line[i]) for line in [names, *body]) for i in range(len(names))]
    lines = [_text_line(line, widths) for line in [names, *body]]
    rule = "-" * len(lines[0])
    return "\n".join([*_group_line(table, widths), lines[0], rule, *lines[1:]])


def as_markdown(table: Table) -> str:
    """A Markdown table; the best values are bold, and a group's name stands before its columns' names."""
    heads = [table.corner, *(f"{group}: {name}" if group else name for group, name in table.columns)]
    lines = ["| " + " | ".join(map(escape, heads)) + " |", "|" + " --- |" + " ---: |" * len(table.columns)]
    for label, cells in table.rows:
        shown = [f"**{escape(cell.text)}**" if cell.best else escape(cell.text) for cell in cells]
        lines.append("| " + " | ".join([escape(label), *shown]) + " |")
    return "\n".join(lines)


def _text_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])


def _group_line(table: Table, widths: Sequence[int]) -> list[str]:
    if not any(group for group, _ in table.columns):
        return []
    line = " " * widths[0]
    for name, start, stop in spans(table):
        line += "  " + name.center(sum(widths[start + 1 : stop + 1]) + 2 * (stop - start - 1))
    return [line.rstrip()]


def spans(table: Table) -> list[tuple[str, int, int]]:
    """(group, start, stop) of neighbouring columns that share a group; columns without one stand alone."""
    found: list[tuple[str, int, int]] = []
    for index, (group, _) in enumerate(table.columns):
        if found and group and found[-1][0] == group:
            found[-1] = (group, found[-1][1], index + 1)
        else:
            found.append((group, index, index + 1))
    return found


def escape(text: str) -> str:
    """Text of a file that Markdown shows as it is, on one line."""
    for character, escaped in (("\\", "\\\\"), ("|", "\\|"), ("<", "&lt;"), ("\n", " ")):
        text = text.replace(character, escaped)
    return text
