"""A run as the commands see it: its configuration, its newest checkpoint, its model, and how tables call it."""

import hashlib
import sys
from pathlib import Path
from typing import Any

from build import build, check
from omegaconf import DictConfig, OmegaConf
from torch import nn

from seg.counts import counted
from seg.engine import RunFolder, checkpoint
from seg.errors import ConfigError, DataError

CONFIG = "config.yaml"
LAYERS, DILATION = 3, 2  # of the papers' nets, which a label needn't say
# keys that may differ between the checkpoint and the run that goes on from it
FREE_TO_CHANGE = (
    "run", "resume", "checkpoint", "evaluate", "label", "logger", "pictures", "data.root", "data.train.sbd_root",
    "data.workers", "data.skip_limit", "data.evaluate", "data.evaluate_transform", "data.evaluate_batch_size",
    "data.thresholds", "data.size_by", "runtime.device", "runtime.threads", "runtime.timeout", "trainer.log_every",
    "trainer.save_every", "trainer.keep", "trainer.patience", "trainer.devices", "trainer.evaluate_every",
)  # fmt: skip
# keys of data that go with the weights: a group file that is named for its images (data=voc) doesn't change them
OF_THE_WEIGHTS = ("normalization", "train", "train_transform", "batch_size", "on_bad_sample", "skip_limit")


def load_config(run: str, overrides: DictConfig) -> DictConfig:
    """The configuration that a run was trained with, changed by what is given in `overrides` of data and runtime.

    raises: ConfigError for a value that fits nothing or names what isn't ours to call, or a folder that is no run's
    """
    check(overrides)
    path = Path(run) / CONFIG
    if not path.is_file():
        inside = next(Path(run).glob(f"*/{CONFIG}"), None)
        hint = f"; give one of the runs in it, such as run={inside.parent}" if inside else ""
        raise ConfigError(f"{run} is no run folder: it has no {CONFIG}{hint}")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig) or not {"data", "model", "trainer"} <= set(config):
        raise ConfigError(f"{path} is not the configuration of a training, or was cut off; give another run")
    config.run, config.checkpoint = str(Path(run).resolve()), overrides.get("checkpoint")
    for key in ("data", "runtime"):
        given = _given(OmegaConf.to_container(overrides[key]) if key in overrides else {})
        for name in OF_THE_WEIGHTS if key == "data" else ():
            if name == "normalization" and given.get(name, config[key][name]) != config[key][name]:
                print(f"note: data.{name} stays {config[key][name]._target_}, as in training", file=sys.stderr)
            given.pop(name, None)
        config[key] = OmegaConf.merge(config[key], given)
    check(config)  # the run's own values too: they may be a stranger's
    return config


def state_of(config: DictConfig) -> dict[str, Any]:
    """The checkpoint of a run: that of `checkpoint`, a step or a file, else the newest one that can be read; older ones
    are taken where it is damaged, and that is said."""
    folder, chosen = RunFolder(config.run), config.get("checkpoint")
    if chosen is not None:
        return _chosen(folder, str(chosen))
    state, problems = checkpoint.newest(folder.checkpoints)
    for problem in problems:
        print(f"passed over: {problem}", file=sys.stderr)
    if state is None:
        raise DataError(f"{folder.path} has no checkpoint that can be read; train it first with scripts/train.py")
    return state


def _chosen(folder: RunFolder, chosen: str) -> dict[str, Any]:
    found = checkpoint.list_checkpoints(folder.checkpoints)
    path = next((path for path in found if str(checkpoint.step_of(path)) == chosen), Path(chosen))
    if not path.is_file():
        steps = ", ".join(str(checkpoint.step_of(path)) for path in reversed(found)) or "none"
        raise ConfigError(
            f"checkpoint={chosen} is no file and no step that {folder.path} keeps, which are {steps}; trainer.keep is "
            "how many a training leaves"
        )
    return checkpoint.load(path)


def trained_model(state: dict[str, Any], config: DictConfig) -> nn.Module:
    """The model that a checkpoint was saved from; it is said where its run has none of its training's end."""
    step, last = state["step"], config.trainer.iterations
    if step < last and config.get("checkpoint") is None:
        print(f"note: {config.run} is at step {step} of {last}; its training is not finished", file=sys.stderr)
    model = build(config.model, classes=len(state["config"]["classes"]))
    try:
        model.load_state_dict(state.get("average", state["model"]))
    except RuntimeError as error:
        raise ConfigError(f"the checkpoint does not fit the configuration of {config.run}: {error}") from error
    return model


def label_of(config: DictConfig) -> str:
    """How tables call the net: by `label`, or else by what its convolutions are, whichever keys made them so."""
    if config.label:
        return str(config.label)
    conv, count = config.conv, config.trunk.get("replaced", LAYERS)
    kind, dilation = conv._target_.rpartition(".")[2].lower(), conv.get("dilation", DILATION)
    groups, of_offsets = conv.get("offset_groups", 1), conv.get("offset_dilation", 1)
    layers = counted(count, "layer")
    if kind == "dilated":
        return f"dilated {dilation}" + ("" if count == LAYERS else f", {layers}")
    parts = [
        f"{'deformable' if kind == 'deform' else kind} {layers}",
        *([f"dilation {dilation}"] if dilation != DILATION else []),
        *([counted(groups, "offset group")] if groups != 1 else []),
        *([f"offset layers of dilation {of_offsets}"] if of_offsets != 1 else []),
    ]
    return ", ".join(parts)


def comparable(config: DictConfig) -> dict[str, Any]:
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


def names_of(data: Any) -> dict[str, Any]:
    """What the data call their classes and images, and how they paint them: kept with the weights, as they go together.

    Of the images only a digest: it tells other data from those that were moved.
    """
    digest = hashlib.sha256("\n".join(data.names).encode()).hexdigest()[:12]
    images = f"{len(data.names)}, by the digest {digest} of their names"
    names = {"classes": list(data.classes), "palette": data.palette.tolist(), "images": images}
    # absent without pairs, as in the checkpoints of before there were any
    return {**names, "flip_pairs": [list(pair) for pair in data.flip_pairs]} if data.flip_pairs else names


def digest_of(data: Any) -> str:
    """Tells data from others, wherever they lie: by classes, names, and the files of the first and the last image."""
    digest = hashlib.sha256("\n".join([*data.classes, *data.names]).encode())
    entries = getattr(data, "entries", ())  # none where the images are made
    for entry in (*entries[:1], *entries[-1:]):
        digest.update(entry.image.read_bytes() if entry.image.is_file() else b"")
    return digest.hexdigest()[:12]


def save_config(folder: RunFolder, config: DictConfig) -> None:
    """Keep what the weights were trained with; a command that is refused writes over the copy that Hydra keeps."""
    checkpoint.write_text(folder.path / CONFIG, OmegaConf.to_yaml(config))


def make_folder(folder: Path) -> None:
    """Make the folder that a command writes to; raises ConfigError where it can't be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output: the folder {folder} can't be made ({error.strerror}); give another") from None
    RunFolder(folder).require_writable("output")


def _given(node: Any) -> Any:
    """A configuration without the keys that are null."""
    if not isinstance(node, dict):
        return node
    return {key: _given(value) for key, value in node.items() if value is not None and _given(value) != {}}
