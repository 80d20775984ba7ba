"""The analysis pictures of a trained run: for units on background, small and large objects what they look at."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build import build
from chosen import chosen_images
from examples import LEVELS, middle_unit
from exploration import Trained, load_trained
from omegaconf import DictConfig
from PIL import Image
from run import make_folder

from seg.analysis import (
    Recorded,
    effective_receptive_field,
    effective_sampling_locations,
    record_offsets,
    saliency_region,
    sampling_points,
)
from seg.analysis.receptive_field import node_map
from seg.analysis.sampling import nearest_cell
from seg.counts import counted
from seg.data import SIZES, one_batch, size_class
from seg.data.sample import Batch
from seg.engine.checkpoint import write_text
from seg.engine.progress import Progress
from seg.errors import ConfigError
from seg.report import tiles
from seg.report.mosaics import save_analysis

SHOWN = ("background", "small", "large")
Pixel = tuple[int, int]


def analyze(trained: DictConfig, config: DictConfig, output: Path) -> int:
    """Write a picture of each kind for each unit, analysis.json that lists them, and overview.png; their number."""
    net = load_trained(trained)
    images = list(chosen_images(trained, config.images))
    rows: list[dict[str, Any]] = []
    with Progress(len(images), what="analysing") as progress:
        for number, (data, index) in enumerate(images):
            for title, pictures in _units(net, data, index, config):
                rows.append({"title": title, "tiles": _write(output, f"{len(rows):03d}", pictures)})
            progress.update(number + 1)
    if not rows:
        raise ConfigError("none of the images has a unit to look at: they hold neither objects nor background")
    write_text(output / "analysis.json", json.dumps({"schema": 1, "rows": rows}, indent=1))
    save_analysis(output)
    return len(rows)


def _units(net: Trained, data: Any, index: int, config: DictConfig) -> Iterator[tuple[str, Mapping[str, Image.Image]]]:
    """Title and pictures of one unit for each of background, small and large that the image has."""
    settings = net.config.data
    batch = one_batch(data, index, build(settings.evaluate_transform), normalization=build(settings.normalization))
    height, width = batch.image.shape[-2:]
    shown = Image.fromarray(data[index].image).resize((width, height), Image.Resampling.BILINEAR)
    for size, at in _places(batch, tuple(settings.thresholds)).items():
        yield f"{batch.names[0]}: {size}", _pictures(net, batch, np.asarray(shown), at, config)


def _places(batch: Batch, thresholds: tuple[float, float]) -> dict[str, Pixel]:
    """A pixel of the net's input on each kind of object; its middle for an image without a truth."""
    sizes = size_class(batch.size, thresholds)[0]
    given = batch.image.shape[-2:]
    found = {size: middle_unit(sizes == SIZES.index(size), batch.size[0]) for size in SHOWN}
    places = {
        size: tuple(v * g // h for v, g, h in zip(at, given, sizes.shape, strict=True))
        for size, at in found.items()
        if at
    }
    return places or {"middle": (given[0] // 2, given[1] // 2)}


def _pictures(net: Trained, batch: Batch, image: np.ndarray, at: Pixel, config: DictConfig) -> dict[str, Image.Image]:
    """One picture for each way of looking at the unit nearest to a pixel."""
    pixels = net.runtime.image(batch.image)
    with torch.inference_mode(), record_offsets(net.model) as recorded:
        node = node_map(net.model, pixels, config.node)
    net.require_layers(recorded)
    layers = list(recorded.values())
    _require_cells_of(layers[-1], node, config.node)
    cell = nearest_cell(layers[-1], at)
    unit = _centre(layers[-1], cell)
    found = {
        counted(level, "layer"): tiles.points(image, points.numpy(), unit)
        for level, points in sampling_points(layers[-LEVELS:], at).items()
    }
    located = effective_sampling_locations(net.model, pixels, cell, node=config.node).values()
    points, weights = (torch.cat(part).cpu().numpy() for part in zip(*located, strict=True))
    found["effective sampling locations"] = tiles.weighted_points(image, points, weights, unit)
    field = effective_receptive_field(net.model, pixels, cell, node=config.node)
    found["effective receptive field"] = tiles.heat(image, field.cpu().numpy(), unit)
    if config.saliency:
        kept = saliency_region(net.model, pixels, cell, centre=unit, node=config.node, **config.saliency)
        share = f"{kept.mask.float().mean():.0%}"
        found[f"saliency region, {share}"] = tiles.region(image, kept.mask.cpu().numpy(), unit)
    return found


def _require_cells_of(layer: Recorded, features: torch.Tensor, node: str) -> None:
    """Raises ConfigError where a module's cells are not those of a layer: the unit would be one of another place."""
    found, wanted = list(features.shape[-2:]), list(layer.offset.shape[-2:])
    if found != wanted:
        raise ConfigError(
            f"node is {node!r}, whose map has {found[0]}x{found[1]} cells where the last layer's has "
            f"{wanted[0]}x{wanted[1]}; name a module with as many, such as trunk"
        )


def _centre(layer: Recorded, cell: list[int]) -> tuple[float, float]:
    rows, columns = layer.centres()
    return float(rows[cell[0]]), float(columns[cell[1]])


def _write(output: Path, prefix: str, pictures: Mapping[str, Image.Image]) -> list[dict[str, str]]:
    make_folder(output)
    entries = []
    for number, (caption, picture) in enumerate(pictures.items()):
        name = f"{prefix}_{number}.png"
        picture.save(output / name, optimize=True)
        entries.append({"caption": caption, "picture": name})
    return entries
