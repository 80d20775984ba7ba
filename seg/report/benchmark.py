"""Tables and charts of a benchmark, from its JSON alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from seg.report.figures import Panel, grid, save_png
from seg.report.table import Cell, Table
from seg.report.theme import Theme

Row = Mapping[str, Any]
OURS = "ours"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
FINE_TICKS = (0.8, 0.9, 1, 1.1, 1.2)


def benchmark_tables(result: Mapping[str, Any]) -> list[Table]:
    """What was counted, and two tables for each measure: times and how they compare; the memory that is needed."""
    memory = [("MiB", "mebibytes", 1)]
    counts = [counted_table(result["counts"])] if "counts" in result else []
    return counts + [
        table_of(title, rows, groups)
        for measure, rows in by_measure(result).items()
        for title, groups in ((measure, times(rows)), (f"{measure}: memory beyond what is there before", memory))
    ]


def times(rows: Sequence[Row]) -> list[tuple[str, str, int]]:
    """Columns of times and ratios; a GPU's times, of less than a millisecond, have more digits."""
    short = min(time for row in rows for time in row["milliseconds"].values()) < 1
    return [("ms", "milliseconds", 4 if short else 2), ("ratio", "ratios", 2)]


def counted_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """What was counted in place of timed, {"parameters": {contender: number}, "flops": ...}, in full."""
    names = list(next(iter(counts.values())))
    lines = [(what, tuple(Cell(f"{found[n]:,}", found[n]) for n in names)) for what, found in counts.items()]
    return Table("counted", tuple(("", name) for name in names), tuple(lines), corner="")


def save_benchmark(result: Mapping[str, Any], path: Path) -> None:
    """One chart for each measure, in a PNG."""
    save_png([panel_of(measure, rows) for measure, rows in by_measure(result).items()], path)


def by_measure(result: Mapping[str, Any]) -> dict[str, list[Row]]:
    """The rows of each measure, in their order."""
    measures: dict[str, list[Row]] = {}
    for row in result["rows"]:
        measures.setdefault(row["measure"], []).append(row)
    return measures


def names_of(rows: Sequence[Row], key: str) -> list[str]:
    """The contenders that any row has under a key."""
    return list(dict.fromkeys(name for row in rows for name in row[key]))


def table_of(title: str, rows: Sequence[Row], groups: Sequence[tuple[str, str, int]]) -> Table:
    """The cases as rows; the groups of columns are (heading, key of the row, digits)."""
    columns = [(group, key, digits, name) for group, key, digits in groups for name in names_of(rows, key)]
    cells = [(row["case"], tuple(cell(row[key].get(name), digits) for _, key, digits, name in columns)) for row in rows]
    return Table(title, tuple((group, name) for group, _, _, name in columns), tuple(cells), corner="case")


def cell(value: float | None, digits: int) -> Cell:
    """A number, or a dash where a contender has none."""
    return Cell("-") if value is None else Cell(f"{value:.{digits}f}", value)


def panel_of(measure: str, rows: Sequence[Row]) -> Panel:
    """The chart of one measure: times as multiples of the bare work's, a plain convolution's say, or else of ours."""
    names = names_of(rows, "milliseconds")
    unit = next((name for name in ("conv2d", "dense", "forward", "plain", "step") if name in names), OURS)
    told = "; ".join(
        f"{row['case']}: " + ", ".join(f"{n} {t:.2f} ms" for n, t in row["milliseconds"].items()) for row in rows
    )
    return Panel(f"{measure} / {unit}", told, partial(draw, rows, names, unit))


def draw(rows: Sequence[Row], names: Sequence[str], unit: str, axes: Axes, theme: Theme) -> None:
    """A line for each case, a dot on it for each contender but the unit, whose place is the line at 1; logarithmic."""
    colours = [theme[role] for role in ("adapts-0", "fixed-0", "adapts-2", "adapts-3", "adapts-1")]
    multiples = [{name: time / row["milliseconds"][unit] for name, time in row["milliseconds"].items()} for row in rows]
    shown = [name for name in names if name != unit] or [unit]
    for i, name in enumerate(shown):
        known = [(k, found[name]) for k, found in enumerate(multiples) if name in found]
        above = 3 if name.startswith(OURS) else 2  # of lines and dots
        colour = colours[i % len(colours)]
        axes.plot([x for _, x in known], [k for k, _ in known], "o", color=colour, label=name, zorder=above)
    low, high = (bound(value for found in multiples for value in found.values()) for bound in (min, max))
    ticks = [tick for tick in TICKS if low / 1.5 <= tick <= high * 1.5]
    if len(ticks) < 3 and high < 1.5:  # in a wider chart they would be crowded
        ticks = [tick for tick in FINE_TICKS if low / 1.2 <= tick <= high * 1.2]
    axes.set_xscale("log")
    axes.set_xlim(low / 1.2, high * 1.2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [row["case"] for row in rows])
    axes.axvline(1, color=theme["ink"], linewidth=1.2, zorder=1.5)
    axes.legend(
        ncols=4 if sum(map(len, shown)) < 40 else 2,
        fontsize=8,
        frameon=False,
        columnspacing=1,
        handletextpad=0.2,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.08),
    )
    grid(axes, theme, axis="x")
