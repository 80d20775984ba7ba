"""The points that a unit reads through one or more layers: 9, 81, 729 for 3x3 filters (the paper's figures 5 and 6)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seg.analysis.offsets import Recorded


def sampling_points(
    layers: Sequence[Recorded], unit: Sequence[float], *, image: int = 0, group: int = 0
) -> dict[int, Tensor]:
    """Where one unit of the last layer looks, through its own taps and through those of the layers before it.

    layers:  consecutive, first to last; unit: (y, x) in pixels of the network's input, taken to the nearest filter
    returns: for each level 1 .. len(layers) its points [P, 2], (y, x) in pixels of the network's input; P is 9 ** level
             less the points of filters that would lie outside the map, which do not exist
    raises:  ValueError where no layers are given, or their cells are not known in the image
    """
    if not layers:
        raise ValueError("no layers were recorded; sampling points need one or more")
    cell = nearest_cell(layers[-1], unit)
    tree = sampling_tree(layers, torch.tensor([cell]), image=image, group=group)
    flat = {level: points.reshape(-1, 2) for level, points in tree.items()}
    return {level: points[points.isfinite().all(1)] for level, points in flat.items()}


def sampling_tree(
    layers: Sequence[Recorded], units: Tensor, *, image: int = 0, group: int = 0, interpolate: bool = False
) -> dict[int, Tensor]:
    """Sampling points of several units with the index of every tap kept.

    layers:      consecutive, first to last; units: cells of the last layer's output, [U, 2], (y, x)
    interpolate: a point between cells has the filter of the nearest cell (as the release's show_offset.py rounds), or,
                 if true, the bilinear mean of the filters around it
    returns:     for each level k [U, 9, ..., 9, 2] with k nines, taps of the last layer first, (y, x) in pixels of the
                 network's input; NaN for the taps of a filter outside its map, for there is none
    """
    points, tree = units.float(), {}
    for level, layer in enumerate(reversed(layers), start=1):
        cells = layer.located()
        if level > 1:  # from pixels to cells of this layer's output, the map that the layer above read
            points = (points - cells.origin) / (cells.stride * torch.tensor(layer.stride))
        field = layer.positions[image, group].flatten(0, 1).cpu()
        points = cells.origin + cells.stride * (_between if interpolate else _nearest)(field, points)
        tree[level] = points
    return tree


def nearest_cell(layer: Recorded, pixel: Sequence[float]) -> list[int]:
    """The filter whose centre is nearest to a pixel (y, x) of the network's input, as (y, x) in the layer's output."""
    return [int((centres - at).abs().argmin()) for centres, at in zip(layer.centres(), pixel, strict=True)]


def _nearest(field: Tensor, points: Tensor) -> Tensor:
    """Taps of the filter at the cell nearest to each point: field [K, 2, h, w], points [..., 2] -> [..., K, 2]."""
    size = torch.tensor(field.shape[-2:])
    cell = points.round()
    inside = ((cell >= 0) & (cell < size)).all(-1)
    y, x = cell.nan_to_num(0).long().clamp(torch.zeros(2).long(), size - 1).unbind(-1)
    taps = field[:, :, y, x].movedim((0, 1), (-2, -1))
    return taps.where(inside[..., None, None], torch.nan)


def _between(field: Tensor, points: Tensor) -> Tensor:
    """As `_nearest`, the filter being the bilinear mean of the four around the point."""
    size = torch.tensor(field.shape[-2:])
    inside = ((points >= 0) & (points <= size - 1)).all(-1)
    low = points.nan_to_num(0).floor().clamp(torch.zeros(2), (size - 2).clamp(min=0))
    share = (points - low)[..., None, None, :]
    total = torch.zeros(())
    for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
        corner = (low + torch.tensor([dy, dx])).minimum(size - 1)
        weight = (share[..., 0] if dy else 1 - share[..., 0]) * (share[..., 1] if dx else 1 - share[..., 1])
        total = total + weight * _nearest(field, corner)
    return total.where(inside[..., None, None], torch.nan)
