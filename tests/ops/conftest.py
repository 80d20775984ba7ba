"""Both bodies of the operators, and random deformable convolutions to run them on."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from seg.ops import recipe

Layout = Callable[[Tensor], Tensor]


@pytest.fixture(params=["reference", "compiled"])
def body(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Runs a test on the reference and on the compiled kernels, which only a missing compiler excuses."""
    if request.param == "compiled":
        try:
            recipe.cxx()
        except recipe.Unavailable as reason:
            pytest.skip(str(reason))
    monkeypatch.setenv("SEG_KERNELS", "off" if request.param == "reference" else "require")
    return request.param


@dataclass
class Case:
    """The arguments of one deformable convolution."""

    input: Tensor
    offset: Tensor
    weight: Tensor
    bias: Tensor | None
    mask: Tensor | None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)

    @property
    def tensors(self) -> list[Tensor]:
        """The arguments that have gradients."""
        return [t for t in (self.input, self.offset, self.weight, self.bias, self.mask) if t is not None]

    def run(self, function: Callable[..., Tensor]) -> Tensor:
        """The output of ours or of torchvision's function."""
        window = (self.stride, self.padding, self.dilation)
        return function(self.input, self.offset, self.weight, self.bias, *window, self.mask)

    def gradients(self, function: Callable[..., Tensor]) -> list[Tensor]:
        """The gradients of all arguments, for a random gradient of the output that every dtype can hold."""
        out = self.run(function)
        drawn = torch.randint(-9, 10, out.shape, generator=torch.Generator().manual_seed(0))
        return list(torch.autograd.grad(out, self.tensors, drawn.to(out)))

    def to(self, dtype: torch.dtype) -> "Case":
        """The same case in another dtype."""
        tensors = (self.input, self.offset, self.weight, self.bias, self.mask)
        moved = [None if t is None else t.detach().to(dtype).requires_grad_() for t in tensors]
        return Case(*moved, self.stride, self.padding, self.dilation)


def strided(tensor: Tensor) -> Tensor:
    """The same values, every second element of a larger tensor."""
    wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1] + 1)
    wide[..., 1::2] = tensor
    return wide[..., 1::2]


LAYOUTS: dict[str, Layout] = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "permuted": lambda t: t.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
    "strided": strided,
    "expanded": lambda t: t[:1].expand(t.shape) if len(t) else t,
}


@pytest.fixture
def layouts() -> dict[str, Layout]:
    """Ways to lay a tensor [a, b, c, d] out in memory; `expanded` repeats the first along a."""
    return LAYOUTS


def draw(
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
    batch: tuple[int, ...] = (0, 1, 1, 2, 3, 33),
    sizes: tuple[int, ...] = (1, 1, 2, 5, 7, 12),
    channels: tuple[int, ...] = (1, 2, 3, 5, 8, 17),
    layout: tuple[str, ...] = tuple(LAYOUTS),
) -> Case:
    """A random case: sizes, groups, window, offsets from less than a cell to far outside, layouts, bias, mask."""
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        made = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        return LAYOUTS[rng.choice(layout)](made) if len(shape) == 4 else made

    kernel, stride, dilation = (rng.choices((1, 2, 3), k=2) for _ in range(3))
    size = rng.choices(sizes, k=2)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = [max(rng.choice((0, 1, 2)), math.ceil((r - s) / 2)) for r, s in zip(reach, size, strict=True)]
    h, w = ((s + 2 * p - r) // t + 1 for s, p, r, t in zip(size, padding, reach, stride, strict=True))
    groups, offset_groups = rng.choice(((1, 1), (1, 1), (2, 1), (1, 2), (2, 3), (3, 2), (2, 4)))
    count, taps = rng.choice(batch), kernel[0] * kernel[1]
    per_group = rng.choice(channels)
    inputs, outputs = per_group * math.lcm(groups, offset_groups), rng.choice(channels) * groups
    tensors = [
        normal(count, inputs, *size),
        normal(count, 2 * offset_groups * taps, h, w) * rng.choice((0.3, 2.0, 8.0)),
        normal(outputs, inputs // groups, *kernel),
        normal(outputs) if rng.random() < 0.5 else None,
        normal(count, offset_groups * taps, h, w) if rng.random() < 0.6 else None,
    ]
    for tensor in tensors:
        if tensor is not None:
            tensor.requires_grad_()
    return Case(*tensors, tuple(stride), tuple(padding), tuple(dilation))


@pytest.fixture(name="draw")
def drawn() -> Callable[..., Case]:
    """Draws a random case from a seed."""
    return draw


def relative_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest expected value; 0 for empty tensors."""
    assert found.shape == expected.shape
    if not expected.numel():
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-6))


@pytest.fixture(name="relative_error")
def relative() -> Callable[[Tensor, Tensor], float]:
    """Measures how far a result is from what is expected."""
    return relative_error
