"""What `benchmark.py ops device=cuda` compares: a layer on both of our paths, cuDNN's convolution, torchvision's ways.

Every contender works through several sets of tensors in turn, more than the GPU's second-level cache holds.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torchvision
from build import chosen
from contenders import Arguments, Case, Shape, arguments, under
from torch import Tensor

from seg.analysis.timing import Rotation, sets_beyond
from seg.errors import RunError
from seg.ops import deform_conv2d

Found = Tensor | tuple[Tensor, ...]  # an output, or gradients
Work = Callable[[Arguments], Found]

SHAPES = {
    "res5-23x31": Shape(512, 23, 31, dilation=2),
    "res5-33x33": Shape(512, 33, 33, dilation=2),
    "res5-64x128": Shape(512, 64, 128, dilation=2),
    "res5-64x128-batch8": Shape(512, 64, 128, dilation=2, batch=8),
    "res4-64x128": Shape(256, 64, 128),
    "res4-64x128-batch8": Shape(256, 64, 128, batch=8),
    "res3-128x256": Shape(128, 128, 256),
    "res3-128x256-batch8": Shape(128, 128, 256, batch=8),
}


@dataclass(frozen=True)
class Measure:
    """One table: the data's type and layout in our operator and in cuDNN's, and whether gradients are asked for."""

    dtype: torch.dtype
    layout: torch.memory_format = torch.channels_last
    gradients: bool = False


MEASURES = {
    "forward bf16": Measure(torch.bfloat16),
    "forward fp16": Measure(torch.float16),
    "forward tf32": Measure(torch.float32),
    "forward bf16 contiguous": Measure(torch.bfloat16, torch.contiguous_format),
    "train bf16": Measure(torch.bfloat16, gradients=True),
}


def cases(
    shapes: list[str], measures: list[str], device: str, cache: int, choices: Mapping[str, Shape] = SHAPES
) -> Iterator[Case]:
    """Every measure of every shape. cache: bytes of the cache that no set of tensors should be found in.

    raises: RunError where ours is not what torchvision computes in float32; its time would mean nothing
    """
    torch.backends.cudnn.benchmark = True  # cuDNN's best, found while warming up
    for name in chosen("measures", measures or None, MEASURES):
        for shape in chosen("shapes", shapes or None, choices):
            contenders = layer(choices[shape], MEASURES[name], device, cache)
            wanted = expected(choices[shape], MEASURES[name], device)
            for ours in ("ours fused", "ours plain"):
                check(f"{name} {shape}: {ours}", contenders[ours](), wanted)
            yield name, shape, contenders


def layer(shape: Shape, measure: Measure, device: str, cache: int) -> dict[str, Rotation]:
    """The contenders at a layer: what they read, and what they do with it."""
    tf32 = measure.dtype == torch.float32
    half = torch.float32 if tf32 else torch.float16  # torchvision has no bfloat16
    ours = partial(drawn, shape, device, measure.gradients, measure.dtype, measure.layout)
    theirs = partial(drawn, shape, device, measure.gradients, half, torch.contiguous_format, positions=half)
    ways: dict[str, tuple[Callable[[], Arguments], Work]] = {
        "ours fused": (ours, partial(on_path, "fused")),
        "ours plain": (ours, partial(on_path, "plain")),
        "conv2d": (
            partial(drawn, shape, device, measure.gradients, measure.dtype, torch.channels_last),
            Arguments.plain,
        ),
        "torchvision" if tf32 else "torchvision fp16": (theirs, torchvisions),
    }
    if not tf32:
        ways["torchvision autocast"] = (theirs, partial(autocast, device))
    if measure.gradients:
        ways = {name: (make, partial(trained, work)) for name, (make, work) in ways.items()}
    if tf32:
        ways = {name: (make, partial(in_tf32, work)) for name, (make, work) in ways.items()}
    return {name: rotation(make, work, cache) for name, (make, work) in ways.items()}


def expected(shape: Shape, measure: Measure, device: str) -> Found:
    """What torchvision computes in float32."""
    with torch.no_grad():
        given = drawn(shape, device, measure.gradients, torch.float32, torch.contiguous_format)
        return trained(torchvisions, given) if measure.gradients else torchvisions(given)


def check(name: str, found: Found, wanted: Found, share: float = 0.02) -> None:
    """Raises RunError where a difference's norm is more than a share of what is wanted."""
    for ours, theirs in zip(found, wanted, strict=True):
        error = float((ours.float() - theirs).norm() / theirs.norm())
        if not error <= share:
            raise RunError(f"{name} differs from torchvision's float32 by {error:.2%}; no time is taken")


def rotation(make: Callable[[], Arguments], work: Work, cache: int) -> Rotation:
    """The work on as many sets of tensors as the cache needs."""
    first = make()
    sets = [first, *(make() for _ in range(sets_beyond(cache, sum(t.nbytes for t in first.tensors)) - 1))]
    return Rotation([partial(work, one) for one in sets])


def drawn(
    shape: Shape,
    device: str,
    gradients: bool,
    dtype: torch.dtype,
    layout: torch.memory_format,
    positions: torch.dtype = torch.float32,
) -> Arguments:
    """The layer's tensors; offset and mask are float32 but where a contender wants them like the data."""
    made = arguments(shape, device, gradients).to(dtype=dtype, memory_format=layout)
    offset, mask = (t.detach().to(positions).requires_grad_(gradients) for t in (made.offset, made.mask))
    return Arguments(made.input, offset, made.weight, mask, made.dilation)


def on_path(path: str, given: Arguments) -> Tensor:
    """Our operator on one of its paths."""
    return under("SEG_CUDA_PATH", path, partial(given.apply, deform_conv2d))


def torchvisions(given: Arguments) -> Tensor:
    return given.apply(torchvision.ops.deform_conv2d)


def autocast(device: str, given: Arguments) -> Tensor:
    """What a net in half precision gets from torchvision: all is converted to float32, and the output back."""
    with torch.autocast(device, torch.float16):
        return torchvisions(given)


def trained(work: Work, given: Arguments) -> Found:
    """Forward and the gradients of all tensors that the work reads."""
    with torch.enable_grad():
        out = work(given)
        tensors = [given.input, given.weight] if work is Arguments.plain else given.tensors
        return torch.autograd.grad(out, tensors, torch.ones_like(out))


def in_tf32(work: Work, given: Arguments) -> Found:
    """The work where torch may round float32 to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return work(given)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
