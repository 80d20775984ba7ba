"""Build what a configuration says, train it in its run folder, and evaluate it."""

from build import build, check
from evaluation import evaluate_run
from omegaconf import DictConfig
from run import comparable, label_of, names_of, save_config
from torch import nn

from seg.analysis import offset_statistics
from seg.data import train_loader
from seg.engine import RunFolder, Runtime, Schedule, checkpoint
from seg.models import load_weights
from seg.ops import backend


def train_run(config: DictConfig) -> None:
    """Train what `config` says in its run folder, from where it stands, and evaluate it."""
    check(config)
    folder = RunFolder(config.run)
    if config.resume == "auto" and folder.status().get("state") == "done" and _finished(folder, config):
        print(f"done already: {folder.path} (resume=never starts over)", flush=True)
        return
    with folder.running():
        folder.write_status("running", variant=label_of(config), seed=config.seed)
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
            save_config(folder, config)
        print(f"training {label_of(config)} in {folder.path}: {trainer.iterations} steps, {where}", flush=True)
        trainer.train(
            model,
            loader,
            optimizer,
            schedule,
            folder=folder,
            runtime=runtime,
            resume=config.resume,
            config={**comparable(config), **names_of(data)},
            observe=offset_statistics,
        )
        save_config(folder, config)
        if config.evaluate:
            evaluate_run(folder, config, model=model, runtime=runtime)


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
    return saved == comparable(config) and (folder.result.exists() or not config.evaluate)
