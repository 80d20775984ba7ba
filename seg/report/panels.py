"""What each chart of the report shows, drawn from variants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from seg.report.figures import Panel, grid, in_lines, label_ends
from seg.report.results import SIZES, Histogram
from seg.report.statistics import image_miou
from seg.report.theme import Theme, layer_role, variant_roles
from seg.report.variants import Variant, difference, shared_layers

_MARKERS = "osD^vPX"


def roles(variants: Sequence[Variant]) -> dict[str, str]:
    """The colour role of each variant, by its label; the same in every chart."""
    return variant_roles({variant.label: variant.adapts for variant in variants})


def seeds(variants: Sequence[Variant]) -> Panel:
    """mIoU of every seed as a dot, the mean as a line."""
    shown = [v for v in variants if v.miou.n]
    colours = roles(variants)

    def draw(axes: Axes, theme: Theme) -> None:
        for row, variant in enumerate(shown):
            colour = theme[colours[variant.label]]
            values = [r.miou for r in variant.results if r.miou is not None]
            axes.vlines(np.mean(values), row - 0.28, row + 0.28, color=colour, linewidth=2.2)
            axes.plot(values, [row] * len(values), "o", color=colour, markersize=6, alpha=0.65, markeredgewidth=0)
        _rows(axes, theme, [v.label for v in shown])
        axes.set_xlabel("mIoU; a dot is a seed, the line their mean")
        axes.margins(x=0.08)
        axes.locator_params(axis="x", nbins=5)

    means = ", ".join(f"{v.label} {v.miou.mean:.3f}" for v in shown)
    return Panel("mIoU", f"mIoU of every seed, by variant: {means}", draw, _row_names(shown))


def differences(variants: Sequence[Variant], baseline: Variant) -> Panel | None:
    """The difference to the baseline with its 95 % interval over images."""
    found = [(v, d) for v in variants if (d := difference(v, baseline)) is not None]
    if not found:
        return None
    colours = roles(variants)

    def draw(axes: Axes, theme: Theme) -> None:
        axes.axvline(0, color=theme["muted"], linewidth=1)
        for row, (variant, d) in enumerate(found):
            colour = theme[colours[variant.label]]
            if d.low is not None and d.high is not None:
                axes.hlines(row, d.low, d.high, color=colour, linewidth=2.6, alpha=0.55)
            axes.plot(d.mean, row, "o", color=colour, markersize=6.5, markeredgewidth=0)
        _rows(axes, theme, [v.label for v, _ in found])
        axes.set_xlabel("difference in mIoU; bar: 95 % interval")
        axes.margins(x=0.1)
        axes.locator_params(axis="x", nbins=4)

    says = f"Difference in mIoU to {baseline.label}, with 95 % intervals"
    return Panel(f"Difference to {baseline.label}", says, draw, _row_names([v for v, _ in found]))


def by_size(variants: Sequence[Variant], table: str, title: str) -> Panel | None:
    """A fraction by object size, a line for each variant."""
    lines = {v.label: [v.entry(table, size).mean for size in SIZES[:3]] for v in variants}
    lines = {label: values for label, values in lines.items() if any(value is not None for value in values)}
    if not lines:
        return None
    colours = roles(variants)

    def draw(axes: Axes, theme: Theme) -> None:
        for index, (label, values) in enumerate(lines.items()):
            _line(axes, range(3), values, theme[colours[label]], _MARKERS[index % len(_MARKERS)])
        grid(axes, theme)
        axes.set_xticks(range(3), SIZES[:3])
        axes.set_xlim(-0.15, 2.15)
        label_ends(axes, theme, [(_last(values), label, colours[label]) for label, values in lines.items()])

    return Panel(
        f"{title} by object size", f"{title} on small, medium and large objects, by variant", draw, tuple(lines)
    )


def dilation(variant: Variant, variants: Sequence[Variant]) -> Panel:
    """Effective dilation of each layer by object size, with the nets of fixed sampling as flat lines.

    Of the latter those that lie within the layers' own values, and the next one above: more would press these together.
    """
    means = {layer: [variant.dilation(size, layer).mean for size in SIZES] for layer in variant.layers}
    own = [value for values in means.values() for value in values if value is not None]
    fixed = [v for v in variants if not v.adapts]
    layers = shared_layers([variant, *fixed])
    known = {
        v.label: v.mean_dilation("small", layers).mean or v.mean_dilation("background", layers).mean for v in fixed
    }
    levels = {label: level for label, level in known.items() if level is not None}
    highest = min((level for level in levels.values() if level >= max(own, default=0)), default=math.inf)
    flat = {label: level for label, level in levels.items() if level <= highest}
    colours = roles(variants)

    def draw(axes: Axes, theme: Theme) -> None:
        for label, level in flat.items():
            axes.axhline(level, color=theme[colours[label]], linewidth=1.2, dashes=(4, 3))
        ends: list[tuple[float | None, str, str]] = [(level, label, colours[label]) for label, level in flat.items()]
        for index, (layer, values) in enumerate(means.items()):
            role = layer_role(index, len(means))
            _line(axes, range(3), values[:3], theme[role], "o")
            axes.plot([3], [np.nan if values[3] is None else values[3]], "o", color=theme[role], markersize=5)
            ends.append((_last([values[3], *values[:3]]), layer, role))  # the line's end; without a line the dot
        grid(axes, theme)
        axes.set_xticks(range(4), SIZES)
        axes.set_xlim(-0.2, 3.2)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("cells")
        label_ends(axes, theme, ends)

    return Panel(
        f"Effective dilation, {variant.label}",
        f"Effective dilation of {variant.label} by object size and layer",
        draw,
        (*means, *flat),
    )


def cost(variants: Sequence[Variant], key: str, scale: float, label: str) -> Panel | None:
    """mIoU over a cost; up and to the left is better."""
    points = {v.label: (v.entry("cost", key).mean, v.miou.mean) for v in variants}
    known = {name: (x * scale, y) for name, (x, y) in points.items() if x is not None and y is not None}
    if not known:
        return None
    colours = roles(variants)

    def draw(axes: Axes, theme: Theme) -> None:
        for index, (name, (x, y)) in enumerate(known.items()):
            colour = theme[colours[name]]
            axes.plot(x, y, _MARKERS[index % len(_MARKERS)], color=colour, markersize=7, markeredgewidth=0)
        grid(axes, theme)
        axes.margins(x=0.15, y=0.15)
        axes.set_xlabel(label)
        axes.set_ylabel("mIoU")
        label_ends(axes, theme, [(y, name, colours[name]) for name, (_, y) in known.items()])

    return Panel(f"mIoU by {label}", f"mIoU against {label}, by variant", draw, tuple(known))


def distributions(variant: Variant) -> list[Panel]:
    """How the effective dilation is distributed in each layer, a curve for each object size."""
    rows = [row for result in variant.results for row in result.histograms]
    layers = list(dict.fromkeys(row.layer for row in rows))
    return [_distribution(layer, [row for row in rows if row.layer == layer]) for layer in layers]


def image_differences(variant: Variant, baseline: Variant) -> Panel | None:
    """Every image's difference in mIoU to the baseline, sorted: who wins where, not on average only."""
    pair = [_image_means(side) for side in (variant, baseline)]
    if variant is baseline or any(side is None or side.keys() != pair[0].keys() for side in pair if pair[0]):
        return None
    ours, theirs = pair
    if not ours or not theirs:
        return None
    gains = np.array([ours[name] - theirs[name] for name in ours])
    gains = np.sort(gains[np.isfinite(gains)])[::-1]  # an image without a labelled pixel has no mIoU

    def draw(axes: Axes, theme: Theme) -> None:
        better = gains > 0
        width = 1.0 if len(gains) > 150 else 0.8
        for part, role in ((better, "accent"), (~better, "fixed-2")):
            axes.bar(np.arange(len(gains))[part], gains[part], width=width, color=theme[role], linewidth=0)
        grid(axes, theme)
        axes.axhline(0, color=theme["muted"], linewidth=0.8)
        axes.set_xlabel(f"{len(gains)} images, sorted; better on {better.sum()}")
        axes.set_ylabel("mIoU minus the baseline's")

    return Panel(
        f"{variant.label}, image by image",
        f"{variant.label} is better on {(gains > 0).sum()} of {len(gains)} images",
        draw,
    )


def _distribution(layer: str, rows: Sequence[Histogram]) -> Panel:
    def draw(axes: Axes, theme: Theme) -> None:
        for index, size in enumerate(SIZES):
            density = _density([row for row in rows if row.size == size])
            if density is None:
                continue
            colour = theme[f"size-{index}"]
            axes.stairs(*density, color=colour, linewidth=1.6, label=size)
            axes.stairs(*density, color=colour, fill=True, alpha=0.12)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        _dilation_axis(axes, rows)
        axes.legend(frameon=False, fontsize=9.5, labelcolor="linecolor", handlelength=1.2)

    return Panel(layer, f"Distribution of the effective dilation in {layer}, by object size", draw)


def _dilation_axis(axes: Axes, rows: Sequence[Histogram]) -> None:
    """As far as there are filters; the last bin holds all beyond it, so its end reads 20+."""
    edges = rows[0].edges
    ends = [edges[k + 1] for row in rows if row.edges == edges for k, count in enumerate(row.counts) if count]
    axes.set_xlim(0, max(ends, default=edges[-1]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" + ("+" if value >= edges[-1] else ""))
    axes.set_xlabel("effective dilation, cells")


def _density(rows: Sequence[Histogram]) -> tuple[np.ndarray, np.ndarray] | None:
    """Counts of several seeds together, as a density; None without a filter or with edges that differ."""
    counts = sum(np.asarray(row.counts, dtype=np.float64) for row in rows if row.edges == rows[0].edges)
    if not rows or not np.sum(counts):
        return None
    edges = np.asarray(rows[0].edges)
    return counts / np.sum(counts) / np.diff(edges), edges


def _image_means(variant: Variant) -> dict[str, float] | None:
    images = [result.images for result in variant.results if result.images]
    if not images or len({entry.names for entry in images}) != 1:
        return None
    return dict(zip(images[0].names, np.mean([image_miou(entry) for entry in images], axis=0), strict=True))


def _line(axes: Axes, x: Sequence[int], values: Sequence[float | None], colour: str, marker: str) -> None:
    heights = [np.nan if value is None else value for value in values]
    axes.plot(x, heights, color=colour, marker=marker, markersize=5, linewidth=2, markeredgewidth=0)


def _last(values: Sequence[float | None]) -> float | None:
    """The last value that is known."""
    return next((value for value in reversed(values) if value is not None), None)


def _row_names(variants: Sequence[Variant]) -> tuple[str, ...]:
    """A name for each row, of as many lines as any has: rows are of one height."""
    labels = [variant.label for variant in variants]
    return (max(labels, key=lambda label: in_lines(label).count("\n"), default=""),) * len(labels)


def _rows(axes: Axes, theme: Theme, labels: Sequence[str]) -> None:
    grid(axes, theme, "x")
    axes.set_yticks(range(len(labels)), [in_lines(label) for label in labels])
    axes.tick_params(axis="y", length=0, labelcolor=theme["ink"])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
