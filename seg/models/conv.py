"""The 3x3 convolutions that a trunk can be built from: one class for each variant, one operator behind them.

All have padding = dilation (the map keeps its size at stride 1), no bias, and their filter under the name `weight`,
[channels_out, channels_in / groups, 3, 3], so that one file of pretrained weights fits every variant. All but
`Dilated` have a child `offset`: what it emits is split into offsets and modulation by `read`. Samples outside the map
are those of a map padded with one ring of zeros (the rule of DCNv2); the clamping rule of the first release is not
offered.

Geometry: offsets are (group, tap row, tap column, (y, x)), in cells of the map the layer reads, added after dilation.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seg.errors import ConfigError
from seg.ops import deform_conv2d

TAPS = 9


@dataclass(frozen=True)
class Cells:
    """Where the cells of a feature map sit in the network's input: cell n is centred at pixel `origin + n * stride`."""

    stride: int
    origin: int = 0

    def centres(self, count: int) -> Tensor:
        """Centres of cells 0 .. count - 1, [count] in input pixels (integers)."""
        return self.origin + self.stride * torch.arange(count)


def he_normal_(weight: Tensor, groups: int = 1) -> Tensor:
    """`weight` filled for a ReLU to follow, variance kept on the way back (arXiv:1502.01852, equation 14)."""
    nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    if groups > 1:  # an input feeds the outputs of its group alone
        with torch.no_grad():
            weight.mul_(groups**0.5)
    return weight


def check_whole(key: str, value: int, low: int, high: int | None = None) -> None:
    """Raises ConfigError unless `value` is a whole number in low .. high."""
    upper = f" to {high}" if high is not None else " or more"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        raise ConfigError(f"{key} is {value!r}; it must be a whole number, {low}{upper}")


def dilate(layer: nn.Module, factor: int) -> None:
    """A convolution's taps `factor` times as far apart, in place, for a map that much finer; not its child `offset`."""
    if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
        down, right = layer.dilation
        layer.dilation = (factor * down, factor * right)
        assert not isinstance(layer.padding, str)
        layer.padding = tuple(factor * padding for padding in layer.padding)
    if isinstance(layer, Sampling):
        layer.finer *= factor


def drop_stride(layer: nn.Module) -> None:
    """A convolution, or what stands for the one that emits offsets, at stride 1 from now on; no child of it."""
    if isinstance(layer, nn.Conv2d):
        layer.stride = (1, 1)
    elif isinstance(layer, Everywhere):
        layer.stride = 1


class Dilated(nn.Conv2d):
    """3x3 dilated (atrous) convolution: the baseline.

    raises: ConfigError (a ValueError) where an argument is out of range
    source: arXiv:1606.00915; DeepLab's last stage has dilation 2
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, stride: int = 1, dilation: int = 2, groups: int = 1
    ) -> None:
        check_whole("dilation", dilation, 1)
        check_whole("stride", stride, 1)
        _check_divides("groups", groups, channels_in)
        _check_divides("groups", groups, channels_out)
        super().__init__(
            channels_in, channels_out, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
        )

    def reset_parameters(self) -> None:
        he_normal_(self.weight, self.groups)


class Sampling(nn.Conv2d, ABC):
    """A 3x3 convolution that looks where its child `offset` tells it to; a new variant defines `offset` and `read`.

    offset: a module that emits [N, emitted, h, w] from the layer's input, at the resolution of the layer's output
    read:   splits what was emitted into offsets [N, 18 * offset_groups, h, w] and mask [N, 9 * offset_groups, h, w]
    finer:  how many times finer the map is than the one it was trained on: a factor on the offsets read
    Offset group g moves the input channels [g * C / offset_groups, (g + 1) * C / offset_groups).
    """

    offset: nn.Module

    def __init__(
        self, channels_in: int, channels_out: int, *, stride: int, dilation: int, groups: int, offset_groups: int
    ) -> None:
        check_whole("dilation", dilation, 1)
        check_whole("stride", stride, 1)
        _check_divides("groups", groups, channels_in)
        _check_divides("groups", groups, channels_out)
        _check_divides("offset_groups", offset_groups, channels_in)
        super().__init__(
            channels_in, channels_out, 3, stride, padding=dilation, dilation=dilation, groups=groups, bias=False
        )
        self.offset_groups = offset_groups
        self.finer = 1

    def reset_parameters(self) -> None:
        he_normal_(self.weight, self.groups)

    @abstractmethod
    def read(self, emitted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets and mask (None: not modulated) in what `self.offset` emitted."""

    def taps(self, emitted: Tensor) -> tuple[Tensor, Tensor | None]:
        """As `read`, the offsets in cells of the map at hand."""
        offset, mask = self.read(emitted)
        return offset if self.finer == 1 else self.finer * offset, mask

    def forward(self, input: Tensor) -> Tensor:
        offset, mask = self.taps(self.offset(input))
        return deform_conv2d(input, offset, self.weight, None, self.stride, self.padding, self.dilation, mask)  # type: ignore[arg-type]


class OffsetConv(nn.Conv2d):
    """3x3 convolution with bias that starts at zero and draws no random number: a seed gives each variant one start."""

    def __init__(self, channels_in: int, emitted: int, *, stride: int, dilation: int) -> None:
        check_whole("offset_dilation", dilation, 1)
        super().__init__(channels_in, emitted, 3, stride, padding=dilation, dilation=dilation)

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        assert self.bias is not None
        nn.init.zeros_(self.bias)


class Deform(Sampling):
    """3x3 deformable convolution: every position has its own offsets, computed from the layer's input.

    offset_groups:   1 (the paper, and the released DeepLab) or 4 (the released detectors)
    offset_dilation: of the offset convolution: 1 (the released DeepLab) or the layer's (the paper, section 2.1)
    raises:          ConfigError (a ValueError) where an argument is out of range
    source:          arXiv:1703.06211; github.com/msracver/Deformable-ConvNets
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int = 1,
        dilation: int = 2,
        offset_groups: int = 1,
        offset_dilation: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(
            channels_in, channels_out, stride=stride, dilation=dilation, groups=groups, offset_groups=offset_groups
        )
        self.offset = OffsetConv(channels_in, 2 * TAPS * offset_groups, stride=stride, dilation=offset_dilation)

    def read(self, emitted: Tensor) -> tuple[Tensor, None]:
        return emitted, None


class Modulated(Sampling):
    """3x3 modulated deformable convolution (DCNv2): offsets, and a factor for every tap.

    The offset convolution emits 27 * offset_groups channels: first the offsets, last the 9 * offset_groups logits of
    the mask, which is mask_scale * sigmoid(logit).

    mask_scale:      2.0 (the released example: the mask starts at 1, so pretrained filters keep their output) or 1.0
                     (arXiv:1811.11168, mmcv: starts at 0.5)
    offset_dilation: 1 (the released example) or the layer's (arXiv:1811.11168, section 3.2)
    raises:          ConfigError (a ValueError) where an argument is out of range
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int = 1,
        dilation: int = 2,
        offset_groups: int = 1,
        offset_dilation: int = 1,
        mask_scale: float = 2.0,
        groups: int = 1,
    ) -> None:
        super().__init__(
            channels_in, channels_out, stride=stride, dilation=dilation, groups=groups, offset_groups=offset_groups
        )
        _check_positive("mask_scale", mask_scale)
        self.mask_scale = mask_scale
        self.offset = OffsetConv(channels_in, 3 * TAPS * offset_groups, stride=stride, dilation=offset_dilation)

    def read(self, emitted: Tensor) -> tuple[Tensor, Tensor]:
        offset, logit = emitted.tensor_split((2 * TAPS * self.offset_groups,), dim=1)
        return offset, self.mask_scale * logit.sigmoid()


class Modulation(Sampling):
    """3x3 convolution on the fixed grid whose taps are modulated: what is left of DCNv2 without its offsets.

    The child `offset` emits the 9 * offset_groups logits of the mask alone. Arguments as in `Modulated`.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int = 1,
        dilation: int = 2,
        offset_groups: int = 1,
        offset_dilation: int = 1,
        mask_scale: float = 2.0,
        groups: int = 1,
    ) -> None:
        super().__init__(
            channels_in, channels_out, stride=stride, dilation=dilation, groups=groups, offset_groups=offset_groups
        )
        _check_positive("mask_scale", mask_scale)
        self.mask_scale = mask_scale
        self.offset = OffsetConv(channels_in, TAPS * offset_groups, stride=stride, dilation=offset_dilation)

    def read(self, emitted: Tensor) -> tuple[Tensor, Tensor]:
        n, channels, h, w = emitted.shape
        return emitted.new_zeros(n, 2 * channels, h, w), self.mask_scale * emitted.sigmoid()


class Everywhere(nn.Module):
    """Learned values, `bias` [emitted], the same at every position of a layer's output; they start at zero."""

    def __init__(self, emitted: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.bias = nn.Parameter(torch.zeros(emitted))

    def forward(self, input: Tensor) -> Tensor:
        n, _, h, w = input.shape
        # output size of a 3x3 convolution with padding = dilation
        h, w = (h - 1) // self.stride + 1, (w - 1) // self.stride + 1
        return self.bias.to(input.dtype)[None, :, None, None].expand(n, -1, h, w)


class Active(Sampling):
    """3x3 active convolution: the taps' offsets are parameters, the same at every position and for every image.

    raises: ConfigError (a ValueError) where an argument is out of range
    source: arXiv:1703.09076; all nine taps are free here
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        stride: int = 1,
        dilation: int = 2,
        offset_groups: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(
            channels_in, channels_out, stride=stride, dilation=dilation, groups=groups, offset_groups=offset_groups
        )
        self.offset = Everywhere(2 * TAPS * offset_groups, stride=stride)

    def read(self, emitted: Tensor) -> tuple[Tensor, None]:
        return emitted, None


def _check_divides(key: str, value: int, channels: int) -> None:
    check_whole(key, value, 1)
    if channels % value:
        divisors = [d for d in range(1, channels + 1) if channels % d == 0]
        raise ConfigError(f"{key} is {value}; it must divide the layer's {channels} channels: one of {divisors}")


def _check_positive(key: str, value: float) -> None:
    if not isinstance(value, int | float) or not value > 0:
        raise ConfigError(f"{key} is {value!r}; it must be above 0 (2.0 in the release, 1.0 in the paper)")
