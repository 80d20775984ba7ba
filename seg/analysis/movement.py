"""How far one step of training moves the places that filters look at."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seg.analysis.offsets import record_offsets

EDGES = [0.0, *(10 ** (k / 4) for k in range(-20, 9))]  # cells: 1e-5 to 100, four bins a decade
QUANTILES = (0.5, 0.95, 0.999)


class Movement:
    """Lengths of the taps' moves in one step of the optimizer, in cells, by layer.

    A bilinear sample's gradient is that of the cell it lies in: a move of less than one cell stays where the gradient
    told something, and one into another cell leaves it.

    counts: int64 [layers, bins]: moves by length, of all steps measured
    steps:  one row for each step and layer: median, 95 % and 99.9 % of the lengths, the longest, the share longer than
            one cell, and the share that ends in another cell than it began
    """

    def __init__(self) -> None:
        self.counts: dict[str, Tensor] = {}
        self.steps: list[dict[str, Any]] = []

    def add(self, step: int, before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
        """Counts the moves of one step between positions [N, G, kh, kw, 2, h, w] of each layer."""
        for layer, start in before.items():
            stop = after[layer]
            length = torch.hypot(*(stop - start).unbind(4)).flatten().double()
            left = (stop.floor() != start.floor()).any(4)
            bins = torch.bucketize(length, torch.tensor(EDGES[1:-1], dtype=torch.float64), right=True)
            counted = torch.bincount(bins, minlength=len(EDGES) - 1)
            self.counts[layer] = self.counts.get(layer, torch.zeros_like(counted)) + counted
            ranked = length.sort().values
            levels = [float(ranked[round(q * (len(ranked) - 1))]) for q in QUANTILES]
            self.steps.append(
                {
                    "step": step,
                    "layer": layer,
                    **dict(zip(("median", "q95", "q999"), levels, strict=True)),
                    "longest": float(ranked[-1]),
                    "longer_than_a_cell": float((length > 1).double().mean()),
                    "into_another_cell": float(left.double().mean()),
                }
            )

    @contextmanager
    def watch(self, model: nn.Module, image: Tensor, optimizer: Optimizer, every: int) -> Iterator[None]:
        """A block in which every `every`-th step of the optimizer is measured on `image` [N, 3, H, W].

        The net is asked in evaluation mode right before and right after the step, so that all that changes in between
        are its parameters. The training is not changed by it.
        """
        taken = 0
        before: dict[str, Tensor] = {}

        def start(*_: Any) -> None:
            nonlocal before
            before = _positions(model, image) if taken % every == 0 else {}

        def stop(*_: Any) -> None:
            nonlocal taken
            taken += 1
            if before:
                self.add(taken, before, _positions(model, image))

        handles = [optimizer.register_step_pre_hook(start), optimizer.register_step_post_hook(stop)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def document(self) -> dict[str, Any]:
        """Plain values: the histogram's edges in cells, its counts for each layer, and the rows of the steps."""
        counts = {layer: values.tolist() for layer, values in self.counts.items()}
        return {"edges": EDGES, "counts": counts, "steps": self.steps}


def _positions(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    training = model.training
    model.eval()
    with torch.no_grad(), record_offsets(model) as recorded:
        model(image)
    model.train(training)
    return {name: layer.positions.cpu() for name, layer in recorded.items()}
