"""Charts: each panel is one small drawing, shown alone on the page and beside its neighbours in a PNG."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seg.report import theme as themes
from seg.report.theme import Theme

WIDTH, HEIGHT = 4.4, 3.0  # inches of one panel, which is higher where many names stand in it
TITLE = 0.3  # inches more for a title
# matplotlib's own style sheet would reach the whole page; its metadata and namespaces are nothing to a browser
_FOREIGN = re.compile(r'<metadata>.*?</metadata>|<style[^>]*>.*?</style>| xmlns(:\w+)?="[^"]*"', re.DOTALL)
_FONT = re.compile(r"font-family: [^;\"]*")
_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')


@dataclass(frozen=True)
class Panel:
    """One chart: its heading, what it shows in words, how it is drawn, and the names that need a line of its height."""

    title: str
    alt: str
    draw: Callable[[Axes, Theme], None]
    names: tuple[str, ...] = ()

    @property
    def height(self) -> float:
        """In inches."""
        return max(HEIGHT, 0.8 + 0.22 * sum(1 + in_lines(name).count("\n") for name in self.names))


def as_svg(panel: Panel, name: str) -> str:
    """A panel as inline SVG that takes its colours and its font from the page."""
    with settings(themes.marks(), name):
        figure = Figure(figsize=(WIDTH, panel.height), layout="constrained")
        _draw(figure.subplots(), panel, themes.marks())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = _FOREIGN.sub("", svg[svg.index("<svg") :]).replace("xlink:href", "href")
    svg = themes.with_variables(svg)
    # ids are unique within a figure only, the page holds many
    return _REFERENCE.sub(rf"\g<1>{name}-", _FONT.sub("font-family: inherit", svg))


def save_png(panels: Sequence[Panel], path: Path) -> None:
    """The panels side by side, as PATH for light and as PATH with -dark before its ending for dark pages."""
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    for theme, target in ((themes.LIGHT, path), (themes.DARK, path.with_stem(f"{path.stem}-dark"))):
        with settings(theme, path.stem):
            rows = -(-len(panels) // columns)
            height = max(panel.height for panel in panels) + TITLE
            figure = Figure(figsize=(WIDTH * columns, height * rows), layout="constrained")
            axes = figure.subplots(rows, columns, squeeze=False).ravel()
            for axis, panel in zip(axes, panels, strict=False):
                axis.set_title(
                    in_lines(panel.title, 44), loc="left", fontsize=10, fontweight="bold", color=theme["ink"], pad=10
                )
                _draw(axis, panel, theme)
            for axis in axes[len(panels) :]:
                axis.set_axis_off()
            figure.savefig(target, dpi=160, facecolor=theme["paper"])


@contextmanager
def settings(theme: Theme, name: str) -> Iterator[None]:
    """Matplotlib's settings while one figure is drawn."""
    values: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "text.parse_math": False,  # a class may be called $x$
        "font.size": 10,
        "text.color": theme["ink"],
        "axes.facecolor": "none",
        "axes.edgecolor": theme["muted"],
        "axes.labelcolor": theme["muted"],
        "axes.linewidth": 0.8,
        "axes.unicode_minus": True,
        "xtick.color": theme["muted"],
        "ytick.color": theme["muted"],
        "lines.solid_capstyle": "round",
    }
    with matplotlib.rc_context(values), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _draw(axes: Axes, panel: Panel, theme: Theme) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=3, width=0.8)
    panel.draw(axes, theme)


def grid(axes: Axes, theme: Theme, axis: str = "y") -> None:
    """Faint lines behind the data, along one axis, which then needs no line of its own."""
    axes.grid(axis=axis, color=theme["rule"], linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines["left" if axis == "y" else "bottom"].set_visible(False)
    axes.tick_params(axis=axis, length=0)  # type: ignore[arg-type]


def label_ends(axes: Axes, theme: Theme, ends: Sequence[tuple[float | None, str, str]]) -> None:
    """Names at the right edge, (height, text, colour role) each, moved apart where they would touch; None has no end.

    Long names are in lines.
    """
    axes.autoscale_view(scalex=False)
    to_axes = axes.transScale + axes.transLimits
    known = [(height, in_lines(text), theme[role]) for height, text, role in ends if height is not None]
    wanted = [float(to_axes.transform((0, height))[1]) for height, _, _ in known]
    figure, subplot = axes.get_figure(root=True), axes.get_subplotspec()
    assert figure is not None
    rows = 1 if subplot is None else subplot.get_gridspec().nrows
    tall = max(1.0, figure.get_figheight() / rows / (HEIGHT + TITLE))
    heights = [(0.085 + 0.06 * text.count("\n")) / tall for _, text, _ in known]
    for place, (_, text, colour) in zip(spread(wanted, heights, top=1), known, strict=True):
        axes.annotate(
            text,
            (1, place),
            xycoords="axes fraction",
            xytext=(7, 0),
            textcoords="offset points",
            color=colour,
            va="center",
            fontsize=9.5,
            annotation_clip=False,
        )


def in_lines(text: str, width: int = 28) -> str:
    """A name in lines no longer than the width, broken where it has a comma, where that is too long for one line."""
    if len(text) <= width:
        return text
    return "\n".join(fill(part, width) for part in text.replace(", ", ",\n").split("\n"))


def spread(places: Sequence[float], heights: Sequence[float], top: float = math.inf) -> list[float]:
    """Places for the middles of labels of these heights, in the same order, so that none lies on another; each cluster
    is centred where its members wanted to be.

    top: no place comes to lie above it, unless it was wanted there
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    gaps = ((heights[below] + heights[above]) / 2 for below, above in pairwise(order))
    stacked = list(accumulate(gaps, initial=0.0))  # where all would lie in one cluster

    def shift(cluster: range) -> float:
        """How far the cluster lies above its part of the stack."""
        wanted = sum(places[order[k]] - stacked[k] for k in cluster) / len(cluster)
        return min(wanted, max(top, places[order[cluster[-1]]]) - stacked[cluster[-1]])

    clusters: list[range] = []
    for k in range(len(order)):
        clusters.append(range(k, k + 1))
        while len(clusters) > 1 and shift(clusters[-1]) < shift(clusters[-2]):
            clusters[-2:] = [range(clusters[-2].start, k + 1)]
    moved = {order[k]: shift(cluster) + stacked[k] for cluster in clusters for k in cluster}
    return [moved[index] for index in range(len(places))]
