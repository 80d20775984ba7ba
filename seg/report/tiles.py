"""Analysis pictures: what a unit reads and depends on, drawn over its image."""

from __future__ import annotations

import matplotlib
import numpy as np
from PIL import Image, ImageDraw

SIDE = 480  # px of the long side of a picture, at least
LEAST = 0.1  # root of the share of the largest weight below which a point is not drawn
FINE = 2  # drawn this much larger and shrunk, for smooth dots
_UNIT, _RIM, _POINT = (33, 224, 107), (8, 51, 26), (255, 59, 31)


def points(image: np.ndarray, found: np.ndarray, unit: tuple[float, float]) -> Image.Image:
    """Red points and the unit in green. image: uint8 [H, W, 3]; found: [P, 2], (y, x) in px of the image; so is unit"""
    radius = {9: 4.4, 81: 3.0}.get(len(found), 3.0 if len(found) < 100 else 2.0)
    return _dots(image, found, np.tile(_POINT, (len(found), 1)), unit, radius)


def weighted_points(
    image: np.ndarray, found: np.ndarray, weights: np.ndarray, unit: tuple[float, float]
) -> Image.Image:
    """Points coloured by their weight [P], the strongest last, largest and brightest: effective sampling locations."""
    share = np.sqrt(weights / max(float(weights.max(initial=0)), 1e-30))
    order = np.argsort(share)
    order = order[share[order] > LEAST]
    colours = 255 * matplotlib.colormaps["plasma"](0.2 + 0.8 * share[order])[:, :3]
    faint = (image * 0.45).astype(np.uint8)
    return _dots(faint, found[order], colours, unit, 1.0 + 3.0 * share[order], rim=False)


def heat(image: np.ndarray, field: np.ndarray, unit: tuple[float, float]) -> Image.Image:
    """A field [H, W], not negative, over its image: dark where it is 0; its root, so that tails show."""
    # a few pixels next to the unit outshine the rest
    share = np.sqrt((field / max(float(np.quantile(field, 0.998)), 1e-30)).clip(0, 1))
    glow = 255 * matplotlib.colormaps["inferno"](share)[..., :3]
    mixed = (0.25 * image.mean(-1, keepdims=True) + 0.75 * glow).clip(0, 255).astype(np.uint8)
    return _dots(mixed, np.zeros((0, 2)), np.zeros((0, 3)), unit, 0)


def region(image: np.ndarray, mask: np.ndarray, unit: tuple[float, float]) -> Image.Image:
    """What a mask [H, W] keeps of an image, the rest faint and grey."""
    faint = 0.75 * 255 + 0.25 * image.mean(-1, keepdims=True)
    mixed = np.where(mask[..., None], image, faint).astype(np.uint8)
    return _dots(mixed, np.zeros((0, 2)), np.zeros((0, 3)), unit, 0)


def _dots(
    image: np.ndarray,
    found: np.ndarray,
    colours: np.ndarray,
    unit: tuple[float, float],
    radius: float | np.ndarray,
    *,
    rim: bool = True,
) -> Image.Image:
    height, width = image.shape[:2]
    scale = max(SIDE / max(height, width), 1.0) * FINE
    size = round(width * scale), round(height * scale)
    picture = Image.fromarray(image).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)

    def dot(y: float, x: float, r: float, colour: tuple[int, ...]) -> None:
        cy, cx, r = (y + 0.5) * scale, (x + 0.5) * scale, r * FINE
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)

    radii = np.broadcast_to(radius, len(found))
    if rim:
        for (y, x), r in zip(found, radii, strict=True):
            dot(y, x, r + 1, (255, 255, 255))
    for (y, x), r, colour in zip(found, radii, colours, strict=True):
        dot(y, x, r, tuple(round(float(c)) for c in colour))
    dot(*unit, 6.5, _RIM)
    dot(*unit, 5.0, _UNIT)
    return picture.resize((size[0] // FINE, size[1] // FINE), Image.Resampling.LANCZOS)
