"""Classification of objects in boxes: train, evaluate into boxes.json, and draw the pooling's bins into bins.png."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from build import build, check
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from run import comparable
from torch import Tensor, nn

from seg.analysis import record_bins
from seg.data import SIZES, BoxLoader, size_class
from seg.data.boxes import BoxBatch
from seg.engine import RunFolder, Runtime, slurm
from seg.engine.checkpoint import write_text
from seg.engine.runtime import commit, versions
from seg.errors import ConfigError
from seg.metrics import Confusion
from seg.models import load_weights
from seg.ops import backend
from seg.report.bins import draw_bins


def train_boxes(config: DictConfig) -> None:
    """Train what `config` says in its run folder, from where it stands; then evaluate it and draw its bins."""
    check(config)
    config.resume = slurm.resume(config.resume)
    trainer = build(config.trainer)
    if trainer.devices > 1:
        raise ConfigError(f"trainer.devices is {trainer.devices}; boxes are trained by one process")
    folder = RunFolder(config.run)
    with folder.running():
        runtime: Runtime = build(config.runtime)
        runtime.start(config.seed)
        reading = {"smallest": config.data.smallest, "normalization": build(config.data.normalization)}
        data, transform = build(config.data.train), build(config.data.transform)
        loader = BoxLoader(data, transform, batch_size=config.data.batch_size, seed=config.seed, flip=True, **reading)
        model = build(config.model, classes=len(data.classes))
        if config.weights is not None:
            print(load_weights(model.trunk, config.weights, download=config.download))
        model = runtime.place(model)
        print(f"training in {folder.path}: {runtime.describe()}, {backend(runtime.device.type)} operators")
        plain = OmegaConf.to_container(config, resolve=True)
        assert isinstance(plain, dict)
        model = trainer.train(
            model,
            loader,
            build(config.optimizer, model),
            build(config.schedule),
            folder=folder,
            runtime=runtime,
            resume=config.resume,
            config=comparable(config),
        )
        held_out = BoxLoader(build(config.data.evaluate), transform, batch_size=1, **reading)
        result = evaluate(model, held_out, runtime)
        result["bins"] = list(bins_of(model, held_out, runtime, folder.path, config.pictures))
        facts = {"config": plain, "commit": commit(), "versions": versions(), "device": runtime.describe()}
        write_text(folder.path / "boxes.json", json.dumps(facts | result, indent=1) + "\n")
        if result["bins"]:
            draw_bins(folder.path, folder.path / "bins.png")
        print(f"accuracy {result['accuracy']:.3f}, mean of classes {result['class_accuracy']:.3f}: {folder.path}")


def evaluate(model: nn.Module, loader: BoxLoader, runtime: Runtime) -> dict[str, Any]:
    """Shares of the boxes whose object is told right: of all, the mean over classes, and by the box's size."""
    classes = loader.dataset.classes
    confusion, right, sizes = Confusion(len(classes)), [], []
    for batch, prediction in predictions(model, loader, runtime):
        confusion.add(prediction, batch.label)
        right.append(prediction == batch.label)
        sizes.append(size_class(batch.size))
    hit, size = torch.cat(right).double(), torch.cat(sizes)
    by_class = confusion.counts.diagonal().double() / confusion.counts.sum(1)
    return {
        "data": {"name": loader.dataset.name, "split": loader.dataset.split, "boxes": len(hit)},
        "accuracy": float(hit.mean()),
        "class_accuracy": float(by_class.nanmean()),
        "accuracy_by_class": {name: finite(value) for name, value in zip(classes, by_class, strict=True)},
        "accuracy_by_size": {name: finite(hit[size == k].mean()) for k, name in enumerate(SIZES[:3])},
    }


def finite(value: Tensor) -> float | None:
    """A number for JSON, None where there is none."""
    return None if value.isnan() else float(value)


def predictions(model: nn.Module, loader: BoxLoader, runtime: Runtime) -> Iterator[tuple[BoxBatch, Tensor]]:
    """Every batch and the classes that the model gives its boxes."""
    model.eval()
    for batch in loader:
        with torch.inference_mode(), runtime.autocast():
            logits = model(runtime.image(batch.image))
        yield batch, logits.argmax(1).cpu()


def bins_of(
    model: nn.Module, loader: BoxLoader, runtime: Runtime, folder: Path, count: int
) -> Iterator[dict[str, Any]]:
    """The largest box of each of the first images, with its bins before and after; none without deformable pooling."""
    with record_bins(model) as recorded:
        for index, (batch, prediction) in zip(range(count), predictions(model, loader, runtime), strict=False):
            for before, after in recorded.values():
                largest = int(batch.size.argmax())
                box, classes = batch.image.rois[largest, 1:].tolist(), loader.dataset.classes
                yield {
                    "image": picture(loader, index, folder),
                    "box": box,
                    "before": before[largest].reshape(-1, 4).tolist(),
                    "after": after[largest].reshape(-1, 4).tolist(),
                    "label": classes[int(batch.label[largest])],
                    "prediction": classes[int(prediction[largest])],
                }


def picture(loader: BoxLoader, index: int, folder: Path) -> str:
    """Writes an image as the net saw it; returns its path below the run's folder."""
    name = f"examples/{index:05d}_boxes.png"
    (folder / "examples").mkdir(exist_ok=True)
    Image.fromarray(loader.read(loader.indices[index], None).image).save(folder / name)
    return name
