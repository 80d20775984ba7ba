"""Where a net's layers look, read from outside: hooks inside a `with` block; the layers store nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from seg.models.conv import TAPS, Cells, Dilated, Sampling
from seg.ops import sampling_positions


@dataclass(frozen=True)
class Recorded:
    """What one layer did in the last forward pass.

    offset: [N, 2 * G * kh * kw, h, w], (y, x) per tap, in cells of the map read; zeros for a dilated layer
    cells:  where the cells of the map it read sit in the image; None where the model does not say (no trunk)
    read:   rows and columns of the map it read; None where that is not known
    """

    offset: Tensor
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    cells: Cells | None = None
    read: tuple[int, int] | None = None

    @classmethod
    def of(
        cls, layer: Dilated | Sampling, offset: Tensor, cells: Cells | None, read: tuple[int, int] | None = None
    ) -> "Recorded":
        """What `layer` did with `offset`."""
        pairs = (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        return cls(offset, *pairs, cells=cells, read=read)  # type: ignore[arg-type]

    @property
    def positions(self) -> Tensor:
        """Every tap's position, [N, G, kh, kw, 2, h, w], (y, x) in cells of the map read."""
        return sampling_positions(self.offset.float(), self.kernel_size, self.stride, self.padding, self.dilation)

    def centres(self) -> tuple[Tensor, Tensor]:
        """Centres of the layer's filters in the network's input: rows [h] and columns [w], in pixels.

        raises: ValueError where it is not known how the cells sit in the image
        """
        read = self.located()
        h, w = self.offset.shape[-2:]
        steps = [Cells(read.stride * stride, read.origin) for stride in self.stride]
        return steps[0].centres(h), steps[1].centres(w)

    def located(self) -> Cells:
        """`cells`, which must be known: raises ValueError where it is not known how they sit in the image."""
        if self.cells is None:
            raise ValueError("this layer's cells are not known in the image; record a model that has a trunk")
        return self.cells


@contextmanager
def record_offsets(model: nn.Module) -> Iterator[dict[str, Recorded]]:
    """Yields a dict that holds, after each forward pass of `model`, what each replaced layer did, by its name.

    Names are the trunk's own ("layer4.0.conv2"), in the order of the layers. Tensors are detached, and only those of
    the last pass are held. Layers seen: `Dilated` (zero offsets) and all `Sampling`.
    """
    recorded: dict[str, Recorded] = {}
    handles = []
    for name, layer, cells in replaced_layers(model):
        note = partial(_note, recorded, name, layer, cells)
        # the offset layer's own output: nothing is computed twice
        watched = layer.offset if isinstance(layer, Sampling) else layer
        handles.append(watched.register_forward_hook(note))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def replaced_layers(model: nn.Module) -> Iterator[tuple[str, Dilated | Sampling, Cells | None]]:
    """Name in its trunk, module, and cells of each layer that a variant can change, first to last."""
    trunks = {name: module for name, module in model.named_modules() if hasattr(module, "cells")}
    for name, layer in model.named_modules():
        if isinstance(layer, Dilated | Sampling):
            prefix = next((t for t in trunks if name.startswith(f"{t}." if t else "")), None)
            inner = name[len(prefix) + 1 :] if prefix else name
            cells = None if prefix is None else trunks[prefix].cells.get(inner)  # type: ignore[operator, union-attr]
            yield inner, layer, cells


@contextmanager
def offset_statistics(model: nn.Module) -> Iterator[dict[str, dict[str, float]]]:
    """Yields a dict that has, once the block is left, each layer's mean and maximum |offset| in its last forward pass.

    |offset| is the length of a tap's displacement, in cells. Layers that have no offsets to learn are left out.
    """
    statistics: dict[str, dict[str, float]] = {}
    moving = {name for name, layer, _ in replaced_layers(model) if isinstance(layer, Sampling)}
    with record_offsets(model) as recorded:
        yield statistics
    for name in recorded:
        if name in moving:
            y, x = recorded[name].offset.float().unflatten(1, (-1, 2)).unbind(2)
            length = torch.hypot(y, x)
            statistics[name] = {"mean": float(length.mean()), "max": float(length.max())}


def zero_offsets(output: Tensor) -> Tensor:
    """The offsets of a layer that has none, [N, 18, h, w] for its output [N, C, h, w]; takes no memory."""
    return output.detach().new_zeros(()).expand(len(output), 2 * TAPS, *output.shape[-2:])


def _note(
    recorded: dict[str, Recorded],
    name: str,
    layer: Dilated | Sampling,
    cells: Cells | None,
    _: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
) -> None:
    offset = layer.taps(output.detach())[0] if isinstance(layer, Sampling) else zero_offsets(output)
    rows, columns = inputs[0].shape[-2:]
    recorded[name] = Recorded.of(layer, offset, cells, (rows, columns))
