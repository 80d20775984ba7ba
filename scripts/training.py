"""Build what a configuration says, train it in its run folder, and evaluate it."""

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from arguments import CLASSES_OF_DATA
from build import build, check
from evaluation import evaluate_run, validation
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from run import CONFIG, comparable, digest_of, label_of, names_of, save_config
from torch import nn

from seg.alarms import absent_classes, bad_samples
from seg.analysis import offset_statistics
from seg.counts import counted
from seg.data import train_loader
from seg.data.loader import EpochBatches
from seg.engine import RunFolder, Runtime, checkpoint, slurm
from seg.engine.launch import launch, started_outside
from seg.engine.ranks import Ranks, joined
from seg.engine.resume import differing_keys
from seg.errors import ConfigError, RunError
from seg.models import Report, load_weights
from seg.models.pretrained import TORCHVISION, head_fits
from seg.ops import backend

GREY_LEVELS = 57.0  # by which photographs spread, of 255


def train_run(config: DictConfig) -> None:
    """Train what `config` says in its run folder, from where it stands, on trainer.devices, and evaluate it."""
    check(config)
    config.resume = slurm.resume(config.resume)
    folder = RunFolder(config.run)
    root = _root(folder, config)
    _require_same_data(folder, config, root)
    if config.resume == "auto" and folder.status().get("state") == "done" and _finished(folder, config):
        build(config.runtime, device=_device(config))  # a value that fits nothing is no less wrong
        moved = "" if root == config.data.root else f"; its data were at data.root={root}"
        print(f"done already: {folder.path} (resume=never starts over){moved}", flush=True)
        _tell_of_the_end(folder, config)
        return
    slurm.name_ranks()
    count = build(config.trainer).devices
    if count == 1 or started_outside():
        _train(config)
        return
    config = config.copy()
    config.run = str(folder.path)  # Hydra's own values stay in this process
    try:
        launch(_train, config, count=count)
    except RunError as error:
        folder.mark_failed(error)  # where the rank that owns it was killed
        raise


def _train(config: DictConfig) -> None:
    """One process's part in a run."""
    runtime: Runtime = build(config.runtime, device=_device(config))
    with joined(runtime) as ranks:
        folder = RunFolder(config.run, owned=ranks.first)
        with folder.running(), _tracked(folder, config):
            _train_in(folder, config, runtime, ranks)
    if folder.owned:
        _tell_of_the_end(folder, config)


def _tell_of_the_end(folder: RunFolder, config: DictConfig) -> None:
    """What the run came to, where it is, and what to do with it, which a sweep says once, at its own end."""
    if bad := bad_samples(folder.read_metrics()):
        print(f"training passed over {counted(len(bad), 'bad sample')}; {folder.metrics} names them")
    run = shlex.quote(f"run={folder.path}")
    commands = [f"evaluate.py {run}"]
    if config.evaluate:
        result = json.loads(folder.result.read_text())
        data = result["data"]
        print(f"mIoU {result['miou']:.3f} on {data['name']} {data['split']}, {data['images']} images: {folder.result}")
        commands = [f"report.py {shlex.quote(f'runs={folder.path}')}", f"explore.py {run} output=explorer.html"]
    if not (HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN):
        print("\n".join(["next:", *(f"  python scripts/{command}" for command in commands)]), flush=True)


def _device(config: DictConfig) -> str:
    """Where to compute: joblib's jobs, which share a host at the same time, take its GPUs by turns."""
    wanted: str = config.runtime.device
    if wanted == "auto" and config.trainer.devices == 1 and HydraConfig.initialized():
        job = HydraConfig.get()
        gpus = torch.cuda.device_count() if job.launcher._target_.endswith("JoblibLauncher") else 0
        return f"cuda:{job.job.num % gpus}" if gpus > 1 else wanted
    return wanted


@contextmanager
def _tracked(folder: RunFolder, config: DictConfig) -> Iterator[None]:
    """Show the run's records where `logger` says, from the one process that writes them."""
    if config.get("logger") is None or not folder.owned:
        yield
        return
    with build(config.logger, folder.path, comparable(config)) as tracker:
        folder.listeners.append(tracker)
        yield


def _train_in(folder: RunFolder, config: DictConfig, runtime: Runtime, ranks: Ranks) -> None:
    folder.write_status("running", variant=label_of(config), seed=config.seed, config=comparable(config))
    runtime.start(config.seed)
    data, trainer = build(config.data.train), build(config.trainer)
    folder.write_status("running", data=digest_of(data))
    validate = None
    if config.evaluate or trainer.evaluate_every:  # what is wrong there is known before the training
        build(config.data.evaluate_transform)
        validate = partial(validation, data=build(config.data.evaluate), config=config, runtime=runtime, ranks=ranks)
    goes_on = config.resume != "never" and bool(checkpoint.list_checkpoints(folder.checkpoints))
    classes = _classes_of(data, config)
    model = runtime.place(build(config.model, classes=classes) if goes_on else fresh_model(config, classes))
    if not goes_on:
        save_config(folder, config)
    steps = counted(trainer.iterations, "step")
    print(f"training {label_of(config)} in {folder.path}: {steps}, {_where(runtime, ranks)}", flush=True)
    evaluated = trainer.train(
        model,
        batches_of(config, data, ranks, runtime),
        build(config.optimizer, model),
        build(config.schedule),
        folder=folder,
        runtime=runtime,
        resume=config.resume,
        config={**comparable(config), **names_of(data)},
        observe=offset_statistics,
        validate=validate,
        ranks=ranks,
    )
    save_config(folder, config)
    if config.evaluate:
        result = evaluate_run(folder, config, model=evaluated, runtime=runtime, ranks=ranks)
        if ranks.first and (absent := absent_classes(result["iou"])):
            print(f"note: {absent}", flush=True)


def _classes_of(data: Any, config: DictConfig) -> int:
    """How many classes the data have; raises ConfigError where the configuration says that the net has others."""
    count = len(data.classes)
    if config.model.get("classes", count) != count:
        raise ConfigError(f"model.classes is {config.model.classes}, {data.name} has {count}; {CLASSES_OF_DATA}")
    return count


def batches_of(config: DictConfig, data: Any, ranks: Ranks, runtime: Runtime) -> EpochBatches:
    return train_loader(
        data.without_objects(),
        build(config.data.train_transform),
        batch_size=ranks.share(config.data.batch_size),
        seed=config.seed,
        workers=config.data.workers,
        on_bad_sample=config.data.on_bad_sample,
        skip_limit=config.data.get("skip_limit", 10),
        normalization=build(config.data.normalization),
        rank=ranks.rank,
        world=ranks.world,
        pin_memory=runtime.device.type == "cuda",
    )


def _where(runtime: Runtime, ranks: Ranks) -> str:
    shared = f"{ranks.world} processes, each on " if ranks.world > 1 else ""
    return f"{shared}{runtime.describe()}, {backend(runtime.device.type)} operators"


def fresh_model(config: DictConfig, classes: int) -> nn.Module:
    """The net before the first step; raises ConfigError where a part of it would stay random for ever."""
    _require_style(config)
    model = build(config.model, classes=classes)
    if config.weights is None:
        if config.trainer.iterations == 0:
            raise ConfigError("trainer.iterations=0 evaluates weights as they are; give them as weights=FILE")
        _tell_of_a_random_trunk(config)
        return model
    target = model if head_fits(model, config.weights, download=config.download) else model.trunk
    bgr = config.get("weights_bgr")  # a run of before there was such a key lacks it
    report = load_weights(target, config.weights, download=config.download, bgr=bool(bgr))
    print(report)
    _require_same_images(config, report)
    if bgr is None and _is_caffe(config) and Path(config.weights).suffix != ".params":
        raise ConfigError(
            f"{config.weights} may be of a net that reads blue, green, red, as most of Caffe's are, which the file "
            "doesn't tell; say weights_bgr=true (OpenMMLab's \"caffe\" files, Detectron's) or weights_bgr=false"
        )
    _require_nothing_random(config, model, {f"{'' if target is model else 'trunk.'}{name}" for name in report.loaded})
    return model


def _require_nothing_random(config: DictConfig, model: nn.Module, loaded: set[str]) -> None:
    """Raises ConfigError where a layer that was not loaded is random and no step would change it; offsets are 0."""
    frozen = f"trunk.frozen_stages={config.trunk.get('frozen_stages')}", "trunk.frozen_stages=0"
    key, way_out = ("trainer.iterations=0", "train") if config.trainer.iterations == 0 else frozen
    random = [
        name.removeprefix("trunk.")
        for name, value in model.named_parameters()
        if value.dim() > 1 and name not in loaded and value.any()
        if config.trainer.iterations == 0 or not value.requires_grad
    ]
    if random:
        raise ConfigError(
            f"{config.weights} lacks {', '.join(random[:4])}, which {key} would keep random; "
            f"give weights that have them, or {way_out}"
        )


def _tell_of_a_random_trunk(config: DictConfig) -> None:
    """A net as large as a ResNet is rarely meant to start from nothing."""
    kind = config.trunk._target_.rpartition(".")[2]
    if f"{kind}-imagenet" in TORCHVISION:
        print(
            f"{kind} starts from random weights; weights={kind}-imagenet download=true gives it ImageNet's", flush=True
        )


def _is_caffe(config: DictConfig) -> bool:
    """Whether a part of the net is the released DeepLab's, whose strides and images are not torchvision's."""
    target: str = config.data.normalization._target_
    return config.trunk.get("style") == "caffe" or target.endswith(".caffe_normalization")


def _require_style(config: DictConfig) -> None:
    """Raises ConfigError for torchvision's weights, whose names fit, where the net computes otherwise."""
    if str(config.weights) in TORCHVISION and _is_caffe(config):
        raise ConfigError(
            f"{config.weights} is of a net with other strides and images than the released DeepLab's, though names and "
            f"shapes fit; {_other_style('torchvision', 'imagenet')}, or weights of the released net "
            "(docs/REPRODUCE.md, section 2)"
        )


def _require_same_images(config: DictConfig, report: Report) -> None:
    """Raises ConfigError for weights of a net whose images had values of another size: ImageNet's spread by 1, Caffe's
    by 57, and names and shapes of such nets are the same."""
    here = GREY_LEVELS / fmean(build(config.data.normalization).std)
    if report.scale is None or here / 8 < report.scale < here * 8:
        return
    way_out = ("torchvision", "imagenet") if report.scale < here else ("caffe", "caffe")
    raise ConfigError(
        f"{config.weights}: by its first norm, its images spread by about {report.scale:.2g}, and those of "
        f"{config.data.normalization._target_} by {here:.2g}, though names and shapes fit; {_other_style(*way_out)}"
    )


def _other_style(style: str, normalization: str) -> str:
    return f"give with it trunk.style={style} data.normalization._target_=seg.data.{normalization}_normalization"


def _finished(folder: RunFolder, config: DictConfig) -> bool:
    """Whether the run has its last checkpoint, of this configuration, and its result where one is wanted."""
    state, _ = checkpoint.newest(folder.checkpoints)
    if state is None or state["step"] < config.trainer.iterations:
        return False
    of_the_data = ("classes", "palette", "images", "flip_pairs")
    saved = {key: value for key, value in state["config"].items() if key not in of_the_data}
    return not differing_keys(saved, comparable(config)) and (folder.result.exists() or not config.evaluate)


def _require_same_data(folder: RunFolder, config: DictConfig, root: str | None) -> None:
    """Raises ConfigError where the folder's run, whose data were at `root`, was trained on other data. A root is in no
    folder's name, and alone doesn't tell, since data may move."""
    before = folder.status().get("data")
    if config.resume == "never" or before is None or root == config.data.root:
        return
    if digest_of(build(config.data.train)) != before:
        raise ConfigError(
            f"{folder.path} has a run that was trained on other data, of data.root={root}; for those of "
            f"data.root={config.data.root} give data.name=NAME or run=FOLDER, or start over with resume=never"
        )


def _root(folder: RunFolder, config: DictConfig) -> str | None:
    """Where the folder's run had its data."""
    file = folder.path / CONFIG
    root: str | None = OmegaConf.select(OmegaConf.load(file) if file.is_file() else config, "data.root")
    return root
