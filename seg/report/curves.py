"""What changes over a training: loss, accuracy and offsets by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from seg.alarms import LARGEST, MEAN
from seg.report.figures import Panel, grid, label_ends
from seg.report.panels import roles
from seg.report.theme import Theme, layer_role
from seg.report.variants import Variant

Rows = Sequence[Mapping[str, Any]]
Reader = Callable[[Mapping[str, Any]], Any]  # of one row of metrics.jsonl
PEAKS = "Largest |offset| of the layers, cells"  # whose highest points have to be seen
_KINDS = (("mean", "Mean", MEAN), ("max", "Largest", LARGEST))


def training(variants: Sequence[Variant]) -> list[Panel]:
    """Loss, validation mIoU and mean offset over the steps of training; one thin line a run."""
    read: list[tuple[str, Reader, int]] = [
        ("Training loss", lambda row: row.get("loss") if row.get("kind") == "train" else None, 15),
        ("mIoU during training", lambda row: row.get("miou"), 1),
        ("Mean |offset| of the layers, cells", lambda row: _offset(row, "mean"), 1),
        (PEAKS, lambda row: _offset(row, "max"), 1),
    ]
    runs = [(v, _in_training(run.training)) for v in variants for run in v.runs]
    panels = [_curves(variants, runs, title, value, window) for title, value, window in read]
    return [panel for panel in panels if panel is not None]


def offset_panels(variant: Variant) -> list[Panel]:
    """Mean and largest |offset| of each layer by step in the variant's first run that counts, and passed limits."""
    training = next((run for run in variant.runs if run.result), variant.runs[0]).training
    found = []
    for key, word, limit in _KINDS:
        curves = {name: curve_of(training, _reader(name, key), 1, peaks=key == "max") for name in _layers(training)}
        curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
        if curves:
            found.append(_panel(f"{word} |offset| by layer, {variant.label}", curves, limit))
    return found


def _layers(training: Any) -> list[str]:
    rows = [row["offset"] for row in training if isinstance(row.get("offset"), dict)]
    return list(dict.fromkeys(name for row in rows for name in row))


def _reader(name: str, key: str) -> Reader:
    def read(row: Mapping[str, Any]) -> Any:
        layers = row.get("offset")
        values = layers.get(name) if isinstance(layers, dict) else None
        return values.get(key) if isinstance(values, dict) else None

    return read


def _panel(title: str, curves: Mapping[str, np.ndarray], limit: float) -> Panel:
    colours = {name: layer_role(index, len(curves)) for index, name in enumerate(curves)}

    def draw(axes: Axes, theme: Theme) -> None:
        for name, curve in curves.items():
            axes.plot(curve[:, 0], curve[:, 1], color=theme[colours[name]], linewidth=1.5)
        grid(axes, theme)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.set_ylabel("cells")
        if max(curve[:, 1].max() for curve in curves.values()) > limit:
            axes.axhline(limit, color=theme["error"], linewidth=1.2, dashes=(4, 3))
        label_ends(axes, theme, [(float(curve[-1, 1]), name, colours[name]) for name, curve in curves.items()])

    return Panel(title, f"{title}, by step", draw, tuple(curves))


def _curves(
    variants: Sequence[Variant], runs: Sequence[tuple[Variant, Rows]], title: str, value: Reader, window: int
) -> Panel | None:
    lines = [(v, curve_of(rows, value, window, peaks=title == PEAKS)) for v, rows in runs]
    lines = [(v, curve) for v, curve in lines if len(curve)]
    if all(len(curve) < 2 for _, curve in lines):
        return None
    colours = roles(variants)

    def draw(axes: Axes, theme: Theme) -> None:
        for variant, curve in lines:
            axes.plot(curve[:, 0], curve[:, 1], color=theme[colours[variant.label]], linewidth=1.3, alpha=0.8)
        grid(axes, theme)
        axes.set_xlabel("step")
        ends: dict[str, list[float]] = {}
        for variant, curve in lines:
            ends.setdefault(variant.label, []).append(curve[-1, 1])
        label_ends(axes, theme, [(float(np.mean(last)), label, colours[label]) for label, last in ends.items()])

    return Panel(title, f"{title} by step, a line for each run", draw, tuple({v.label: None for v, _ in lines}))


def _in_training(rows: Rows) -> Rows:
    """The records of a training, less those of later evaluations: on other images, or of the last step again."""
    evaluated: dict[Any, Mapping[str, Any]] = {}
    for row in rows:
        if row.get("kind") == "evaluate":
            evaluated.setdefault(row.get("step"), row)
    splits = [row.get("split") for row in evaluated.values()]
    kept = [row for row in evaluated.values() if row.get("split") == splits[0]]
    return [*(row for row in rows if row.get("kind") != "evaluate"), *kept]


def curve_of(rows: Rows, value: Reader, window: int, *, peaks: bool = False) -> np.ndarray:
    """[points, 2] of step and value, smoothed by a running mean, at most 300 points: the last, or the highest, of
    each few."""
    found = [(row.get("step"), value(row)) for row in rows]
    points = np.array([p for p in found if all(isinstance(n, int | float) and np.isfinite(n) for n in p)], dtype=float)
    if not len(points):
        return points
    window = min(window, max(len(points) // 8, 1))
    sums = np.cumsum(np.concatenate([[0.0], points[:, 1]]))
    stop = np.arange(1, len(points) + 1)
    start = np.maximum(stop - window, 0)
    points[:, 1] = (sums[stop] - sums[start]) / (stop - start)
    parts = np.array_split(points, min(len(points), 300))
    return np.array([part[part[:, 1].argmax()] if peaks else part[-1] for part in parts])


def _offset(row: Mapping[str, Any], key: str) -> float | None:
    layers = row.get("offset")
    if not isinstance(layers, dict) or not layers:
        return None
    values = [layer.get(key) for layer in layers.values() if isinstance(layer, dict)]
    known = [value for value in values if isinstance(value, int | float)]
    return (max(known) if key == "max" else sum(known) / len(known)) if known else None
