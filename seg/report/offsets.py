"""The offsets of each layer over a training, and where they explode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from seg.report.alarms import LARGEST, MEAN
from seg.report.figures import Panel, grid
from seg.report.panels import curve_of, name_ends
from seg.report.theme import Theme, layer_role
from seg.report.variants import Variant

_KINDS = (("mean", "Mean", MEAN), ("max", "Largest", LARGEST))


def offset_panels(variant: Variant) -> list[Panel]:
    """Mean and largest |offset| of each layer by step in the variant's first run; a limit is drawn once passed."""
    training = variant.runs[0].training
    found = []
    for key, word, limit in _KINDS:
        curves = {name: curve_of(training, _reader(name, key), 1) for name in _layers(training)}
        curves = {name: curve for name, curve in curves.items() if len(curve) > 1}
        if curves:
            found.append(_panel(f"{word} |offset| by layer, {variant.label}", curves, limit))
    return found


def _layers(training: Any) -> list[str]:
    rows = [row["offset"] for row in training if isinstance(row.get("offset"), dict)]
    return list(dict.fromkeys(name for row in rows for name in row))


def _reader(name: str, key: str) -> Any:
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
        name_ends(axes, theme, [(float(curve[-1, 1]), name, colours[name]) for name, curve in curves.items()])

    return Panel(title, f"{title}, by step", draw)
