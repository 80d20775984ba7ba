"""The offset explorer: one HTML file in which any pixel can be asked where the layers of one or more nets look."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from seg.errors import RunError
from seg.report import theme
from seg.report.pictures import data_uri, shrink

COLOURS = 32  # steps of the heat map's scale; the page interpolates between them


@dataclass(frozen=True)
class Layer:
    """One layer on one image. Its taps are at cell * stride - padding + tap * dilation + offset, in cells of the map
    that it reads; cell c of that map lies at origin + step * c px of the net's input.

    shape:  (h, w) of the layer's output; groups: offset groups
    offset: base64 of int16 [groups, 9, 2, h, w], little-endian, (y, x), times `unit` cells; None for no offsets
    """

    name: str
    shape: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    origin: float
    step: float
    groups: int
    offset: str | None
    unit: float


@dataclass(frozen=True)
class Net:
    """What one net made of one image: class ids as a picture, and its layers, first to last."""

    label: str
    prediction: str
    layers: Sequence[Layer]


@dataclass(frozen=True)
class Shown:
    """One image: its size in px as the nets read it, the photograph, and the true class ids where they are known."""

    name: str
    height: int
    width: int
    photo: str
    truth: str | None
    nets: Sequence[Net]


def render(images: Sequence[Shown], classes: Mapping[str, str]) -> str:
    """The page. `classes`: CSS colour by class name, in the order of the ids; names are escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    scale = matplotlib.colormaps["viridis"](np.linspace(0, 1, COLOURS))[:, :3]
    document = {
        "images": [asdict(image) for image in images],
        "classes": [{"name": name, "colour": colour} for name, colour in classes.items()],
        "scale": (255 * scale).round().astype(int).tolist(),
    }
    template = environment.get_template("explorer.html.jinja")
    return template.render(document=document, light=theme.LIGHT, dark=theme.DARK)


def quantised(offset: np.ndarray) -> tuple[str | None, float]:
    """Offsets as base64 of int16, and the unit of these: a power of two, so that nothing rounds again on the way back.

    Wrong by half a unit at most, 0.0005 cells for offsets below 32 cells; (None, 1) where all are zero.
    raises: RunError for offsets that are not finite
    """
    largest = float(np.abs(offset).max(initial=0))
    if not math.isfinite(largest):
        raise RunError("an offset is not finite: the offsets have exploded; train with a smaller optimizer.offset_lr")
    if largest == 0:
        return None, 1.0
    unit = 2.0 ** math.ceil(math.log2(largest / 32767))
    values = np.round(offset / unit).astype("<i2")
    return base64.b64encode(values.tobytes()).decode(), unit


def photo(image: np.ndarray) -> str:
    """A photograph [H, W, 3] as a data URI."""
    return data_uri(shrink(Image.fromarray(image), Image.Resampling.LANCZOS), "jpeg", quality=92, subsampling=0)


def ids(label: np.ndarray) -> str:
    """Class ids [H, W] as a grey PNG's data URI: the page colours them, and reads them under the pointer."""
    return data_uri(shrink(Image.fromarray(label.astype(np.uint8)), Image.Resampling.NEAREST), "png", optimize=True)
