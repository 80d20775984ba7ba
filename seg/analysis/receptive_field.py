"""What a unit depends on: gradients with respect to the image, and with respect to where its taps look."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from seg.analysis.offsets import Recorded, replaced_layers, zero_offsets
from seg.errors import ConfigError
from seg.models.conv import TAPS, Cells, Dilated, Sampling
from seg.ops import deform_conv2d


def node_features(model: nn.Module, image: Tensor, node: str, cell: Sequence[int]) -> Tensor:
    """Features [N, C] of one cell (y, x) in the output of the module called `node`, for images [N, 3, H, W].

    raises: ValueError where there is no such module or cell
    """
    return _at(node_map(model, image, node), node, cell)


def node_map(model: nn.Module, image: Tensor, node: str) -> Tensor:
    """The output [N, C, h, w] of the module called `node`."""
    kept: list[Tensor] = []
    try:
        module = model.get_submodule(node)
    except AttributeError as error:
        raise ConfigError(f"node is {node!r}: the model has no such module; try trunk or trunk.layer4") from error
    handle = module.register_forward_hook(lambda _, inputs, output: kept.append(output))
    try:
        model(image)
    finally:
        handle.remove()
    return kept[0]


def _at(features: Tensor, node: str, cell: Sequence[int]) -> Tensor:
    h, w = features.shape[-2:]
    y, x = cell
    if not (0 <= y < h and 0 <= x < w):
        raise ValueError(f"cell ({y}, {x}) is not in the {h}x{w} map of {node!r}")
    return features[..., y, x]


def effective_receptive_field(model: nn.Module, image: Tensor, cell: Sequence[int], *, node: str = "trunk") -> Tensor:
    """How strongly a unit depends on each pixel: [H, W], the mean over RGB of |d response / d pixel|.

    image:    [1, 3, H, W]; cell: (y, x) in the output of `node`
    response: the sum over the unit's channels (our choice: the paper leaves the scalar open)
    The model is used in the mode it is in; evaluation mode is meant.
    source:   arXiv:1811.11168, section 2.1
    """
    return next(effective_receptive_fields(model, image, [cell], node=node))


def effective_receptive_fields(
    model: nn.Module, image: Tensor, cells: Iterable[Sequence[int]], *, node: str = "trunk"
) -> Iterator[Tensor]:
    """`effective_receptive_field` of each of the cells, from one forward pass."""
    pixels = image.detach().clone().requires_grad_()
    with torch.enable_grad():
        features = node_map(model, pixels, node)
    for cell in cells:
        chosen = torch.zeros_like(features)
        _at(chosen, node, cell).fill_(1)
        (gradient,) = torch.autograd.grad(features, pixels, chosen, retain_graph=True)
        yield gradient[0].abs().mean(0)


def reach(field: Tensor, place: Sequence[float]) -> float:
    """Mean distance in px between a unit's place and the pixels that it depends on, weighted by how strongly.

    field: [H, W], an `effective_receptive_field`; place: (y, x) of the unit in px, pixel centres at whole numbers
    A unit that depends on nothing has no reach: NaN.
    """
    rows, columns = (
        torch.arange(count, device=field.device) - at for count, at in zip(field.shape, place, strict=True)
    )
    weights = field.double()
    return float((weights * torch.hypot(rows.double()[:, None], columns.double())).sum() / weights.sum())


def receptive_field(model: nn.Module, *, node: str = "trunk") -> int:
    """Side in px of the square that a unit of `node` can depend on at all, as long as no offset moves a tap.

    Followed through a copy whose weights are all positive, so that no two paths cancel each other.
    raises: ValueError where there is no such module, or it looks at the whole image, as a pooled branch does
    """
    copy = _all_positive(model)
    for size in (256, 512, 1024, 2048, 4096, 8192):
        side = _side(copy, size, node)
        if side <= size // 2:  # else the image's edge may have cut it
            return side
    raise ValueError(f"a unit of {node!r} depends on the whole image")


def _all_positive(model: nn.Module) -> nn.Module:
    copy = deepcopy(model).eval()
    for module in copy.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()  # and its running statistics: the identity
        elif isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):  # it would pass the gradient to one of its pixels
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
    for _, layer, _ in replaced_layers(copy):
        for value in layer.offset.parameters() if isinstance(layer, Sampling) else ():
            nn.init.zeros_(value)
    return copy


def _side(model: nn.Module, size: int, node: str) -> int:
    """Rows of an image that the unit in its middle depends on; columns are alike, and the image has few."""
    image = torch.ones(1, 3, size, 64, device=next(model.parameters()).device)
    with torch.no_grad():
        h, w = node_map(model, image, node).shape[-2:]
    rows = effective_receptive_field(model, image, (h // 2, w // 2), node=node).sum(1).nonzero()
    return int(rows.max() - rows.min()) + 1


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
    offset, mask = layer.taps(layer.offset(input)) if isinstance(layer, Sampling) else (zero_offsets(output), None)
    probes[name] = torch.zeros_like(offset, memory_format=torch.contiguous_format, requires_grad=True)
    recorded[name] = Recorded.of(layer, offset.detach(), cells)
    shape = layer.stride, layer.padding, layer.dilation
    return deform_conv2d(input, offset + probes[name], layer.weight, None, *shape, mask)  # type: ignore[arg-type]
