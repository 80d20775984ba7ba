"""The residual blocks of the trunks. Their 3x3 layers are made by a caller's makers; names are torchvision's."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from seg.models.conv import drop_stride, he_normal_

Maker = Callable[..., nn.Module]


class FrozenNorm(nn.BatchNorm2d):
    """Batch normalisation as a constant affine map: running statistics also in training, gain and bias fixed.

    source: use_global_stats=True and the fixed gamma and beta of the released DeepLab
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


@dataclass(frozen=True)
class Step:
    """How the first block of a stage steps: its stride and dilation, the norm, and which layer of two strides."""

    stride: int
    dilation: int
    norm: type[nn.BatchNorm2d] = nn.BatchNorm2d
    stride_first: bool = False


def plain(channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    """An ordinary convolution without bias that keeps the map's size at stride 1."""
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride, padding, dilation, bias=False)
    he_normal_(layer.weight)
    return layer


class Residual(nn.Module):
    """What the blocks share: the shortcut, and the ReLU after the sum. Abstract.

    expansion: channels out in widths; convs: how many 3x3 layers it takes from `makers`
    reads:     for each 3x3 layer by name, the stride of the map it reads, in strides of the block's input
    """

    expansion: int
    convs: int
    reads: dict[str, int]

    def __init__(self, channels_in: int, width: int, step: Step) -> None:
        super().__init__()
        self.stride = step.stride
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        channels_out = width * self.expansion
        if step.stride != 1 or channels_in != channels_out:
            shortcut = plain(channels_in, channels_out, 1, stride=step.stride)
            self.downsample = nn.Sequential(shortcut, step.norm(channels_out))

    def drop_stride(self) -> None:
        """All layers at stride 1 from now on."""
        for layer in self.modules():
            drop_stride(layer)
        self.stride, self.reads = 1, dict.fromkeys(self.reads, 1)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        raise NotImplementedError

    def branch(self, input: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        shortcut = input if self.downsample is None else self.downsample(input)
        return self.relu(self.branch(input) + shortcut)


class Basic(Residual):
    """Two 3x3 layers, the first of which strides."""

    expansion = 1
    convs = 2

    def __init__(self, channels_in: int, width: int, makers: Iterator[Maker], step: Step) -> None:
        super().__init__(channels_in, width, step)
        self.conv1 = next(makers)(channels_in, width, stride=step.stride, dilation=step.dilation)
        self.bn1 = step.norm(width)
        self.conv2 = next(makers)(width, width, stride=1, dilation=step.dilation)
        self.bn2 = step.norm(width)
        self.reads = {"conv1": 1, "conv2": step.stride}

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn2

    def branch(self, input: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.relu(self.bn1(self.conv1(input)))))


class Bottleneck(Residual):
    """1x1, 3x3, 1x1; the stride is on the 3x3 (torchvision), or on the first 1x1 (caffe)."""

    expansion = 4
    convs = 1

    def __init__(self, channels_in: int, width: int, makers: Iterator[Maker], step: Step) -> None:
        super().__init__(channels_in, width, step)
        first, second = (step.stride, 1) if step.stride_first else (1, step.stride)
        self.conv1 = plain(channels_in, width, 1, stride=first)
        self.bn1 = step.norm(width)
        self.conv2 = next(makers)(width, width, stride=second, dilation=step.dilation)
        self.bn2 = step.norm(width)
        self.conv3 = plain(width, width * self.expansion, 1)
        self.bn3 = step.norm(width * self.expansion)
        self.reads = {"conv2": first}

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        return self.bn3

    def branch(self, input: Tensor) -> Tensor:
        narrow = self.relu(self.bn1(self.conv1(input)))
        return self.bn3(self.conv3(self.relu(self.bn2(self.conv2(narrow)))))


class NarrowBottleneck(Bottleneck):
    """The bottleneck of the tiny trunk."""

    expansion = 2
