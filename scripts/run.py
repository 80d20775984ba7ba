"""What the commands do with a run: build it from its configuration, train it, evaluate it, and write result.json."""

import shlex
import sys
from pathlib import Path
from typing import Any

import torch
from build import build, check
from examples import write_examples
from omegaconf import DictConfig, OmegaConf
from torch import nn

from seg.analysis import DilationBySize, cost, offset_statistics, record_offsets
from seg.data import evaluate_loader, one_batch, train_loader
from seg.engine import RunFolder, Runtime, Schedule, checkpoint, evaluate
from seg.engine.predictions import evaluate_predictions
from seg.engine.runtime import commit, device_name, versions
from seg.errors import ConfigError, DataError
from seg.models import load_weights
from seg.ops import backend

CONFIG = "config.yaml"
# keys that may differ between the checkpoint and the run that goes on from it
FREE_TO_CHANGE = (
    "run", "resume", "evaluate", "label", "data.root", "data.workers", "data.evaluate", "data.thresholds",
    "runtime.threads", "trainer.log_every", "trainer.save_every", "trainer.keep", "trainer.patience",
)  # fmt: skip


def train_run(config: DictConfig) -> None:
    """Train what `config` says in its run folder, from where it stands, and evaluate it."""
    check(config)
    folder = RunFolder(config.run)
    if config.resume == "auto" and folder.status().get("state") == "done" and _finished(folder, config):
        print(f"done already: {folder.path} (resume=never starts over)", flush=True)
        return
    with folder.running():
        folder.write_status("running", variant=_label(config), seed=config.seed)
        runtime: Runtime = build(config.runtime)
        runtime.start(config.seed)
        data, trainer = build(config.data.train), build(config.trainer)
        schedule: Schedule = build(config.schedule)
        model = runtime.place(_fresh_model(config, len(data.classes)))
        optimizer = build(config.optimizer, model)
        loader = train_loader(
            data,
            build(config.data.train_transform),
            batch_size=config.data.batch_size,
            seed=config.seed,
            workers=config.data.workers,
            on_bad_sample=config.data.on_bad_sample,
            normalization=build(config.data.normalization),
        )
        where = f"{runtime.describe()}, {backend(runtime.device.type)} operators"
        if config.resume == "never" or not checkpoint.list_checkpoints(folder.checkpoints):
            _save_config(folder, config)
        print(f"training {_label(config)} in {folder.path}: {trainer.iterations} steps, {where}", flush=True)
        trainer.train(
            model,
            loader,
            optimizer,
            schedule,
            folder=folder,
            runtime=runtime,
            resume=config.resume,
            config={**_comparable(config), **_names(data)},
            observe=offset_statistics,
        )
        _save_config(folder, config)
        if config.evaluate:
            evaluate_run(folder, config, model=model, runtime=runtime)


def evaluate_run(
    folder: RunFolder,
    config: DictConfig,
    *,
    model: nn.Module | None = None,
    runtime: Runtime | None = None,
    output: Path | None = None,
    examples: int = 6,
) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint on the data that `config` names; writes result.json and returns it."""
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
        data, transform, batch_size=config.data.evaluate_batch_size, workers=config.data.workers, **reading
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
        )
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


def newest_state(folder: RunFolder) -> dict[str, Any]:
    """The newest checkpoint of a run that can be read; older ones are taken where it is damaged, and that is said."""
    state, problems = checkpoint.newest(folder.checkpoints)
    for problem in problems:
        print(f"passed over: {problem}", file=sys.stderr)
    if state is None:
        raise DataError(f"{folder.path} has no checkpoint that can be read; train it first with scripts/train.py")
    return state


def trained_model(state: dict[str, Any], config: DictConfig) -> nn.Module:
    """The model that a checkpoint was saved from."""
    model = build(config.model, classes=len(state["config"]["classes"]))
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ConfigError(f"the checkpoint does not fit the configuration of {config.run}: {error}") from error
    return model


def load_config(run: str, overrides: DictConfig) -> DictConfig:
    """The configuration that a run was trained with, changed by what is given in `overrides` of data and runtime."""
    path = Path(run) / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run} is no run folder: it has no {CONFIG}")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    config.run = str(Path(run).resolve())
    for key in ("data", "runtime"):
        given = _given(OmegaConf.to_container(overrides[key]) if key in overrides else {})
        config[key] = OmegaConf.merge(config[key], given)
    return config


def _save_config(folder: RunFolder, config: DictConfig) -> None:
    """Keep what the weights were trained with; a command that is refused writes over the copy that Hydra keeps."""
    checkpoint.write_text(folder.path / CONFIG, OmegaConf.to_yaml(config))


def _given(node: Any) -> Any:
    """A configuration without the keys that are null."""
    if not isinstance(node, dict):
        return node
    return {key: _given(value) for key, value in node.items() if value is not None and _given(value) != {}}


def _fresh_model(config: DictConfig, classes: int) -> nn.Module:
    model = build(config.model, classes=classes)
    if config.weights is not None:
        print(load_weights(model.trunk, config.weights, download=config.download))
    return model


def _finished(folder: RunFolder, config: DictConfig) -> bool:
    """Whether the run has its last checkpoint, of this configuration, and its result where one is wanted."""
    state, _ = checkpoint.newest(folder.checkpoints)
    if state is None or state["step"] < config.trainer.iterations:
        return False
    saved = {key: value for key, value in state["config"].items() if key not in ("classes", "palette")}
    return saved == _comparable(config) and (folder.result.exists() or not config.evaluate)


def _comparable(config: DictConfig) -> dict[str, Any]:
    """The configuration as flat plain values, less what a resumed run may change."""
    flat: dict[str, Any] = {}

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        elif not any(path == key or path.startswith(key + ".") for key in FREE_TO_CHANGE) and not path.endswith(
            ".root"
        ):
            flat[path] = node

    walk(OmegaConf.to_container(config, resolve=True), "")
    return flat


def _names(data: Any) -> dict[str, Any]:
    """What the data call their classes, and how they paint them: kept with the weights, so that they go together."""
    return {"classes": list(data.classes), "palette": data.palette.tolist()}


def _label(config: DictConfig) -> str:
    """How tables call the variant."""
    if config.label:
        return str(config.label)
    kind = config.conv._target_.rpartition(".")[2].lower()
    if kind == "dilated":
        return f"dilated {config.conv.dilation}"
    layers = f"{config.trunk.replaced} layer" + ("" if config.trunk.replaced == 1 else "s")
    return f"{'deformable' if kind == 'deform' else kind} {layers}"


def _facts(config: DictConfig, data: Any, runtime: Runtime, images: int) -> dict[str, Any]:
    """What the numbers are numbers of."""
    return {
        "schema": 1,
        "variant": _label(config),
        "seed": config.seed,
        "config": _comparable(config),
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


def _steps(folder: RunFolder) -> int:
    found = checkpoint.list_checkpoints(folder.checkpoints)
    return int(found[0].stem.partition("_")[2]) if found else 0
