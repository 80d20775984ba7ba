"""Photographs, class maps, errors and sampling points, ready to be embedded in a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from seg.report.results import Example
from seg.report.statistics import image_miou
from seg.report.variants import Variant

IGNORED = 255
LONG_SIDE = 512  # px of an embedded picture
_ERROR = (255, 45, 120)
_COLOURS = np.array(  # for class maps without a palette of their own
    [(38, 41, 46), (213, 94, 0), (0, 114, 178), (0, 158, 115), (240, 228, 66), (204, 121, 167), (86, 180, 233)]
)


@dataclass(frozen=True)
class Tile:
    """One picture of a row: a photograph with a class map and errors over it, each of which can be shown."""

    caption: str
    note: str = ""
    photo: int | None = None
    classes: str = ""
    errors: str = ""
    points: Mapping[int, np.ndarray] = field(default_factory=dict)
    unit: tuple[float, float] | None = None
    size: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Row:
    """Tiles of one image."""

    title: str
    tiles: tuple[Tile, ...]


class Photos:
    """The photographs of a page, each embedded once however often it is shown."""

    def __init__(self) -> None:
        self.uris: list[str] = []
        self._known: dict[str, tuple[int, tuple[int, int]]] = {}

    def add(self, name: str, path: Path) -> tuple[int, tuple[int, int]]:
        """The number of a photograph and its (width, height) in px of the file."""
        if name not in self._known:
            image = _open(path).convert("RGB")
            self._known[name] = (len(self.uris), image.size)
            self.uris.append(data_uri(shrink(image, Image.Resampling.LANCZOS), "jpeg", quality=90))
        return self._known[name]


def side_by_side(variants: Sequence[Variant], photos: Photos, most: int = 6) -> list[Row]:
    """Images that most variants have as examples: photograph, ground truth, then each variant's prediction."""
    examples = {v.label: _examples(v) for v in variants if v.results}
    counts: dict[str, int] = {}
    for table in examples.values():
        for name in table:
            counts[name] = counts.get(name, 0) + 1
    shared = sorted(counts, key=lambda name: -counts[name])[:most]
    return [row for name in counts if name in shared for row in _example_row(name, examples, photos)]


def best_and_worst(variant: Variant, variants: Sequence[Variant], photos: Photos, each: int = 3) -> list[Row]:
    """The examples of highest and of lowest mIoU of one variant, beside what the others made of those that they kept.

    Every run keeps more of its extremes than are shown here, so that what is hard for one is mostly there for all.
    """
    tables = {v.label: _examples(v) for v in (variant, *(v for v in variants if v is not variant and v.results))}
    ranked = sorted(
        (example for example in tables[variant.label].values() if example.miou is not None),
        key=lambda e: -(e.miou or 0.0),
    )
    if len(ranked) < 2:
        return []
    each = min(each, len(ranked) // 2)
    chosen = [("best", example) for example in ranked[:each]] + [("worst", example) for example in ranked[-each:]]
    rows = []
    for word, example in chosen:
        for row in _example_row(example.name, tables, photos):
            rows.append(Row(f"{word}: {row.title}", row.tiles))
    return rows


def ranks_all(variant: Variant) -> int | None:
    """How many images the best and the worst example were chosen from; None where they are not known to be extremes."""
    result = next((result for result in variant.results if result.examples and result.images), None)
    if result is None or result.images is None:
        return None
    scores = image_miou(result.images)
    shown = [e.miou for e in result.examples if e.miou is not None]
    known = np.isfinite(scores).any() and len(shown) > 0
    extreme = known and max(shown) >= np.nanmax(scores) - 1e-6 and min(shown) <= np.nanmin(scores) + 1e-6
    return len(scores) if extreme else None


def class_colours(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """(class, CSS colour) as the class maps show them."""
    for variant in variants:
        for result in variant.results:
            for example in result.examples:
                try:
                    _, palette = read_classes(example.label)
                except (OSError, ValueError):
                    continue
                return [(name, "#{:02x}{:02x}{:02x}".format(*palette[i])) for i, name in enumerate(result.iou)]
    return []


def read_classes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Class ids [H, W] of a PNG with its palette [256, 3], or with ours where it has none.

    raises: ValueError if the picture isn't one of class ids
    """
    image = _open(path)
    if image.mode not in ("P", "L"):
        raise ValueError(f"{path}: a picture of mode {image.mode}; expected class ids, as an 8-bit palette or grey PNG")
    palette = np.resize(_COLOURS, (256, 3))
    if image.mode == "P":
        stored = np.array(image.getpalette() or [], dtype=np.int64).reshape(-1, 3)
        palette[: len(stored)] = stored
    return np.array(image), palette


def _examples(variant: Variant) -> dict[str, Example]:
    """What the first seed that has examples kept, by name: a row of the page is of one net."""
    kept: Sequence[Example] = next((result.examples for result in variant.results if result.examples), ())
    return {example.name: example for example in kept}


def _example_row(name: str, examples: dict[str, dict[str, Example]], photos: Photos) -> list[Row]:
    first = next(table[name] for table in examples.values() if name in table)
    try:
        photo, size = photos.add(name, first.image)
        truth, palette = read_classes(first.label)
    except (OSError, ValueError) as error:
        return [Row(name, (Tile("missing", str(error)),))]
    tiles = [
        Tile("image", photo=photo, size=size),
        Tile("ground truth", "", photo, _classes(truth, palette), size=size),
    ]
    tiles += [_prediction(label, table.get(name), truth, photo, size) for label, table in examples.items()]
    return [Row(name, tuple(tiles))]


def _prediction(label: str, example: Example | None, truth: np.ndarray, photo: int, size: tuple[int, int]) -> Tile:
    if example is None:
        return Tile(label, "–", size=size)
    try:
        found, palette = read_classes(example.prediction)
        errors = _errors(found, truth)
    except (OSError, ValueError) as error:
        return Tile(label, str(error), size=size)
    note = "" if example.miou is None else f"{example.miou:.3f}"
    return Tile(label, note, photo, _classes(found, palette), errors, size=size)


def _errors(found: np.ndarray, truth: np.ndarray) -> str:
    if found.shape != truth.shape:
        raise ValueError(f"the prediction is {found.shape}, the ground truth {truth.shape}")
    wrong = ((found != truth) & (truth != IGNORED)).astype(np.uint8)
    return _classes(wrong, np.array([(0, 0, 0), _ERROR]), transparent=0)


def _classes(ids: np.ndarray, palette: np.ndarray, transparent: int = IGNORED) -> str:
    image = shrink(Image.fromarray(ids.astype(np.uint8)), Image.Resampling.NEAREST)
    image = image.convert("P") if image.mode != "P" else image
    image.putpalette(palette.astype(np.uint8).ravel().tolist())
    return data_uri(image, "png", optimize=True, transparency=transparent)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"{path.name}: not a picture ({error})") from None
    return image


def shrink(image: Image.Image, resampling: Image.Resampling) -> Image.Image:
    """A picture, its long side cut to what a page needs."""
    scale = LONG_SIDE / max(image.size)
    if scale >= 1:
        return image
    return image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), resampling)


def data_uri(image: Image.Image, kind: str, **options: Any) -> str:
    """A picture as a data URI, "jpeg" or "png" with Pillow's options for it."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
