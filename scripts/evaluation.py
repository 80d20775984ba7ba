"""Evaluate a run, or label images of anybody's model, and write result.json."""

import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from build import build, check
from examples import write_examples
from omegaconf import DictConfig
from run import comparable, label_of, newest_state, trained_model
from torch import nn

from seg.analysis import DilationBySize, cost, record_offsets
from seg.data import evaluate_loader, one_batch
from seg.engine import RunFolder, Runtime, checkpoint, evaluate
from seg.engine.predictions import evaluate_predictions
from seg.engine.ranks import Ranks
from seg.engine.runtime import commit, device_name, versions
from seg.errors import ConfigError
from seg.ops import backend


def evaluate_run(
    folder: RunFolder,
    config: DictConfig,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    output: Path | None = None,
    examples: int = 6,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint on the data that `config` names; writes result.json and returns it.

    ranks: the processes that share the images; the first one gets the result, the others {}
    """
    ranks = ranks or Ranks()
    check(config)
    runtime = runtime or build(config.runtime)
    data = build(config.data.evaluate)
    classes = data.classes
    if model is None:
        state = newest_state(folder)
        if tuple(state["config"]["classes"]) != classes:
            raise ConfigError(
                f"{folder.path} was trained on the classes {state['config']['classes']}, not {list(classes)}"
            )
        model = runtime.place(trained_model(state, config))
    thresholds = tuple(config.data.thresholds)
    transform = build(config.data.evaluate_transform)
    reading = {"normalization": build(config.data.normalization), "size_by": config.data.size_by}
    loader = evaluate_loader(
        data,
        transform,
        batch_size=config.data.evaluate_batch_size,
        workers=config.data.workers,
        rank=ranks.rank,
        world=ranks.world,
        **reading,
    )
    dilation = DilationBySize(thresholds)
    with record_offsets(model) as recorded:
        evaluation = evaluate(
            model,
            loader,
            classes=len(classes),
            thresholds=thresholds,
            runtime=runtime,
            images=len(data),
            after_forward=lambda batch: dilation.add(recorded, batch.size, batch.image.shape[-2:]),
            ranks=ranks,
        )
    parts = ranks.gather(dilation)
    if not ranks.first:
        return {}
    dilation = DilationBySize(thresholds)  # a tensor of its own: those made while evaluating can't be added to any more
    for part in parts:
        dilation.merge(part)
    image = one_batch(data, 0, transform, **reading).image
    result = {
        **_facts(config, data, runtime, len(evaluation.names)),
        **evaluation.scores(classes),
        "effective_dilation": dilation.rows(),
        "effective_dilation_histogram": dilation.histograms(),
        "cost": {
            **cost(model, runtime.image(image)),
            "seconds_per_image": evaluation.forward_seconds / len(evaluation.names),
        },
        "train_seconds": _train_seconds(folder),
    }
    target = RunFolder(output) if output else folder
    result |= write_examples(
        target.path, model, data, transform, evaluation, runtime, count=examples, thresholds=thresholds, **reading
    )
    target.write_result(result)
    folder.log({"kind": "evaluate", "step": _steps(folder), "miou": result["miou"], "split": data.split})
    return result


def _facts(config: DictConfig, data: Any, runtime: Runtime, images: int) -> dict[str, Any]:
    """What the numbers are numbers of."""
    return {
        "schema": 1,
        "variant": label_of(config),
        "seed": config.seed,
        "config": comparable(config),
        "commit": commit(),
        "versions": versions(),
        "backend": backend(runtime.device.type),
        "device": f"{device_name(runtime.device)}, {torch.get_num_threads()} threads, {runtime.precision}",
        "command": shlex.join(["python", *sys.argv]),
        "budget": f"{config.trainer.iterations} steps of batch {config.data.batch_size * config.trainer.accumulate}",
        "data": {"name": config.data.name, "split": data.split, "images": images},
        "object_sizes": data.object_source,
        "protocol": protocol(data, tuple(config.data.thresholds), images),
    }


def protocol(data: Any, thresholds: tuple[float, ...], images: int) -> str:
    """One sentence that says how the numbers were taken."""
    thing = "the square root of the box's area"
    source = "annotated objects" if data.object_source == "masks" else "connected components of the label"
    return (
        f"{data.name} {data.split}, {images} images: one confusion matrix over all pixels at the labels' resolution, "
        f"single scale, no flip, 255 ignored, mIoU over {len(data.classes)} classes; object size is {thing}, "
        f"cut at {thresholds[0]:g} and {thresholds[1]:g} px, from {source}"
    )


def _train_seconds(folder: RunFolder) -> float | None:
    seconds = [record["seconds"] for record in folder.read_metrics() if record.get("kind") == "train"]
    return seconds[-1] if seconds else None


def _steps(folder: RunFolder) -> int:
    found = checkpoint.list_checkpoints(folder.checkpoints)
    return int(found[0].stem.partition("_")[2]) if found else 0


def evaluate_folder_of_predictions(
    predictions: Path, config: DictConfig, *, output: Path | None = None
) -> dict[str, Any]:
    """Evaluate label PNGs of anybody's model; writes result.json beside them, or into `output`, and returns it."""
    if "name" not in config.data:
        raise ConfigError("predictions need a truth: give data=NAME data.root=FOLDER")
    check(config)
    data, thresholds = build(config.data.evaluate), tuple(config.data.thresholds)
    evaluation = evaluate_predictions(
        predictions, data, classes=len(data.classes), thresholds=thresholds, size_by=config.data.size_by
    )
    result = {
        "schema": 1,
        "variant": predictions.name,
        "commit": commit(),
        "versions": versions(),
        "command": shlex.join(["python", *sys.argv]),
        "data": {"name": config.data.name, "split": data.split, "images": len(data)},
        "object_sizes": data.object_source,
        "protocol": protocol(data, thresholds, len(data)),
        **evaluation.scores(data.classes),
    }
    RunFolder(output or predictions).write_result(result)
    return result
