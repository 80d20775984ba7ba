"""Colours by role, light and dark: cool greys for nets with fixed sampling, strong ones for those that adapt.

The hues stay apart for the common kinds of colour blindness, and no figure relies on them alone: lines and dots are
labelled where they end.
"""

from __future__ import annotations

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
    fixed=("#7b91a5", "#5c7890", "#42607a", "#2a4259"),
    adapts=("#d9480f", "#8a2a83", "#a87500", "#0b7a75", "#1d5fe0"),
    layer=("#f0a878", "#e5854b", "#d8642a", "#b9480f", "#8b3405", "#5a2002"),
    size=("#b88200", "#0e9384", "#3243a8", "#858c95"),
)
DARK = _roles(
    ("#131519", "#1a1d22", "#eceae5", "#9aa3ad", "#2c3138", "#ff8f57", "#ff5c93"),
    fixed=("#7388a0", "#93a9bd", "#b3c6d6", "#d8e3ec"),
    adapts=("#ff8a50", "#e08be0", "#f0c24b", "#4fd1c5", "#5b9dff"),
    layer=("#a0552b", "#c46a35", "#e58449", "#ffa670", "#ffc6a2", "#ffe6d6"),
    size=("#fcd34d", "#2dd4bf", "#93a5ff", "#7b838c"),
)
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


def variant_role(index: int, *, adapts: bool) -> str:
    """The role of the index-th variant of its kind."""
    kind = "adapts" if adapts else "fixed"
    return f"{kind}-{index % sum(role.startswith(kind) for role in LIGHT)}"


def layer_role(index: int, layers: int) -> str:
    """The role of a layer: the shades run from the first layer to the last."""
    return f"layer-{round(1 + index * 4 / max(layers - 1, 1)) if layers > 1 else 2}"
