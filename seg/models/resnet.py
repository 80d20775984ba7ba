"""ResNet trunks whose last 3x3 layers are an argument.

`conv` is called as conv(channels_in, channels_out) for a replaced layer of the last stage, which so has the dilation
that `conv` itself has; a replaced layer of an earlier stage is called with its natural `stride` and `dilation`, and a
layer of the last stage that strides with its `stride`. Nothing here asks which variant it gets. Parameter names are
torchvision's.
"""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from seg.errors import ConfigError
from seg.models.block import Basic, Bottleneck, FrozenNorm, Maker, NarrowBottleneck, Residual, Step, plain
from seg.models.conv import Cells, check_whole, dilate
from seg.models.pretrained import DEPTHS, load_weights

Conv = Callable[..., nn.Module]
Block = type[Basic] | type[Bottleneck]
OUTPUT_STRIDES = (8, 16)
STYLES = ("torchvision", "caffe")
NORMS = ("train", "frozen")
NATURAL_STRIDES = (1, 2, 2, 2)

log = logging.getLogger(__name__)


class ResNet(nn.Module):
    """A residual trunk: image [N, 3, H, W] -> map [N, channels, h, w], one cell for every `stride` pixels.

    conv:          what the last `replaced` 3x3 layers are: conv(channels_in, channels_out, **overrides) -> module
    depths:        blocks in each of the four stages; widths: their 3x3 widths
    stem_kernel:   side of the first filter; pool: whether a max pooling follows it
    replaced:      0 .. number of 3x3 layers in the blocks; those not replaced keep their natural dilation, which in the
                   last stage is 2 at output stride 16 and 4 at 8 (tiny: 1 and 2)
    output_stride: 8 or 16
    style:         "torchvision" (stride on the 3x3, padded max pooling: cell n at pixel 16 n), or "caffe" as in the
                   released DeepLab (stride on the first 1x1, unpadded ceil-mode max pooling: cell n at pixel 16 n + 2)
    norm:          "train", or "frozen": constant statistics, gain and bias (the released DeepLab)
    frozen_stages: how many leading stages have fixed parameters and norms: 0 none, 1 the stem, 2 the stem and layer1
                   (conv1 and res2: the released DeepLab), up to 5
    last_gamma:    gain of each block's last norm at the start; a small one starts near the identity. None is 1, or with
                   frozen norms 1 / sqrt(blocks): they don't normalise, so at a gain of 1 each block of a net without
                   weights doubles the variance. Pretrained norms bring their own
    raises:        ConfigError (a ValueError) where an argument is out of range
    source:        arXiv:1512.03385; arXiv:1606.00915 for the dilation

    cells: for each 3x3 layer of the blocks, by name, where the cells of the map it reads sit in the image
    """

    def __init__(
        self,
        conv: Conv,
        *,
        block: Block = Bottleneck,
        depths: Sequence[int] = (3, 4, 23, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_width: int = 64,
        stem_kernel: int = 7,
        pool: bool = True,
        replaced: int = 3,
        output_stride: int = 16,
        style: str = "torchvision",
        norm: str = "train",
        frozen_stages: int = 0,
        last_gamma: float | None = None,
    ) -> None:
        super().__init__()
        _check_choice("output_stride", output_stride, OUTPUT_STRIDES)
        _check_choice("style", style, STYLES)
        _check_choice("norm", norm, NORMS)
        layers = sum(depths) * block.convs
        check_whole("replaced", replaced, 0, layers)
        check_whole("frozen_stages", frozen_stages, 0, 5)
        norms = [FrozenNorm if norm == "frozen" or i < frozen_stages else nn.BatchNorm2d for i in range(5)]
        makers = _makers(conv, first=layers - replaced, last_stage=layers - depths[-1] * block.convs)
        steps = _strides_and_dilations(4 if pool else 2, output_stride)

        self.conv1 = plain(3, stem_width, stem_kernel, stride=2)
        self.bn1 = norms[0](stem_width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _pool(style) if pool else nn.Identity()
        channels = stem_width
        for i, (depth, width, step) in enumerate(zip(depths, widths, steps, strict=True)):
            first = Step(*step, norm=norms[i + 1], stride_first=style == "caffe")
            self.add_module(f"layer{i + 1}", _stage(block, depth, channels, width, makers, first))
            channels = width * block.expansion
        self.channels, self.stride = channels, output_stride
        # the unpadded 3x3 pooling of the caffe style is centred one cell, 2 px, further in
        self.stem = Cells(4 if pool else 2, origin=2 if pool and style == "caffe" else 0)
        self.cells = _cells(self)
        gain = (sum(depths) ** -0.5 if norm == "frozen" else 1.0) if last_gamma is None else last_gamma
        for residual in _blocks(self):
            nn.init.constant_(residual.last_norm.weight, gain)
        for part in (self.conv1, self.bn1, *self.stages())[: frozen_stages + (frozen_stages > 0)]:
            part.requires_grad_(False)

    def stages(self) -> list[nn.Sequential]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]  # type: ignore[list-item]

    def refine(self, output_stride: int) -> int:
        """Takes strides out, in place, until a cell is `output_stride` px; returns what dilations are multiplied by.

        See `DeepLab.finer`. raises: ConfigError where no stride can be taken out for that
        """
        finer = [s for s in (2, 4, 8) if self.stem.stride <= s < self.stride]
        if output_stride not in finer:
            known = f"it can have {' or '.join(map(str, finer))} instead" if finer else "it can't have a finer one"
            raise ConfigError(f"output_stride is {output_stride!r}; this net has {self.stride}, and {known}")
        stride, factor = self.stem.stride, 1
        for block in _blocks(self):
            dropped = block.stride if stride * block.stride > output_stride else 1
            for name, reads in block.reads.items():
                for layer in getattr(block, name).modules():
                    dilate(layer, factor * min(reads, dropped))
            if dropped > 1:
                block.drop_stride()
            stride, factor = stride * block.stride, factor * dropped
        self.stride = output_stride
        self.cells = _cells(self)
        return factor

    def forward(self, image: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        for stage in self.stages():
            x = stage(x)
        return x


def _stage(block: Block, depth: int, channels: int, width: int, makers: Iterator[Maker], first: Step) -> nn.Sequential:
    """`depth` blocks; the first one strides, all have the stage's dilation."""
    rest = replace(first, stride=1)
    blocks = [block(channels, width, makers, first)]
    blocks += [block(width * block.expansion, width, makers, rest) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)


def _makers(conv: Conv, *, first: int, last_stage: int) -> Iterator[Maker]:
    """The maker of each 3x3 layer in turn: ordinary, from layer `first` on `conv`, with its own dilation at last."""
    for i in itertools.count():
        if i < first:
            yield partial(plain, kernel=3)
        else:
            yield partial(_replace if i < last_stage else _replace_last, conv)


def _replace(conv: Conv, channels_in: int, channels_out: int, *, stride: int, dilation: int) -> nn.Module:
    return conv(channels_in, channels_out, stride=stride, dilation=dilation)


def _replace_last(conv: Conv, channels_in: int, channels_out: int, *, stride: int, dilation: int) -> nn.Module:
    """A layer of the last stage: the dilation is conv's own."""
    return conv(channels_in, channels_out, stride=stride) if stride != 1 else conv(channels_in, channels_out)


def _strides_and_dilations(stride: int, output_stride: int) -> list[tuple[int, int]]:
    """For each stage its stride and dilation: where a stride would pass the output stride it dilates instead."""
    steps, dilation = [], 1
    for natural in NATURAL_STRIDES:
        keep = stride * natural <= output_stride
        dilation *= 1 if keep else natural
        stride *= natural if keep else 1
        steps.append((natural if keep else 1, dilation))
    return steps


def _pool(style: str) -> nn.MaxPool2d:
    if style == "caffe":
        return nn.MaxPool2d(3, stride=2, padding=0, ceil_mode=True)
    return nn.MaxPool2d(3, stride=2, padding=1)


def _blocks(trunk: ResNet) -> Iterator[Residual]:
    for stage in trunk.stages():
        for block in stage:
            assert isinstance(block, Residual)
            yield block


def _cells(trunk: ResNet) -> dict[str, Cells]:
    """Cells of the map read by each 3x3 layer; every layer after the stem keeps cell 0 where it is."""
    cells, stride = {}, trunk.stem.stride
    for i, stage in enumerate(trunk.stages()):
        for j, block in enumerate(stage):
            for name, factor in block.reads.items():  # type: ignore[operator, union-attr]
                cells[f"layer{i + 1}.{j}.{name}"] = Cells(stride * factor, trunk.stem.origin)
            stride *= block.stride  # type: ignore[operator, assignment]
    assert stride == trunk.stride
    return cells


def _check_choice(key: str, value: object, choices: Sequence[object]) -> None:
    if value not in choices:
        raise ConfigError(f"{key} is {value!r}; it must be one of {', '.join(map(repr, choices))}")


def _trunk(conv: Conv, weights: str | Path | None, download: bool, **arguments: Any) -> ResNet:
    trunk = ResNet(conv, **arguments)
    if weights is not None:
        log.info("%s", load_weights(trunk, weights, download=download))
    return trunk


def tiny(conv: Conv, *, output_stride: int = 8, weights: str | Path | None = None, **arguments: Any) -> ResNet:
    """A small trunk for small images: 6 bottlenecks, a strided 3x3 stem without pooling, 128 channels out.

    Arguments as in `ResNet`; weights: a file for `load_weights`.
    """
    arguments = {
        "block": NarrowBottleneck,
        "depths": DEPTHS["tiny"],
        "widths": (16, 32, 64, 64),
        "stem_width": 32,
        "stem_kernel": 3,
        "pool": False,
        **arguments,
    }
    return _trunk(conv, weights, False, output_stride=output_stride, **arguments)


def resnet18(conv: Conv, *, weights: str | Path | None = None, download: bool = False, **arguments: Any) -> ResNet:
    """ResNet-18, 16 3x3 layers in the blocks, 512 channels out.

    Arguments as in `ResNet`; weights, download: as in `load_weights`, e.g. "resnet18-imagenet" with download=True.
    """
    return _trunk(conv, weights, download, block=Basic, depths=DEPTHS["resnet18"], **arguments)


def resnet50(conv: Conv, *, weights: str | Path | None = None, download: bool = False, **arguments: Any) -> ResNet:
    """ResNet-50, 16 3x3 layers, 2048 channels out; arguments as in `resnet18`."""
    return _trunk(conv, weights, download, depths=DEPTHS["resnet50"], **arguments)


def resnet101(conv: Conv, *, weights: str | Path | None = None, download: bool = False, **arguments: Any) -> ResNet:
    """ResNet-101, 33 3x3 layers, 2048 channels out, the papers' trunk; arguments as in `resnet18`."""
    return _trunk(conv, weights, download, depths=DEPTHS["resnet101"], **arguments)
