"""Colours by role, light and dark: cool greys for nets with fixed sampling, strong ones for those that adapt. Warm
greys and further strong ones follow where there are more nets.

The hues stay apart for the common kinds of colour blindness, and no figure relies on them alone: lines and dots are
labelled where they end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Theme = Mapping[str, str]


def _roles(
    surface: tuple[str, ...], fixed: tuple[str, ...], adapts: tuple[str, ...], layer: tuple[str, ...], size: tuple
) -> Theme:
    roles = dict(zip(("paper", "card", "ink", "muted", "rule", "accent", "error"), surface, strict=True))
    for name, colours in (("fixed", fixed), ("adapts", adapts), ("layer", layer), ("size", size)):
        roles |= {f"{name}-{index}": colour for index, colour in enumerate(colours)}
    return roles


LIGHT = _roles(
    ("#fcfbf8", "#ffffff", "#1b1d21", "#626973", "#e5e2db", "#c9430c", "#d4145a"),
    fixed=("#8b9fb1", "#637e97", "#405d77", "#1f3346", "#a89e7e", "#857b5b", "#5c5439", "#383220"),
    adapts=("#d9480f", "#8a2a83", "#a87500", "#0b7a75", "#1d5fe0", "#7c3603", "#cf6fc8", "#14148c", "#2f9e8f"),
    layer=("#f0a878", "#e5854b", "#d8642a", "#b9480f", "#8b3405", "#5a2002"),
    size=("#b88200", "#0e9384", "#3243a8", "#858c95"),
)
DARK = _roles(
    ("#131519", "#1a1d22", "#eceae5", "#9aa3ad", "#2c3138", "#ff8f57", "#ff5c93"),
    fixed=("#667b92", "#8ea5ba", "#b6c9d9", "#e4edf4", "#776e52", "#a0966f", "#cbc196", "#f2e8c2"),
    adapts=("#ff8a50", "#e08be0", "#f0c24b", "#4fd1c5", "#5b9dff", "#ae3d04", "#9939ac", "#e6f23c", "#1c8a80"),
    layer=("#a0552b", "#c46a35", "#e58449", "#ffa670", "#ffc6a2", "#ffe6d6"),
    size=("#fcd34d", "#2dd4bf", "#93a5ff", "#7b838c"),
)
_FIRST = {"fixed": 4, "adapts": 5}  # of each kind, the colours that a label's number may tell
# each role as a colour of its own that no figure uses otherwise, so that an SVG can be handed to the page's style sheet
_MARKS = {role: f"#0a0b{index:02x}" for index, role in enumerate(LIGHT)}


def marks() -> Theme:
    """A theme of stand-ins, to be replaced by the page's own variables."""
    return _MARKS


def with_variables(svg: str) -> str:
    """An SVG drawn with stand-ins, its colours now the page's variables."""
    for role, mark in _MARKS.items():
        svg = svg.replace(mark, f"var(--{role})")
    return svg


def variant_roles(adapts: Mapping[str, bool]) -> dict[str, str]:
    """The colour role of each label, given whether its net adapts; a net keeps its colour from chart to chart.

    The first number in a label tells its colour: greys darken with the dilation, and one to four layers have a colour
    each. Where that is taken, the label has the next that is free, then one of the further colours; short ones, of nets
    without a setting, choose first, and labels without a number last.
    """
    roles: dict[str, str] = {}
    for label in sorted(adapts, key=lambda label: (not re.search(r"\d", label), len(label))):
        kind = "adapts" if adapts[label] else "fixed"
        own, first, count = _own(label, kind), _FIRST[kind], sum(role.startswith(kind) for role in LIGHT)
        wanted = [f"{kind}-{k}" for k in (*((own + step) % first for step in range(first)), *range(first, count))]
        roles[label] = next((role for role in wanted if role not in roles.values()), wanted[0])
    return roles


def _own(label: str, kind: str) -> int:
    """Which colour of its kind a label would have: three deformable layers the first, three modulated the second."""
    digits = re.search(r"\d+", label)
    if kind == "fixed":
        return int(digits[0]) // 2 - 1 if digits else 0
    return 3 * (int(digits[0]) if digits else 3) + 1 + label.startswith("modulated")


def layer_role(index: int, layers: int) -> str:
    """The role of a layer: the shades run from the first layer to the last."""
    return f"layer-{round(1 + index * 4 / max(layers - 1, 1)) if layers > 1 else 2}"
