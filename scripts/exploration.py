"""What the offset explorer shows, computed by trained runs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from build import build
from chosen import chosen_images
from omegaconf import DictConfig
from run import label_of, state_of, trained_model
from torch import nn

from seg.analysis import Recorded, record_offsets
from seg.data import IGNORE, one_batch
from seg.engine import Runtime
from seg.engine.inference import forward
from seg.errors import ConfigError
from seg.report import explorer

MOST = 16  # images of one page, which holds all their offsets; four are a few MB


@dataclass(frozen=True)
class Trained:
    """A run ready to be asked."""

    config: DictConfig
    label: str
    model: nn.Module
    runtime: Runtime
    classes: list[str]
    palette: list[list[int]]

    def require_layers(self, recorded: Mapping[str, Recorded]) -> None:
        """Raises ConfigError where nothing was recorded."""
        if not recorded:
            raise ConfigError(f"{self.config.run} has no dilated or deformable layer to look at")


def explore(configs: Sequence[DictConfig], wanted: Any) -> str:
    """The explorer's page, of one or more runs on the images that `wanted` names (see chosen_images).

    raises: ConfigError for nets of different classes, sizes of input, or too many images
    """
    nets = [load_trained(config) for config in configs]
    for net in nets[1:]:
        if net.classes != nets[0].classes:
            raise ConfigError(f"compare={net.config.run}: its classes are {net.classes}, not {nets[0].classes}")
    if len({net.label for net in nets}) < len(nets):  # two seeds of one net
        apart = parts_apart([net.config.run for net in nets])
        nets = [replace(net, label=", ".join([net.label, *parts])) for net, parts in zip(nets, apart, strict=True)]
    chosen = list(chosen_images(configs[0], wanted))
    if len(chosen) > MOST:
        raise ConfigError(f"images: {len(chosen)} of them are too many for one page; choose at most {MOST}")
    images = [_shown(data, index, nets) for data, index in chosen]
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in nets[0].palette]
    return explorer.render(images, dict(zip(nets[0].classes, colours, strict=False)))


def parts_apart(folders: Sequence[str]) -> list[list[str]]:
    """Of each folder the overrides, such as seed=0, that its name alone has; of one name, the paths' parts."""
    names = [Path(folder).name for folder in folders]
    told = [re.split("[/,]", text) for text in (names if len(set(names)) == len(names) else folders)]
    return [[part for part in parts if not all(part in other for other in told)] for parts in told]


def load_trained(config: DictConfig) -> Trained:
    """The newest checkpoint of a run, in evaluation mode."""
    runtime, state = build(config.runtime), state_of(config)
    model = runtime.place(trained_model(state, config)).eval()
    return Trained(config, label_of(config), model, runtime, state["config"]["classes"], state["config"]["palette"])


def _shown(data: Any, index: int, nets: Sequence[Trained]) -> explorer.Shown:
    sample, found, size = data[index], [], None
    for net in nets:
        batch = one_batch(
            data,
            index,
            build(net.config.data.evaluate_transform),
            normalization=build(net.config.data.normalization),
        )
        size = size or batch.image.shape[-2:]
        if batch.image.shape[-2:] != size:
            raise ConfigError(
                f"compare={net.config.run} reads {sample.name} at {tuple(batch.image.shape[-2:])} px, "
                f"the other run at {tuple(size)}; compare runs of one data.evaluate_transform"
            )
        with torch.inference_mode(), record_offsets(net.model) as recorded:
            label = forward(net.model, batch, net.runtime).argmax(1)[0].cpu().numpy()
        net.require_layers(recorded)
        found.append(explorer.Net(net.label, explorer.ids(label), layers_of(recorded)))
    truth = None if (sample.label == IGNORE).all() else explorer.ids(sample.label)
    assert size is not None
    return explorer.Shown(sample.name, size[0], size[1], explorer.photo(sample.image), truth, found)


def layers_of(recorded: Mapping[str, Recorded]) -> list[explorer.Layer]:
    """What was recorded of the first image, as the page takes it."""
    return [_layer(name, layer) for name, layer in recorded.items()]


def _layer(name: str, layer: Recorded) -> explorer.Layer:
    h, w = layer.offset.shape[-2:]
    values = layer.offset[0].float().cpu().numpy().reshape(-1, 9, 2, h, w)
    offset, unit = explorer.quantised(np.ascontiguousarray(values))
    cells = layer.located()
    return explorer.Layer(
        name, (h, w), layer.stride, layer.padding, layer.dilation,
        float(cells.origin), float(cells.stride), len(values), offset, unit,
    )  # fmt: skip
