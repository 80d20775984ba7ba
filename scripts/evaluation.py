"""Evaluate a run, or label images of anybody's model, and write result.json."""

import json
import re
import shlex
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from build import build, check
from examples import write_examples
from omegaconf import DictConfig
from PIL import Image
from run import comparable, label_of, state_of, trained_model
from torch import nn

from seg.alarms import bad_samples
from seg.analysis import DilationBySize, cost, record_offsets
from seg.data import Batch, Cityscapes, evaluate_loader, one_batch
from seg.data.cityscapes import to_label_ids
from seg.engine import Evaluation, Inference, RunFolder, Runtime, checkpoint, evaluate
from seg.engine.official import official_scores
from seg.engine.predictions import evaluate_predictions, find_predictions
from seg.engine.ranks import Ranks
from seg.engine.runtime import commit, versions
from seg.errors import ConfigError, DataError
from seg.ops import backend


def evaluate_run(
    folder: RunFolder,
    config: DictConfig,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    output: Path | None = None,
    examples: int = 6,
    official: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Evaluate a run's checkpoint on the data that `config` names; writes result.json and returns it.

    official: write the predictions, and have cityscapesscripts evaluate them too
    ranks:    the processes that share the images; the first one gets the result, the others {}
    """
    ranks = ranks or Ranks()
    check(config)
    runtime, data = runtime or build(config.runtime), build(config.data.evaluate)
    _require_official(data, config, official)
    step = config.trainer.iterations
    target = RunFolder(output) if output else folder
    target.require_writable("output")
    inference = build(config.inference) if "inference" in config else Inference()
    if model is None:
        if target is folder:
            if config.get("checkpoint") is not None:
                raise ConfigError("a run's own result is of its newest checkpoint; give output=FOLDER with checkpoint=")
            _require_same_reading(folder, protocol(data, config, len(data), str(inference)), runtime.precision)
        model, step = _trained(folder, config, data.classes)
        model = runtime.place(model)
    written = target.path / "predictions" if official else None
    net = inference.net(model)
    evaluation, dilation = _measure(model, data, config, runtime, inference, written, ranks)
    if not ranks.first:
        return {}
    reading = _reading(config)
    scores = evaluation.scores(data.classes)
    result = {
        **_facts(config, data, runtime, len(evaluation.names), inference, step, _counted_classes(scores)),
        **scores,
        "effective_dilation": dilation.rows(),
        "effective_dilation_histogram": dilation.histograms(),
        "cost": _cost(net, one_batch(data, 0, **reading).image, runtime, evaluation),
        **_of_training(folder, step),
    }
    thresholds = tuple(config.data.thresholds)
    result |= write_examples(
        target.path, model, data, reading.pop("transform"), evaluation, runtime,
        count=examples, thresholds=thresholds, inference=inference, **reading,
    )  # fmt: skip
    _write(target, result, written, data)
    if target is folder:
        folder.log({"kind": "evaluate", "step": step, "miou": result["miou"], "split": data.split})
        if step >= config.trainer.iterations:
            folder.mark_done()
    return result


def _measure(
    model: nn.Module,
    data: Any,
    config: DictConfig,
    runtime: Runtime,
    inference: Inference,
    written: Path | None,
    ranks: Ranks,
) -> tuple[Evaluation, DilationBySize]:
    """One pass: counts, and effective dilation, which is that of the whole image at its own scale or not taken."""
    thresholds = tuple(config.data.thresholds)
    dilation = DilationBySize(thresholds)
    with record_offsets(model) as recorded:

        def add(batch: Batch) -> None:
            dilation.add(recorded, batch.size, batch.image.shape[-2:])

        evaluation = _counted(
            model, data, config, runtime, ranks,
            after_forward=add if inference.plain else None,
            inference=inference,
            keep=None if written is None else partial(_write_label_ids, written),
        )  # fmt: skip
    total = DilationBySize(thresholds)  # a tensor of its own: those made while evaluating can't be added to any more
    for part in ranks.gather(dilation):
        total.merge(part)
    return evaluation, total


def validation(model: nn.Module, *, data: Any, config: DictConfig, runtime: Runtime, ranks: Ranks) -> dict[str, Any]:
    """The scores of a net on its way; each rank counts its images, and the first has them all."""
    evaluation = _counted(model, data, config, runtime, ranks)
    return {"miou": evaluation.confusion.mean_iou() if ranks.first else None, "split": data.split}


def _counted(model: nn.Module, data: Any, config: DictConfig, runtime: Runtime, ranks: Ranks, **how: Any) -> Evaluation:
    """One pass over the data as the configuration says; `how`: more arguments of `evaluate`."""
    loader = evaluate_loader(
        data,
        batch_size=config.data.evaluate_batch_size,
        workers=config.data.workers,
        rank=ranks.rank,
        world=ranks.world,
        pin_memory=runtime.device.type == "cuda",
        **_reading(config),
    )
    return evaluate(
        model,
        loader,
        classes=len(data.classes),
        thresholds=tuple(config.data.thresholds),
        runtime=runtime,
        images=len(data),
        ranks=ranks,
        **how,
    )


def _trained(folder: RunFolder, config: DictConfig, classes: tuple[str, ...]) -> tuple[nn.Module, int]:
    """The net of a run's checkpoint, and the step it was saved at."""
    state = state_of(config)
    if tuple(state["config"]["classes"]) != classes:
        raise ConfigError(f"{folder.path} was trained on the classes {state['config']['classes']}, not {list(classes)}")
    return trained_model(state, config), state["step"]


def _reading(config: DictConfig) -> dict[str, Any]:
    """How samples become batches."""
    return {
        "transform": build(config.data.evaluate_transform),
        "normalization": build(config.data.normalization),
        "size_by": config.data.size_by,
    }


def _cost(model: nn.Module, image: torch.Tensor, runtime: Runtime, evaluation: Evaluation) -> dict[str, float]:
    seconds = evaluation.forward_seconds / len(evaluation.names)
    with runtime.autocast():
        return {**cost(model, runtime.image(image)), "seconds_per_image": seconds}


def _before(folder: RunFolder) -> dict[str, Any]:
    """The result that a folder has; {} where there is none that can be read."""
    try:
        result = json.loads(folder.result.read_text())
        return result if isinstance(result, dict) else {}
    except (OSError, ValueError):
        return {}


def _require_same_predictions(folder: RunFolder, predictions: Path) -> None:
    other = _before(folder).get("predictions")
    if other not in (None, str(predictions.resolve())):
        raise ConfigError(f"{folder.result} would be lost, which is of predictions={other}; give output=FOLDER")


def _require_same_reading(folder: RunFolder, wanted: str, precision: str | None = None) -> None:
    """Raises ConfigError where the run has a result that was taken in another way: its report would lose it. That of
    another precision, which follows the machine, is replaced, and that is said."""
    result = _before(folder)
    if "protocol" not in result:
        return
    said = str(result["protocol"])
    of_the_net = r", computed in \w+|, after \d+ of \d+ steps|(?<= over )\d+ of (?=\d+ classes)"
    if (before := re.sub(of_the_net, "", said)) != wanted:
        raise ConfigError(
            f"{folder.result} would be lost, which is of another evaluation:\n  {before}\nThis one is of\n  {wanted}\n"
            "give output=FOLDER for it, or take that file away"
        )
    if (computed := result.get("precision", precision)) != precision:
        print(
            f"note: {folder.result} was computed in {computed}; this evaluation, in {precision}, takes its place "
            "(output=FOLDER would keep both)",
            file=sys.stderr,
        )


def _require_official(data: Any, config: DictConfig, official: bool) -> None:
    if official and config.data.evaluate_transform.get("truth") == "resized":
        raise ConfigError(
            "official=true compares at the labels' size; give data.evaluate_transform.truth=original with it"
        )
    if official and not (isinstance(data, Cityscapes) and data.entries[0].label.name.endswith("_labelIds.png")):
        raise ConfigError("official=true is Cityscapes' own evaluation; it needs data=cityscapes with labelIds files")


def _write_label_ids(folder: Path, name: str, label: torch.Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with checkpoint.replacing(folder / f"{name}.png", "wb") as file:
        Image.fromarray(to_label_ids(label.numpy())).save(file, "PNG")


def _write(target: RunFolder, result: dict[str, Any], label_ids: Path | None, data: Any) -> None:
    """Write a result; then, of a folder of label ids, with cityscapesscripts' scores too: if they fail, ours stays."""
    target.write_result(result)
    if label_ids is not None:
        files = find_predictions(label_ids, data.names)
        truths = [entry.label for entry in data.entries]
        result["official"] = official_scores([files[name] for name in data.names], truths)
        target.write_result(result)


def _facts(
    config: DictConfig, data: Any, runtime: Runtime, images: int, inference: Inference, step: int, counted: int
) -> dict[str, Any]:
    """What the numbers are numbers of."""
    last = config.trainer.iterations
    early = f"{step} of " if step < last else ""
    steps = f"{early}{last} steps"
    how = f"{inference}, computed in {runtime.precision}" + (f", after {steps}" if early else "")
    return {
        "schema": 1,
        "variant": label_of(config),
        "seed": config.seed,
        "config": comparable(config),
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "backend": backend(runtime.device.type),
        "device": runtime.describe(),
        "precision": runtime.precision,
        "command": shlex.join(["python", *sys.argv]),
        "budget": f"{steps} of batch {config.data.batch_size * config.trainer.accumulate}",
        "data": {"name": data.name, "split": data.split, "images": images},
        "object_sizes": data.object_source,
        "protocol": protocol(data, config, images, how, counted),
    }


def _counted_classes(scores: dict[str, Any]) -> int:
    """Classes that mIoU is a mean over: those that are in the truth or the prediction."""
    return sum(value is not None for value in scores["iou"].values())


def protocol(data: Any, config: DictConfig, images: int, inference: str, counted: int | None = None) -> str:
    """One sentence that says how the numbers were taken; counted: classes that have one, where not all have."""
    thresholds = config.data.thresholds
    transform = config.data.evaluate_transform
    resolution = "the labels' resolution"
    if transform.get("truth") == "resized" and transform.resize:
        resolution = "the resized image's resolution, the truth resized with it (the released DeepLab's protocol)"
    resolution += _resized(transform.resize)
    thing = "the square root of the box's area"
    if config.data.size_by == "box":
        thing += " (the smallest box that holds a pixel)"
    classes = f"{len(data.classes)} classes"
    if counted not in (None, len(data.classes)):
        classes = f"{counted} of {classes}"
    source = "annotated objects" if data.object_source == "masks" else "connected components of the label"
    return (
        f"{data.name} {data.split}, {images} images: one confusion matrix over all pixels at {resolution}, "
        f"{inference}, 255 ignored, mIoU over {classes}; object size is {thing}, "
        f"cut at {thresholds[0]:g} and {thresholds[1]:g} px, from {source}"
    )


def _resized(resize: Any) -> str:
    """What the net saw of the images, where it is not the images as they are."""
    if not resize:
        return ""
    short, longest = (resize, None) if isinstance(resize, int) else resize
    return f", images resized to a short side of {short} px" + (f", {longest} px long at most" if longest else "")


def _of_training(folder: RunFolder, step: int) -> dict[str, Any]:
    """What the records of a training say of it: the last one up to a step, null where there is none or it does not say,
    and the samples that were passed over."""
    records = folder.read_metrics()
    steps = [record for record in records if record.get("kind") == "train" and record["step"] <= step]
    last = steps[-1] if steps else {}
    return {
        "train_seconds": last.get("seconds"),
        "train_precision": last.get("precision"),
        "bad_samples": bad_samples(records),
    }


def _called(predictions: Path) -> str:
    """A folder's name, with its parent's where it says nothing of whose predictions they are."""
    generic = ("ids", "label_ids", "labels", "predictions", "pred", "results")
    return "/".join(predictions.parts[-2:]) if predictions.name in generic else predictions.name


def place_of(predictions: Path) -> Path:
    """Where the result of a folder of predictions is kept by default: it is the user's, and may hold their truth."""
    return Path("runs", "predictions", _called(predictions.resolve()).replace("/", "."))


def evaluate_folder_of_predictions(
    predictions: Path, config: DictConfig, *, output: Path | None = None, official: bool = False
) -> dict[str, Any]:
    """Evaluate label PNGs of anybody's model; writes result.json into `output`, or their place, and returns it."""
    if "name" not in config.data:
        raise ConfigError("predictions need a truth: give data=NAME data.root=FOLDER")
    if config.data.evaluate_transform.get("resize") or config.data.evaluate_transform.get("truth") == "resized":
        raise ConfigError("data.evaluate_transform is for a net's input; predictions are compared at the labels' size")
    check(config)
    if not predictions.is_dir():
        raise DataError(f"predictions={predictions}: no such folder")
    data, thresholds = build(config.data.evaluate), tuple(config.data.thresholds)
    _require_official(data, config, official)
    target = RunFolder(output or place_of(predictions))
    target.require_writable("output")
    if output is None:
        _require_same_predictions(target, predictions)
        _require_same_reading(target, protocol(data, config, len(data), "predictions as given"))
    evaluation = evaluate_predictions(
        predictions, data, classes=len(data.classes), thresholds=thresholds, size_by=config.data.size_by
    )
    scores = evaluation.scores(data.classes)
    result = {
        "schema": 1,
        "variant": _called(predictions.resolve()),
        "predictions": str(predictions.resolve()),
        "commit": commit(),
        "versions": versions(),
        "command": shlex.join(["python", *sys.argv]),
        "data": {"name": data.name, "split": data.split, "images": len(data)},
        "object_sizes": data.object_source,
        "protocol": protocol(data, config, len(data), "predictions as given", _counted_classes(scores)),
        **scores,
    }
    _write(target, result, predictions if official else None, data)
    return result
