"""Charts of what scripts/study.py measured, drawn from its JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import ListedColormap
from matplotlib.ticker import NullLocator

from seg.report.figures import Panel, grid, label_ends
from seg.report.results import SIZES
from seg.report.theme import Theme, layer_role, variant_roles
from seg.report.variants import samples_fixed

Document = Mapping[str, Any]


def points(document: Document) -> np.ndarray:
    """[objects, 2]: length or size, and the reach, or else mean effective dilation; objects without a filter of each
    layer are out."""
    if "points" in document:
        return np.array(document["points"]).reshape(-1, 2)
    known = [
        (row[document["by"]], [row["reach"]] if "reach" in row else list(row["dilation"].values()))
        for row in document["objects"]
    ]
    return np.array([(size, np.mean(values)) for size, values in known if values and None not in values]).reshape(-1, 2)


def scatter(document: Document) -> Panel:
    """Effective dilation of each object, averaged over layers, or its reach, against its length or size."""
    key, found = document["by"], next(iter(document["correlation"].values()))
    what, unit = ("reach", "px") if "reach" in document["correlation"] else ("effective dilation", "cells")
    shown = points(document)

    def draw(axes: Axes, theme: Theme) -> None:
        axes.plot(*shown.T, "o", color=theme["adapts-0"], markersize=3, alpha=0.45, markeredgewidth=0)
        axes.set_xscale("log")
        grid(axes, theme)
        _plain_ticks(axes, shown[:, 0])
        axes.set_xlabel(_of_the_object(key))
        axes.set_ylabel(f"{what}, {unit}")
        if what == "reach":
            axes.set_ylim(bottom=0)

    return Panel(
        f"{document['variant']}: ρ = {_correlation(found)}",
        f"{what.capitalize()} against {key} of {found['objects']} objects, rank correlation {_correlation(found)}",
        draw,
    )


def by_length(documents: Sequence[Document], what: str) -> Panel:
    """The mean accuracy, or reach, of the objects in each bin of length, a line for each net; bars are 95 % intervals
    over images.

    A dashed line marks where the training's objects end, if some are longer.
    """
    key, longest = documents[0]["by"], documents[0].get("longest_in_training")
    longest = longest if longest and any(longest < one["to"] for one in documents[0]["bins"]) else None

    def draw(axes: Axes, theme: Theme) -> None:
        roles = variant_roles({document["variant"]: not samples_fixed(document) for document in documents})
        ends = []
        for index, document in enumerate(documents):
            role = roles[document["variant"]]
            bins = [one for one in document["bins"] if one[what] is not None]
            x = [_middle(one) * 1.015 ** (index - len(documents) / 2) for one in bins]
            y = np.array([one[what] for one in bins])
            low, high = (np.array([v if (v := one[k]) is not None else one[what] for one in bins]) for k in ENDS)
            axes.errorbar(x, y, [y - low, high - y], fmt="none", ecolor=theme[role], alpha=0.5, elinewidth=1.5)
            axes.plot(x, y, "o-", color=theme[role], markersize=5, linewidth=1.8)
            ends.append((y[-1] if bins else None, document["variant"], role))
        if longest:
            axes.axvline(longest, color=theme["muted"], linewidth=1, dashes=(4, 3))
        axes.set_xscale("log")
        grid(axes, theme)
        _plain_ticks(axes, [edge for document in documents for one in document["bins"] for edge in _edges(one)])
        axes.set_xlabel(_of_the_object(key) + ("; dashes: longest in training" if longest else ""))
        axes.set_ylabel("reach, px" if what == "reach" else what)
        if what == "reach":
            axes.set_ylim(bottom=0)
        label_ends(axes, theme, ends)

    by = "length" if key == "length" else "size"
    return Panel(f"{what.capitalize()} by {by}", f"{what.capitalize()} of objects by {by}: {_names(documents)}", draw)


def lengths_of_moves(document: Document) -> Panel:
    """How often a tap moves how far in one step of training, by layer, on logarithmic axes."""
    edges = np.array(document["edges"])
    middle = np.sqrt(np.maximum(edges[:-1], edges[1] / 2) * edges[1:])

    def draw(axes: Axes, theme: Theme) -> None:
        layers = list(document["counts"])
        seen = np.flatnonzero(np.sum([document["counts"][layer] for layer in layers], axis=0))
        for index, layer in enumerate(layers):
            share = np.array(document["counts"][layer]) / max(sum(document["counts"][layer]), 1)
            axes.plot(middle, share, color=theme[layer_role(index, len(layers))], linewidth=1.8, label=layer)
        axes.axvline(1, color=theme["muted"], linewidth=1, dashes=(4, 3))
        axes.set_xscale("log")
        axes.set_xlim(middle[seen[0]] / 2, max(middle[seen[-1]] * 2, 2))
        _powers(axes.xaxis)
        grid(axes, theme)
        axes.set_xlabel("move of a tap in one step, cells; dashes: one cell")
        axes.set_ylabel("share of the moves")
        _legend(axes, theme)

    says = "Histogram of the moves of taps in one step of training, by layer"
    return Panel("Moves in one step", says, draw)


def moves_over_training(document: Document) -> Panel:
    """Median and 99.9 % of the moves, the largest of the layers, over the steps of the training."""
    steps = sorted({row["step"] for row in document["steps"]})
    largest = {
        name: [max(row[key] for row in document["steps"] if row["step"] == step) for step in steps]
        for name, key in (("median", "median"), ("99.9 %", "q999"))
    }

    def draw(axes: Axes, theme: Theme) -> None:
        for role, (name, values) in zip(("layer-2", "layer-4"), largest.items(), strict=True):
            axes.plot(steps, np.maximum(values, 1e-6), color=theme[role], linewidth=1.5, label=name)
        axes.axhline(1, color=theme["muted"], linewidth=1, dashes=(4, 3))
        axes.set_yscale("log")
        _powers(axes.yaxis)
        grid(axes, theme)
        axes.set_xlabel("step of training")
        axes.set_ylabel("move in one step, cells")
        _legend(axes, theme)

    return Panel("Moves over the training", "Median and 99.9 % of the moves in one step, over the training", draw)


def unread(document: Document) -> Panel:
    """The share of the cells to which no tap is nearest, by layer and size."""
    rows = {(row["layer"], row["size"]): row["share_without_tap"] for row in document["rows"]}
    layers = list(dict.fromkeys(layer for layer, _ in rows))

    def draw(axes: Axes, theme: Theme) -> None:
        width = 0.8 / len(layers)
        for index, layer in enumerate(layers):
            values = [np.nan if (share := rows[layer, size]) is None else share for size in SIZES]
            places = np.arange(4) + width * (index - (len(layers) - 1) / 2)
            axes.bar(places, values, 0.9 * width, color=theme[layer_role(index, len(layers))], label=layer)
        grid(axes, theme)
        axes.set_xticks(range(4), SIZES)
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g} %")  # as many digits as tell ticks apart
        axes.set_ylabel("cells without a tap within half a cell")
        _legend(axes, theme)

    says = "Share of cells without a tap within half a cell, by size"
    return Panel("Cells that no tap is nearest to", says, draw)


def taps(document: Document, layer: str) -> Panel:
    """How many taps are nearest to each cell in one image; objects outlined, cells without a tap in the accent."""
    found = document["map"]["layers"][layer]
    counts, objects = np.array(found["taps"]), np.array(found["on_object"])

    def draw(axes: Axes, theme: Theme) -> None:
        shown = axes.imshow(np.ma.masked_equal(counts, 0), cmap="viridis", vmin=0, vmax=np.quantile(counts, 0.99))
        axes.imshow(np.ma.masked_not_equal(counts, 0), cmap=ListedColormap([theme["accent"]]), vmin=0, vmax=1)
        axes.contour(objects, [0.5], colors=[theme["paper"]], linewidths=1.4)
        axes.set_axis_off()
        axes.figure.colorbar(shown, ax=axes, shrink=0.8, label="taps")

    return Panel(
        f"{layer}, {document['map']['image']}", f"Taps nearest to each cell of the map that {layer} reads", draw
    )


def shares(document: Document) -> Panel:
    """What of each layer's offsets is constant, position and content, as bars that add up to one."""
    rows = [row for row in document["rows"] if row["content"] is not None]

    def draw(axes: Axes, theme: Theme) -> None:
        start = np.zeros(len(rows))
        for role, part in (("fixed-3", "constant"), ("size-1", "position"), ("adapts-0", "content")):
            values = np.array([row[part] for row in rows])
            axes.barh(range(len(rows)), values, 0.6, start, color=theme[role], label=part)
            start += values
        axes.set_yticks(range(len(rows)), [row["layer"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter("{x:.0%}")
        axes.set_xlabel("share of the offsets' mean square")
        grid(axes, theme, "x")
        _legend_above(axes, theme)

    says = "What of the offsets is constant, position and content, by layer"
    return Panel("", says, draw, tuple(row["layer"] for row in rows))


def shifted(document: Document) -> Panel:
    """Correlation of offsets at the same content and at the same place once the image is shifted, by layer."""
    rows = [row for row in document["shifted"] if row["follows"] is not None]

    def draw(axes: Axes, theme: Theme) -> None:
        for role, key, name in (
            ("adapts-0", "follows", "at the same content"),
            ("size-1", "stays", "at the same place"),
        ):
            axes.plot([row[key] for row in rows], range(len(rows)), "o", color=theme[role], markersize=7, label=name)
        axes.set_yticks(range(len(rows)), [row["layer"] for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(-0.1, 1.05)
        grid(axes, theme, "x")
        axes.set_xlabel(f"correlation of offsets, image shifted by {document['shift']} px")
        _legend_above(axes, theme)

    says = "Correlation of offsets when the image is shifted, by layer"
    return Panel("", says, draw, tuple(row["layer"] for row in rows))


def classes(document: Document) -> Panel:
    """Effective dilation of the filters on each class, by layer; the classes in the order of their mean."""
    cells = {(row["class"], row["layer"]): row["mean"] for row in document["rows"] if row["mean"] is not None}
    layers = list(dict.fromkeys(layer for _, layer in cells))
    known = dict.fromkeys(kind for kind, _ in cells)
    # a thin class may have a filter in a fine layer and none in a coarse one
    names = sorted(known, key=lambda kind: np.mean([cells[kind, layer] for layer in layers if (kind, layer) in cells]))

    def draw(axes: Axes, theme: Theme) -> None:
        for index, layer in enumerate(layers):
            values = [cells.get((kind, layer), np.nan) for kind in names]
            role = layer_role(index, len(layers))
            axes.plot(values, range(len(names)), "o", color=theme[role], markersize=5, label=layer, clip_on=False)
        axes.set_yticks(range(len(names)), names, fontsize=9)
        axes.set_ylim(-0.7, len(names) - 0.3)
        grid(axes, theme, "x")
        axes.set_xlabel("effective dilation, cells")
        _legend_above(axes, theme)

    return Panel("", "Mean effective dilation of the filters on each class, by layer", draw, tuple(names))


def _objects(document: Document) -> list[Panel]:
    return [scatter(document), by_length([document], "accuracy")]


def _reach(document: Document) -> list[Panel]:
    return [scatter(document), by_length([document], "reach")]


def _coverage(document: Document) -> list[Panel]:
    return [unread(document), *(taps(document, layer) for layer in list(document["map"]["layers"])[-2:])]


def _content(document: Document) -> list[Panel]:
    return [shares(document), shifted(document)]


def _movement(document: Document) -> list[Panel]:
    return [lengths_of_moves(document), moves_over_training(document)]


PANELS: Mapping[str, Callable[[Document], list[Panel]]] = {
    "objects": _objects,
    "reach": _reach,
    "classes": lambda document: [classes(document)],
    "coverage": _coverage,
    "content": _content,
    "movement": _movement,
}
ENDS = ("low", "high")
MOST_NAMED = 8  # lines of a legend


def _of_the_object(key: str) -> str:
    return "size of the object in px of the net's input" if key == "seen" else f"{key} of the object in px"


def _edges(one: Mapping[str, Any]) -> tuple[float, float]:
    return one["from"], one["to"]


def _middle(one: Mapping[str, Any]) -> float:
    """Where a bin is drawn on a logarithmic axis, which has no 0."""
    start, stop = _edges(one)
    return ((start or stop / 4) * stop) ** 0.5


def _names(documents: Sequence[Document]) -> str:
    return ", ".join(str(document["variant"]) for document in documents)


def with_interval(found: Mapping[str, Any], key: str, digits: int = 2) -> str | None:
    """A number and its 95 % interval as a person writes them; None where there is none."""
    if found[key] is None:
        return None
    # an end keeps the sign of a zero: it says whether the interval reaches across
    ends = "" if found["low"] is None else f" ({found['low']:.{digits}f} to {found['high']:.{digits}f})"
    return f"{found[key]:z.{digits}f}{ends}".replace("-", "−")


def _correlation(found: Mapping[str, Any]) -> str:
    return with_interval(found, "rho") or "not defined"


def _plain_ticks(axes: Axes, values: Any) -> None:
    """Round numbers on a logarithmic axis of px; none where nothing is shown."""
    low, high = min(values, default=1), max(values, default=0)
    ticks = [t for t in (5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560) if 0.9 * low <= t <= 1.1 * high]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()


def _legend_above(axes: Axes, theme: Theme) -> None:
    """In one line, where the panel has no title; none where nothing is shown."""
    if not axes.lines and not axes.patches:
        return
    axes.legend(
        *_few(axes), frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1.02, 1), borderaxespad=0,
        columnspacing=1, handletextpad=0.2, handlelength=1.4, labelcolor=theme["ink"],
    )  # fmt: skip


def _powers(axis: Axis) -> None:
    """Powers of ten as a person writes them, since the charts' text is never taken for mathematics."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def _legend(axes: Axes, theme: Theme) -> None:
    handles, labels = _few(axes)
    axes.legend(handles, labels, frameon=False, fontsize=9, labelcolor=theme["ink"])


def _few(axes: Axes) -> tuple[list[Any], list[str]]:
    """What a legend names: of many layers, whose colours go from one end to the other, the first and the last."""
    handles, labels = axes.get_legend_handles_labels()
    return (handles, labels) if len(labels) <= MOST_NAMED else (handles[:: len(labels) - 1], labels[:: len(labels) - 1])
