"""Where the bins of a RoI pooling look, in each of its conventions.

A bin averages the map at a grid of positions: `samples` of them along each axis, `step` cells apart, from `first` on.
All conventions end in this form, so that one kernel serves them all. Offsets move a bin as a whole: they are channels
(x, y), x first, the opposite of deformable convolution, in units of gamma times the box's width and height. What
follows `shifts` is (y, x), as rows and columns are.

"paper"    A box is rounded to cells, of which it has one at least; bin i of k holds the cells p of an axis with
           floor(i*w/k) <= p < ceil((i+1)*w/k), those inside the map. It is moved as it is, and its mean is over these
           cells; what a moved cell meets outside the map is zero. (arXiv:1703.06211, equations 5 to 8; rounding as in
           torchvision.ops.ps_roi_pool, which never reads a map's last row and column but else is this without offsets.)
"release"  As deformable_psroi_pooling.cu of the paper's authors: corners are rounded to pixels, the last pixel is part
           of the box, cell centres lie half a cell further on, and a side is 0.1 cells at least. A bin is sampled at
           its corner and at whole shares of its side; samples more than half a cell outside the map are left out of
           the mean, others are clamped to its cells.
"cells"    As psroi_pooling.cu of the paper's authors, which knows no offsets: boxes as in "release", but without the
           half cell, and the mean is over the cells that a bin touches.
"mmcv"     As mmcv.ops.deform_roi_pool: boxes are not rounded, cell centres lie half a cell further on, a bin is sampled
           at the middles of its parts, samples more than a cell outside the map are zero but count.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from seg.ops.geometry import Pair, pair

RING, KEPT, EDGE = range(3)  # what is read outside the map: zeros; nothing, and it does not count; the edge, then zeros
LEAST = 0.1  # cells: the smallest side of a box in the released code
MOST = 2**14  # samples along one axis of a bin
PER_PART = 4  # samples along each side of a bin in the networks that were released


@dataclass(frozen=True)
class Pooling:
    """What is common to all boxes of a pooling; a mode is one of those above."""

    mode: str
    output_size: Pair
    spatial_scale: float
    sampling_ratio: int
    gamma: float

    @property
    def rule(self) -> int:
        """What is read outside the map."""
        return {"paper": RING, "cells": RING, "release": KEPT, "mmcv": EDGE}[self.mode]


class Bins(NamedTuple):
    """The sampling grids of R boxes' bins; all (y, x) in cells of the map, 0 = centre of the first cell."""

    first: Tensor  # [R, K, rows, columns, 2]: the first position, of each of K classes of offsets
    step: Tensor  # [R, 2]
    samples: Tensor  # int32 [R, rows, columns, 2]


class Axis(NamedTuple):
    """One axis of R boxes in k bins each."""

    extent: Tensor  # [R]: the side of the box in cells
    first: Tensor  # [R, k]
    step: Tensor  # [R]
    samples: Tensor  # [R, k]


def bins(rois: Tensor, offset: Tensor | None, size: Pair, pooling: Pooling, dtype: torch.dtype) -> Bins:
    """Where the bins of boxes look on a map of `size`, in positions of a dtype.

    rois:   [R, 5], (image, x1, y1, x2, y2) in px; boxes get no gradient
    offset: [R, 2*K, part rows, part columns], x first, y second; None is no offset, and K = 1
    """
    corners = rois.detach()[:, 1:].to(dtype)
    along = AXES[pooling.mode]
    y = along(corners[:, 1], corners[:, 3], pooling.output_size[0], size[0], pooling)
    x = along(corners[:, 0], corners[:, 2], pooling.output_size[1], size[1], pooling)
    first = mesh(y.first, x.first)[:, None]
    if offset is not None:
        sides = torch.stack((y.extent, x.extent), dim=-1)
        first = first + shifts(offset.to(first.dtype), sides, pooling.output_size, pooling.gamma)
    return Bins(first, torch.stack((y.step, x.step), dim=-1), mesh(y.samples, x.samples).to(torch.int32))


def shifts(offset: Tensor, sides: Tensor, output_size: Pair, gamma: float) -> Tensor:
    """How far each bin is moved: [R, K, rows, columns, 2], (y, x), in the unit of the boxes' `sides` [R, 2], (y, x).

    offset: [R, 2*K, part rows, part columns], x first, y second
    source: arXiv:1703.06211, section 2.2: gamma times the offset times (w, h)
    """
    by_bin = spread(offset, output_size)
    count, channels, rows, columns = by_bin.shape
    x, y = by_bin.view(count, channels // 2, 2, rows, columns).unbind(2)
    return torch.stack((y, x), dim=-1) * (gamma * sides[:, None, None, None])


def spread(parts: Tensor, output_size: Pair) -> Tensor:
    """Values of a box's parts [R, C, part rows, part columns] for its bins, [R, C, rows, columns]."""
    rows, columns = (
        torch.arange(bins, device=parts.device) * given // bins
        for bins, given in zip(output_size, parts.shape[2:], strict=True)
    )
    return parts if tuple(parts.shape[2:]) == tuple(output_size) else parts[:, :, rows][..., columns]


def bin_boxes(rois: Tensor, offset: Tensor | None, output_size: int | Pair, gamma: float = 0.1) -> Tensor:
    """Boxes of the bins in px, for figures: [R, K, rows, columns, 4], (x1, y1, x2, y2), before any rounding.

    rois:   [R, 5]; offset: [R, 2*K, part rows, part columns], x first, y second, or None
    source: arXiv:1703.06211, figure 7
    """
    output_size = pair(output_size, "output_size")
    low, high = rois[:, 1:3].flip(-1), rois[:, 3:5].flip(-1)
    sides = high - low
    number = mesh(*(torch.arange(k, device=rois.device).expand(len(rois), k) for k in output_size))
    side = sides / torch.tensor(output_size, device=rois.device)
    start = (low[:, None, None] + number * side[:, None, None])[:, None]
    if offset is not None:
        start = start + shifts(offset.to(start.dtype), sides, output_size, gamma)
    end = start + side[:, None, None, None]
    return torch.cat((start.flip(-1), end.flip(-1)), dim=-1)


def mesh(y: Tensor, x: Tensor) -> Tensor:
    """[R, rows, columns, 2] of values for rows [R, rows] and columns [R, columns]."""
    shape = (len(y), y.shape[1], x.shape[1])
    return torch.stack((y[:, :, None].expand(shape), x[:, None].expand(shape)), dim=-1)


def nearest(value: Tensor) -> Tensor:
    """The nearest whole numbers, halves away from zero as in C; torch.round takes the even one."""
    whole = value.trunc()
    return whole + (value - whole).mul(2).trunc()


def divided(value: Tensor, parts: int) -> Tensor:
    """The quotient, rounded once; a GPU divides by a number of Python's by multiplying with its rounded inverse."""
    return value / value.new_full((), parts)


def paper_axis(low: Tensor, high: Tensor, bins: int, size: int, pooling: Pooling) -> Axis:
    """Whole cells, moved together."""
    start = nearest(low * pooling.spatial_scale)
    extent = (nearest(high * pooling.spatial_scale) - start).clamp(min=1)
    number = torch.arange(bins, device=low.device)
    # multiplied first: the quotient of whole numbers is exact where it is whole
    begin = start[:, None] + divided(number * extent[:, None], bins).floor()
    end = start[:, None] + divided((number + 1) * extent[:, None], bins).ceil()
    return cells(extent, begin, end, size)


def cells_axis(low: Tensor, high: Tensor, bins: int, size: int, pooling: Pooling) -> Axis:
    """Whole cells that a bin touches."""
    start, extent = released_box(low, high, pooling.spatial_scale, 0.0)
    edges = start[:, None] + divided(extent, bins)[:, None] * torch.arange(bins + 1, device=low.device)
    return cells(extent, edges[:, :-1].floor(), edges[:, 1:].ceil(), size)


def cells(extent: Tensor, begin: Tensor, end: Tensor, size: int) -> Axis:
    """The cells from `begin` to before `end` that the map has."""
    begin, end = begin.clamp(0, size), end.clamp(0, size)
    return Axis(extent, begin, torch.ones_like(extent), (end - begin).clamp(min=0))


def released_axis(low: Tensor, high: Tensor, bins: int, size: int, pooling: Pooling) -> Axis:
    """Samples at whole shares of a bin's side, from its corner on."""
    start, extent = released_box(low, high, pooling.spatial_scale, 0.5)
    side, samples = divided(extent, bins), pooling.sampling_ratio or PER_PART
    first = torch.arange(bins, device=low.device) * side[:, None] + start[:, None]
    return Axis(extent, first, divided(side, samples), torch.full_like(first, samples))


def released_box(low: Tensor, high: Tensor, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """Start and side of the boxes, whose last pixel is part of them."""
    start = nearest(low) * scale - shift
    return start, ((nearest(high) + 1) * scale - shift - start).clamp(min=LEAST)


def mmcv_axis(low: Tensor, high: Tensor, bins: int, size: int, pooling: Pooling) -> Axis:
    """Samples at the middles of a bin's parts; as many as the bin has cells where no number is given."""
    start = low * pooling.spatial_scale - 0.5
    extent = high * pooling.spatial_scale - 0.5 - start
    side = divided(extent, bins)
    adaptive = side.ceil().clamp(0, MOST + 1)  # a box without extent has no samples, and pools to zero
    samples = torch.full_like(side, pooling.sampling_ratio) if pooling.sampling_ratio else adaptive
    step = side / samples.clamp(min=1)
    first = torch.arange(bins, device=low.device) * side[:, None] + (start + step / 2)[:, None]
    return Axis(extent, first, step, samples[:, None].expand_as(first))


AXES: dict[str, Callable[[Tensor, Tensor, int, int, Pooling], Axis]] = {
    "paper": paper_axis,
    "cells": cells_axis,
    "release": released_axis,
    "mmcv": mmcv_axis,
}
