"""What a net costs: parameters, operations, time and memory."""

import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seg.analysis.timing import extra_memory


def parameters(model: nn.Module, *, trainable: bool = False) -> int:
    """Number of values in the parameters, or in those that are trained; buffers are none."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable)


def flops(model: nn.Module, image: Tensor) -> int:
    """Operations of one forward pass on `image` [N, 3, H, W]; a multiplication and an addition are two.

    Counted for convolutions (the deformable ones by a formula of their own, without the sampling) and matrix products;
    norms, ReLUs and the upsampling by interpolation are not. Counted on shapes alone, nothing is computed.
    """
    shapes = copy.deepcopy(model).to("meta").eval().requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes(image.to("meta"))
    return counter.get_total_flops()


def seconds_per_image(model: nn.Module, image: Tensor, *, repeats: int = 5, warm_up: int = 1) -> float:
    """Median wall time of a forward pass on `image` [N, 3, H, W], divided by N; the model is run in evaluation mode."""
    times = []
    with _evaluating(model), torch.inference_mode():
        for _ in range(warm_up + repeats):
            start = _now(image.device)
            model(image)
            times.append(_now(image.device) - start)
    return statistics.median(times[warm_up:]) / len(image)


def memory(model: nn.Module, image: Tensor) -> int | None:
    """Bytes of the weights and of what a forward pass on `image` needs at its peak beside them.

    None where the system does not tell; see `seg.analysis.timing.extra_memory`.
    """
    with _evaluating(model), torch.inference_mode():
        extra = extra_memory(lambda: model(image), image.device.type)
    weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    return None if extra is None else weights + extra


def cost(model: nn.Module, image: Tensor) -> dict[str, int | None]:
    """The untimed costs of a forward pass on `image` [N, 3, H, W]: parameters, trained ones, FLOPs, memory."""
    return {
        "parameters": parameters(model),
        "trainable_parameters": parameters(model, trainable=True),
        "flops": flops(model, image),
        "memory_bytes": memory(model, image),
    }


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """A block in which the model is in evaluation mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
