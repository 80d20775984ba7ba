"""What a unit depends on: gradients with respect to the image, and with respect to where its taps look."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from seg.analysis.offsets import Recorded, replaced_layers, zero_offsets
from seg.models.conv import TAPS, Cells, Dilated, Sampling
from seg.ops import deform_conv2d


def node_features(model: nn.Module, image: Tensor, node: str, cell: Sequence[int]) -> Tensor:
    """Features [N, C] of one cell (y, x) in the output of the module called `node`, for images [N, 3, H, W].

    raises: ValueError where there is no such module or cell
    """
    kept: list[Tensor] = []
    try:
        module = model.get_submodule(node)
    except AttributeError as error:
        raise ValueError(f"the model has no module {node!r}; try 'trunk' or 'trunk.layer4'") from error
    handle = module.register_forward_hook(lambda _, inputs, output: kept.append(output))
    try:
        model(image)
    finally:
        handle.remove()
    h, w = kept[0].shape[-2:]
    y, x = cell
    if not (0 <= y < h and 0 <= x < w):
        raise ValueError(f"cell ({y}, {x}) is not in the {h}x{w} map of {node!r}")
    return kept[0][..., y, x]


def effective_receptive_field(model: nn.Module, image: Tensor, cell: Sequence[int], *, node: str = "trunk") -> Tensor:
    """How strongly a unit depends on each pixel: [H, W], the mean over RGB of |d response / d pixel|.

    image:    [1, 3, H, W]; cell: (y, x) in the output of `node`
    response: the sum over the unit's channels (our choice: the paper leaves the scalar open)
    The model is used in the mode it is in; evaluation mode is meant.
    source:   arXiv:1811.11168, section 2.1
    """
    pixels = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        response = node_features(model, pixels, node, cell).sum()
        (gradient,) = torch.autograd.grad(response, pixels)
    return gradient[0].abs().mean(0)


def effective_sampling_locations(
    model: nn.Module, image: Tensor, cell: Sequence[int], *, node: str = "trunk"
) -> dict[str, tuple[Tensor, Tensor]]:
    """For each replaced layer the points that a unit depends on, and how strongly it depends on where they lie.

    image:   [1, 3, H, W]; cell: (y, x) in the output of `node`
    returns: by layer name points [P, 2], (y, x) in pixels of the network's input, and weights [P], the length of
             d response / d position per cell; points without influence are left out. A dilated layer's taps are moved
             likewise, from their fixed places.
    source:  arXiv:1811.11168, section 2.1; response as in `effective_receptive_field`
    """
    with torch.enable_grad(), _movable(model) as (probes, recorded):
        response = node_features(model, image, node, cell).sum()
        gradients = torch.autograd.grad(response, list(probes.values()), allow_unused=True)
    found = {}
    for name, gradient in zip(probes, gradients, strict=True):
        layer, probe = recorded[name], probes[name]
        moved = torch.zeros_like(probe) if gradient is None else gradient
        weights = moved[0].unflatten(0, (-1, TAPS, 2)).norm(dim=2)  # [G, 9, h, w]
        cells = layer.located()
        points = (cells.origin + cells.stride * layer.positions[0]).flatten(1, 2).movedim(2, -1)  # [G, 9, h, w, 2]
        found[name] = (points[weights > 0].detach(), weights[weights > 0])
    return found


@contextmanager
def _movable(model: nn.Module) -> Iterator[tuple[dict[str, Tensor], dict[str, Recorded]]]:
    """A block in which every replaced layer's taps are moved by a zero that has a gradient; with what was recorded."""
    probes: dict[str, Tensor] = {}
    recorded: dict[str, Recorded] = {}
    handles = [
        layer.register_forward_hook(partial(_moved, probes, recorded, name, cells))
        for name, layer, cells in replaced_layers(model)
    ]
    try:
        yield probes, recorded
    finally:
        for handle in handles:
            handle.remove()


def _moved(
    probes: dict[str, Tensor],
    recorded: dict[str, Recorded],
    name: str,
    cells: Cells | None,
    layer: Dilated | Sampling,
    inputs: tuple[Tensor],
    output: Tensor,
) -> Tensor:
    """The layer's output, computed once more with offsets that can be differentiated alone."""
    (input,) = inputs
    offset, mask = layer.read(layer.offset(input)) if isinstance(layer, Sampling) else (zero_offsets(output), None)
    probes[name] = torch.zeros_like(offset, memory_format=torch.contiguous_format, requires_grad=True)
    recorded[name] = Recorded.of(layer, offset.detach(), cells)
    shape = layer.stride, layer.padding, layer.dilation
    return deform_conv2d(input, offset + probes[name], layer.weight, None, *shape, mask)  # type: ignore[arg-type]
