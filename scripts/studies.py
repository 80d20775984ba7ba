"""The studies of a trained run over a whole split, each a JSON file and a chart."""

import json
import math
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build import build, chosen
from exploration import Trained, load_trained
from omegaconf import DictConfig
from run import make_folder
from training import batches_of, fresh_model

from seg.analysis import (
    Recorded,
    effective_receptive_fields,
    object_rows,
    reach,
    receptive_field,
    record_offsets,
    unit_of_objects,
)
from seg.analysis.classes import DilationByClass
from seg.analysis.coverage import Coverage, taps_at_cells
from seg.analysis.dilation import read_at, size_at_cells
from seg.analysis.movement import Movement
from seg.analysis.trend import by_bins, by_class, fifths, mean_dilation, means_by_bins, rank_correlation
from seg.analysis.variation import Following, Variation
from seg.data import Batch, Sample, one_batch
from seg.data.object_size import object_size
from seg.engine import RunFolder, checkpoint
from seg.engine.inference import forward
from seg.engine.progress import Progress
from seg.engine.ranks import Ranks
from seg.engine.runtime import commit
from seg.errors import ConfigError
from seg.models.conv import check_whole
from seg.report.figures import save_png
from seg.report.studies import PANELS

KEYS = ("length", "size", "seen")  # what objects may be ordered by


@dataclass(frozen=True)
class Seen:
    """An image of a data set and what the net made of it."""

    data: Any
    classes: list[str]
    index: int
    sample: Sample
    batch: Batch
    recorded: dict[str, Recorded]
    prediction: torch.Tensor  # int64 [H, W]

    @cached_property
    def objects(self) -> torch.Tensor:
        """int64 [H, W]; raises ConfigError where the data tell of none."""
        if self.sample.objects is None:
            raise ConfigError(f"{self.data.name} {self.data.split} tells of no objects in {self.sample.name}")
        return torch.from_numpy(self.sample.objects).long()

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """A row for each object, as several studies need them."""
        sides = object_size(self.objects.int().numpy()) * np.float32(self.sample.pixel)
        size, label = torch.from_numpy(sides), self.batch.label[0]
        shape = self.batch.image.shape[-2:]
        rows = object_rows(self.sample.name, self.recorded, self.prediction, label, self.objects, size, shape)
        ratio = shape[0] / (label.shape[0] * self.sample.pixel)
        # only drawn bodies know their length
        lengths = 2 * self.data.lengths(self.index) if hasattr(self.data, "lengths") else None
        for row in rows:
            row["class"] = self.classes[row["class"]]
            row["seen"] = row["size"] * ratio  # as the net was given it: images of all sizes may be brought to one
            if lengths is not None:
                row["length"] = float(lengths[row["object"] - 1])
        return rows


def study(trained: DictConfig, config: DictConfig, output: Path) -> list[Path]:
    """Write STUDY.json for each of `config.studies`, and its chart; returns their paths.

    raises: ConfigError for a study that there is none of, or a run without a layer to look at
    """
    studies = chosen("studies", config.studies, PANELS)
    net = load_trained(trained)
    data = build(net.config.data.evaluate)
    make_folder(output)
    over_images = {name: STUDIES[name](net, data, config) for name in studies if name in STUDIES}
    for image in seen(net, data, images_of(data, config, config.every)) if over_images else ():
        for found in over_images.values():
            found.add(image)
    documents = {}
    for name in studies:
        measured = over_images[name].document() if name in over_images else movement(net, data, config)
        documents[output / f"{name}.json"] = document = {**_facts(net, data, config), **measured}
        checkpoint.write_text(output / f"{name}.json", json.dumps(document, indent=1, allow_nan=False) + "\n")
    for path, document in documents.items():  # once all that was measured is kept
        save_png(PANELS[path.stem](document), path.with_suffix(".png"))
    return [written for path in documents for written in (path, path.with_suffix(".png"))]


def images_of(data: Any, config: DictConfig, every: int = 1) -> range:
    """The numbers of the first `config.images` images, or of all, one of so many; raises ConfigError for none."""
    check_whole("every", every, 1)
    if config.images is not None:
        check_whole("images", config.images, 1)
    return range(0, len(data) if config.images is None else min(config.images, len(data)), every)


def seen(net: Trained, data: Any, images: Sequence[int]) -> Iterator[Seen]:
    """Each of the images of a data set, by number, and what the net made of it."""
    settings = net.config.data
    transform, normalization = build(settings.evaluate_transform), build(settings.normalization)
    with Progress(len(images), what="studying") as progress:
        for done, index in enumerate(images, start=1):
            sample = transform(data[index])
            batch = one_batch([sample], 0, _as_it_is, normalization=normalization, size_by=settings.size_by)
            with torch.no_grad(), record_offsets(net.model) as recorded:
                prediction = forward(net.model, batch, net.runtime).argmax(1)[0].cpu()
            net.require_layers(recorded)
            yield Seen(data, net.classes, index, sample, batch, recorded, prediction)
            progress.update(done)


class Objects:
    """A row for each object, and how effective dilation and accuracy follow its length, or its size."""

    def __init__(self, net: Trained, data: Any, config: DictConfig) -> None:
        self.net, self.data, self.config = net, data, config
        self.rows: list[dict[str, Any]] = []

    def add(self, image: Seen) -> None:
        self.rows += image.rows

    def document(self) -> dict[str, Any]:
        rows, (key, edges) = self.rows, ordering(self.rows, self.config)
        layers = list(rows[0]["dilation"]) if rows else []
        # only drawn bodies know how long they can be
        longest = 2 * build(self.net.config.data.train).half_length[1] if key == "length" else None
        return {
            "by": key,
            "longest_in_training": longest,
            "object_sizes": self.data.object_source,
            "correlation": {
                "all layers": rank_correlation(rows, key),
                **{layer: rank_correlation(rows, key, partial(mean_dilation, layer=layer)) for layer in layers},
            },
            "bins": by_bins(rows, key, edges),
            "classes": by_class(rows, key),
            "objects": rows,
        }


class Reach:
    """How far the unit at the middle of each object looks, in px of the net's input, and how that follows its size."""

    def __init__(self, net: Trained, data: Any, config: DictConfig) -> None:
        self.net, self.config = net, config
        self.rows: list[dict[str, Any]] = []

    def add(self, image: Seen) -> None:
        rows = {row["object"]: row for row in image.rows}
        last = list(image.recorded.values())[-1]
        units = unit_of_objects(size_at_cells(last, image.objects[None], image.batch.image.shape[-2:])[0])
        units = {k: cell for k, cell in units.items() if k in rows}
        ys, xs = last.centres()
        fields = effective_receptive_fields(self.net.model, self.net.runtime.image(image.batch.image), units.values())
        for (k, (y, x)), field in zip(units.items(), fields, strict=True):
            far = reach(field, (float(ys[y]), float(xs[x])))
            if not math.isnan(far):  # else it depends on nothing
                self.rows.append({**rows[k], "reach": far})

    def document(self) -> dict[str, Any]:
        rows, (key, edges) = self.rows, ordering(self.rows, self.config)
        return {
            "by": key,
            "receptive_field": receptive_field(self.net.model),
            "correlation": {"reach": rank_correlation(rows, key, itemgetter("reach"))},
            "bins": means_by_bins(rows, key, edges, "reach"),
            "objects": rows,
        }


def ordering(rows: Sequence[dict[str, Any]], config: DictConfig) -> tuple[str, list[float]]:
    """What the objects are ordered by and the edges of its bins; raises ConfigError where it is not known of them."""
    key = config.by or ("length" if rows and "length" in rows[0] else "size")
    if rows and key not in (known := [known for known in KEYS if known in rows[0]]):
        raise ConfigError(f"by={key}: these objects have {', '.join(known)}")
    return key, list(config.bins or fifths(rows, key))


class Classes:
    """Effective dilation of the filters on each class, stuff as well as things."""

    def __init__(self, net: Trained, data: Any, config: DictConfig) -> None:
        self.found = DilationByClass(net.classes)

    def add(self, image: Seen) -> None:
        self.found.add(image.recorded, image.batch.label, image.batch.image.shape[-2:])

    def document(self) -> dict[str, Any]:
        return {"rows": self.found.rows()}


class Covered:
    """How many cells of the maps are read by no filter, by layer and object size; and how often each, of one image."""

    def __init__(self, net: Trained, data: Any, config: DictConfig) -> None:
        self.thresholds = list(net.config.data.thresholds)
        self.found = Coverage(self.thresholds)
        self.shown: dict[str, Any] = {}

    def add(self, image: Seen) -> None:
        shape = image.batch.image.shape[-2:]
        self.found.add(image.recorded, image.batch.size, shape)
        self.shown = self.shown or _coverage_map(image, shape)

    def document(self) -> dict[str, Any]:
        return {"thresholds": self.thresholds, "rows": self.found.rows(), "map": self.shown}


def _coverage_map(image: Seen, shape: Sequence[int]) -> dict[str, Any]:
    """Taps nearest to each cell of each layer's map, and the object that the cell lies on."""
    layers = {}
    for name, layer in image.recorded.items():
        taps = taps_at_cells(layer)[0]
        centres = tuple(layer.located().centres(count) for count in taps.shape[-2:])
        on = read_at(centres, (image.batch.size > 0).cpu(), shape)  # type: ignore[arg-type]
        layers[name] = {"taps": taps[0].tolist(), "on_object": on[0].int().tolist()}
    return {"image": image.sample.name, "layers": layers}


class Content:
    """What of the offsets is constant, position and content; and whether they move with a shifted image."""

    def __init__(self, net: Trained, data: Any, config: DictConfig) -> None:
        self.net = net
        self.variation, self.following = Variation(), Following(config.shift)
        self.left_out = 0
        self.shape: Sequence[int] | None = None

    def add(self, image: Seen) -> None:
        self.shape = self.shape or image.batch.image.shape
        if image.batch.image.shape != self.shape:
            self.left_out += 1  # position means something on images of one size alone
            return
        self.variation.add(image.recorded)
        halves = []
        for cut in self.following.cuts(image.batch.image):
            with torch.no_grad(), record_offsets(self.net.model) as recorded:
                self.net.model(self.net.runtime.image(cut.contiguous()))
            halves.append(recorded)
        self.following.add(*halves)

    def document(self) -> dict[str, Any]:
        return {
            "shift": self.following.shift,
            "of_another_size": self.left_out,
            "rows": self.variation.rows(),
            "shifted": self.following.rows(),
        }


def movement(net: Trained, data: Any, config: DictConfig) -> dict[str, Any]:
    """How far one training step moves taps: the run's training once more, from its start, watched."""
    settings, wanted, runtime = net.config, config.movement, net.runtime
    runtime.start(settings.seed)
    training, trainer = build(settings.data.train), build(settings.trainer)
    trainer.iterations = min(wanted.steps or trainer.iterations, trainer.iterations)
    trainer.evaluate_every = None
    model = runtime.place(fresh_model(settings, len(training.classes)))
    batches = batches_of(settings, training, Ranks(), runtime)
    parts = (model, batches, build(settings.optimizer, model), build(settings.schedule))
    image = torch.cat([one.batch.image for one in seen(net, data, images_of(data, wanted))])
    found = Movement()
    with tempfile.TemporaryDirectory() as folder, found.watch(model, runtime.image(image), parts[2], wanted.every):
        trainer.train(*parts, folder=RunFolder(folder), runtime=runtime, resume="never")
        losses = {row["step"]: row["loss"] for row in RunFolder(folder).read_metrics() if row["kind"] == "train"}
    before = {row["step"]: row["loss"] for row in RunFolder(settings.run).read_metrics() if row.get("kind") == "train"}
    last = max(losses)
    return {
        "data": _measured_on(data, len(image)),
        "loss": {"step": last, "now": losses[last], "in_the_run": before.get(last)},
        **found.document(),
    }


def _facts(net: Trained, data: Any, config: DictConfig) -> dict[str, Any]:
    """What the numbers are numbers of."""
    return {
        "schema": 1,
        "variant": net.label,
        "conv": net.config.conv._target_.rpartition(".")[2],
        "seed": net.config.seed,
        "run": Path(net.config.run).name,
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": net.runtime.describe(),
        "command": shlex.join(["python", *sys.argv]),
        "data": _measured_on(data, len(images_of(data, config, config.every))),
    }


def _measured_on(data: Any, images: int) -> dict[str, Any]:
    return {"name": data.name, "split": data.split, "images": images}


def _as_it_is(sample: Sample) -> Sample:
    return sample


# what is measured in one pass over the images
STUDIES = {"objects": Objects, "reach": Reach, "classes": Classes, "coverage": Covered, "content": Content}
