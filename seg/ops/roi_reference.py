"""RoI pooling in plain torch: the oracle of the compiled kernels, and the body where there are none.

The positions of a bin are a grid, so its mean is a weighted sum of the map whose weights are a product: those of rows
times those of columns. Here they are written out for the whole map, zeros included, and the pooling is a matrix
product. A position reads its two neighbours along each axis in proportion to how near they are. At whole-numbered
positions the gradient is that of the cells below and to the right, at the last cell of the map that of those before it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from seg.ops.geometry import Pair, position_dtype
from seg.ops.roi_geometry import EDGE, KEPT, RING, Bins

Gradients = tuple[Tensor, Tensor, Tensor]
ELEMENTS = 2**24  # of the weights that are in memory at a time


def roi_pool(input: Tensor, image: Tensor, bins: Bins, mask: Tensor | None, group_size: Pair, rule: int) -> Tensor:
    """The pooled boxes [R, O, rows, columns], in the input's dtype."""
    dtype = position_dtype(input)
    maps = grouped_maps(input.to(dtype), bins, group_size)
    rows, columns, _, _ = weights(bins, dtype, (input.shape[2], input.shape[3]), rule)
    boxes, classes, *grid, _ = bins.first.shape
    out = input.new_zeros((boxes, classes, maps.shape[2], *grid), dtype=dtype)
    for n, chosen in parts(image, rows, columns):
        cells = by_group(outer(rows[chosen], columns[chosen]), group_size)
        pooled = torch.einsum("rkaibjs,koabs->rkoaibj", cells, maps[n])
        out = out.index_copy(0, chosen, pooled.reshape(-1, *out.shape[1:]))
    if mask is not None:
        out = out * mask.to(dtype)[:, :, None]
    out = out.masked_fill(bins.first.isnan().any(-1)[:, :, None], torch.nan)
    return out.flatten(1, 2).to(input.dtype)


def roi_pool_backward(
    grad: Tensor, input: Tensor, image: Tensor, bins: Bins, mask: Tensor | None, group_size: Pair, rule: int
) -> Gradients:
    """Gradients of the input, of `bins.first` and of the mask (of a mask of ones where there is none)."""
    dtype, size = position_dtype(input), (input.shape[2], input.shape[3])
    maps = grouped_maps(input.to(dtype), bins, group_size)
    rows, columns, row_slopes, column_slopes = weights(bins, dtype, size, rule)
    boxes, classes, *grid, _ = bins.first.shape
    pooled = grad.to(dtype).reshape(boxes, classes, maps.shape[2], *grid)
    factor = (bins.first.new_ones(bins.first.shape[:-1]) if mask is None else mask).to(dtype)
    of_maps, of_first, of_mask = torch.zeros_like(maps), factor.new_zeros(bins.first.shape), torch.zeros_like(factor)
    for n, chosen in parts(image, rows, columns):
        given = by_group(pooled[chosen].movedim(2, -1), group_size)  # [r, K, gh, i, gw, j, O/K]
        scaled = given * by_group(factor[chosen][..., None], group_size)
        share = torch.einsum(
            "rkaibjs,rkaibjo->koabs", by_group(outer(rows[chosen], columns[chosen]), group_size), scaled
        )
        of_maps = of_maps.index_add(0, chosen.new_tensor([n]), share[None])
        by_cell = torch.einsum("rkaibjo,koabs->rkaibjs", given, maps[n]).reshape(len(chosen), classes, *grid, *size)
        by_row = torch.einsum("rkpqhw,rkpqw->rkpqh", by_cell, columns[chosen])
        of_mask = of_mask.index_copy(0, chosen, (by_row * rows[chosen]).sum(-1))
        y = (by_row * row_slopes[chosen]).sum(-1)
        x = torch.einsum("rkpqhw,rkpqh,rkpqw->rkpq", by_cell, rows[chosen], column_slopes[chosen])
        of_first = of_first.index_copy(0, chosen, torch.stack((y, x), dim=-1) * factor[chosen][..., None])
    return of_maps.reshape(input.shape).to(input.dtype), of_first, of_mask


def grouped_maps(input: Tensor, bins: Bins, group_size: Pair) -> Tensor:
    """The maps of each class and each group of bins: [N, K, O/K, gh, gw, H*W]."""
    outputs = input.shape[1] // (group_size[0] * group_size[1])
    classes = bins.first.shape[1]
    cells = input.shape[2] * input.shape[3]
    return input.reshape(input.shape[0], classes, outputs // classes, *group_size, cells)


def by_group(values: Tensor, group_size: Pair) -> Tensor:
    """Values of bins [R, K, rows, columns, ...] as [R, K, gh, rows/gh, gw, columns/gw, ...]."""
    boxes, classes, rows, columns, *rest = values.shape
    gh, gw = group_size
    return values.reshape(boxes, classes, gh, rows // gh, gw, columns // gw, *rest)


def parts(image: Tensor, rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(image, its boxes), few enough boxes at a time that their weights fit into memory."""
    each = rows[0].numel() * columns.shape[-1] if len(rows) else 1
    for n in image.unique().tolist():
        for chosen in (image == n).nonzero().flatten().split(max(1, ELEMENTS // max(1, each))):
            yield n, chosen


def outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Weights of all cells [..., H*W] from those of rows [..., H] and columns [..., W]."""
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


def weights(bins: Bins, dtype: torch.dtype, size: Pair, rule: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of rows and columns, [R, K, rows, columns, H] and [..., W], and their derivatives by the position."""
    unknown = bins.first.isnan().any(-1)
    first, step = bins.first.to(dtype), bins.step.to(dtype)
    y, x = (axis_weights(first[..., a], step[:, a], bins.samples[..., a], size[a], rule, unknown) for a in (0, 1))
    return y[0], x[0], y[1], x[1]


def axis_weights(
    first: Tensor, step: Tensor, count: Tensor, size: int, rule: int, unknown: Tensor
) -> tuple[Tensor, Tensor]:
    """What a bin's mean along one axis weighs each of the map's `size` cells, and the derivative of that."""
    most = int(count.max()) if count.numel() else 0
    number = torch.arange(most, device=first.device)
    position = first[..., None] + number * step[:, None, None, None, None]
    counted = (number < count[..., None])[:, None] & ~unknown[..., None]
    low, share, slope, read = neighbours(position, size, rule)
    read = (read & counted).to(position.dtype)
    mean = read.sum(-1) if rule == KEPT else count[:, None].to(position.dtype)
    read = torch.where(read > 0, read / mean.clamp(min=1)[..., None], 0.0)
    return gather(low, (1 - share) * read, share * read, size), gather(low, -slope * read, slope * read, size)


def neighbours(position: Tensor, size: int, rule: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The cell before each position, how far beyond it that is, whether that varies, and whether it is read."""
    if rule == RING:
        read = (position >= -1) & (position < size)
        near = torch.where(read, position, 0.0)
        low = near.detach().floor()
        return low.long(), near - low, read.to(position.dtype), read
    outside = {KEPT: 0.5, EDGE: 1.0}[rule]
    read = (position >= -outside) & (position <= size - 1 + outside)
    near = torch.where(read, position, 0.0).clamp(0, size - 1)
    low = near.detach().floor().clamp(max=max(size - 2, 0))
    inside = (position >= 0) & (position <= size - 1) if size > 1 else torch.zeros_like(read)
    return low.long(), near - low, inside.to(position.dtype), read


def gather(low: Tensor, before: Tensor, after: Tensor, size: int) -> Tensor:
    """Sums [..., size] of what goes to cell `low` and to the one after it; cells -1 and `size` are dropped."""
    out = before.new_zeros((*low.shape[:-1], size + 2))
    return out.scatter_add(-1, low + 1, before).scatter_add(-1, low + 2, after)[..., 1:-1]
