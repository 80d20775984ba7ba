"""Every operator in plain torch: the default body on all devices, and the oracle of the compiled kernels.

A deformable convolution samples the map at all taps, [N, C, h*kh, w*kw], and convolves the samples with stride = kernel
size. A sample is the weighted sum of four cells of the map inside a ring of zeros: positions up to one cell outside fade
to zero, those beyond are zero (the rule of DCNv2, arXiv:1811.11168). At whole-numbered positions the gradient is that of
the cells below and to the right. A position that is not a number makes its output not a number, and reads nothing.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seg.ops.geometry import Pair, offset_groups, position_dtype, sampling_positions

Gradients = tuple[Tensor, Tensor, Tensor, Tensor]


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """The deformable convolution [N, O, h, w], in the input's dtype; computed in float32, or float64 for float64."""
    dtype, kernel_size = position_dtype(input), kernel_of(weight)
    taps = look_up(input, offset, mask, kernel_size, stride, padding, dilation)
    samples = sample(ringed(input.to(dtype), taps.groups), taps)
    bias = None if bias is None else bias.to(dtype)
    out = F.conv2d(samples, weight.to(dtype), bias, stride=kernel_size, groups=input.shape[1] // weight.shape[1])
    return out.to(input.dtype)


def deform_conv2d_backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    needed: list[bool],
) -> Gradients:
    """Gradients of input, offset, weight and mask, each where `needed` says so and else an empty tensor."""
    dtype, kernel_size = position_dtype(input), kernel_of(weight)
    taps = look_up(input, offset, mask, kernel_size, stride, padding, dilation)
    cells = ringed(input.to(dtype), taps.groups)
    need_input, need_offset, need_weight, need_mask = needed
    need_samples = need_input or need_offset or need_mask
    nothing = input.new_empty(0)
    grad_samples, grad_weight, _ = torch.ops.aten.convolution_backward(
        grad.to(dtype), sample(cells, taps), weight.to(dtype), None, kernel_size, [0, 0], [1, 1], False, [0, 0],
        input.shape[1] // weight.shape[1], [need_samples, need_weight, False],
    )  # fmt: skip
    grad_input, grad_offset, grad_mask = nothing, nothing, nothing
    if need_samples:
        flat = grad_samples.permute(0, 2, 3, 1).reshape(-1, cells.shape[1])
        if need_input:
            grad_input = without_ring(scatter(flat, taps, cells), input).to(input.dtype)
        if need_offset or need_mask:
            grad_offset, grad_mask = position_gradients(flat, taps, cells)
            grad_offset = grad_offset.reshape(offset.shape).to(offset.dtype) if need_offset else nothing
            grad_mask = grad_mask.reshape(mask.shape).to(mask.dtype) if mask is not None and need_mask else nothing
    return grad_input, grad_offset, grad_weight.to(weight.dtype) if need_weight else nothing, grad_mask


def kernel_of(weight: Tensor) -> Pair:
    """Rows and columns of a weight's kernel."""
    return weight.shape[2], weight.shape[3]


class Axis(NamedTuple):
    """One axis of the two cells that a sample lies between; tensors [N, h, kh, w, kw, G]."""

    cells: tuple[Tensor, Tensor]  # int64, in the ringed map: 0 is the ring
    shares: tuple[Tensor, Tensor]  # bilinear weights; both 0 outside the ringed map
    slopes: tuple[Tensor, Tensor]  # their derivatives by the position


class Taps(NamedTuple):
    """All that is looked up once per sample, for all channels of its group."""

    y: Axis
    x: Axis
    first: Tensor  # int64, where the sample's map and group begin among the cells
    width: int  # of the ringed map
    mask: Tensor  # [N, h, kh, w, kw, G]; ones where there is none

    @property
    def groups(self) -> int:
        """Offset groups."""
        return self.mask.shape[-1]

    def rows(self, i: int, j: int) -> Tensor:
        """Which row of the cells is the upper or lower (i), left or right (j) neighbour."""
        return self.first + (self.y.cells[i] * self.width + self.x.cells[j]) * self.groups


CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


def look_up(
    input: Tensor, offset: Tensor, mask: Tensor | None, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> Taps:
    """The neighbours and shares of every sample."""
    positions = sampling_positions(offset.to(position_dtype(input)), kernel_size, stride, padding, dilation)
    y, x = positions.permute(4, 0, 5, 2, 6, 3, 1).unbind(0)  # each [N, h, kh, w, kw, G]
    count, _, rows, columns = input.shape
    unknown = y.isnan() | x.isnan()  # where one is not a number, neither is read
    groups = offset_groups(offset, kernel_size)
    image = torch.arange(count, device=input.device).view(-1, 1, 1, 1, 1, 1) * ((rows + 2) * (columns + 2))
    first = (image * groups + torch.arange(groups, device=input.device)).expand(y.shape)
    if mask is None:
        factor = torch.ones_like(y)
    else:
        factor = mask.to(y.dtype).reshape(count, groups, *kernel_size, *mask.shape[2:]).permute(0, 4, 2, 5, 3, 1)
    return Taps(axis(y, rows, unknown), axis(x, columns, unknown), first, columns + 2, factor)


def axis(position: Tensor, size: int, unknown: Tensor) -> Axis:
    """Cells, shares and slopes along one axis of a map with `size` cells."""
    read = (position > -1) & (position < size) & ~unknown
    inside = read.to(position.dtype).masked_fill(unknown, torch.nan)
    low = torch.where(read, position, -1.0).detach().floor()
    share = torch.where(read, position - low, 0.0) * inside
    cell = low.long() + 1
    return Axis((cell, cell + read), (inside - share, share), (-inside, inside))


def ringed(input: Tensor, groups: int) -> Tensor:
    """The map inside one ring of zeros, as rows of one cell and offset group: [N*(H+2)*(W+2)*G, C/G]."""
    count, channels, rows, columns = input.shape
    padded = F.pad(input.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return padded.reshape(count * (rows + 2) * (columns + 2) * groups, channels // groups)


def without_ring(cells: Tensor, input: Tensor) -> Tensor:
    """The map [N, C, H, W] that `ringed` was given, in the shape of `input`."""
    count, channels, rows, columns = input.shape
    return cells.view(count, rows + 2, columns + 2, channels)[:, 1:-1, 1:-1].permute(0, 3, 1, 2)


def sample(cells: Tensor, taps: Taps) -> Tensor:
    """The map at all taps, times the mask: [N, C, h*kh, w*kw]."""
    rows = torch.stack([taps.rows(i, j) for i, j in CORNERS], dim=-1)
    shares = torch.stack([taps.mask * taps.y.shares[i] * taps.x.shares[j] for i, j in CORNERS], dim=-1)
    count, h, kh, w, kw, groups, _ = rows.shape
    bags = F.embedding_bag(rows.view(-1, 4), cells, per_sample_weights=shares.view(-1, 4), mode="sum")
    return bags.view(count, h * kh, w * kw, groups * cells.shape[1]).permute(0, 3, 1, 2)


def scatter(grad: Tensor, taps: Taps, cells: Tensor) -> Tensor:
    """The gradient of the cells: every sample's gradient [samples, C/G] goes to its four neighbours."""
    out = torch.zeros_like(cells)
    for i, j in CORNERS:
        share = taps.mask * taps.y.shares[i] * taps.x.shares[j]
        out = out.index_add(0, taps.rows(i, j).flatten(), grad.view(-1, cells.shape[1]) * share.reshape(-1, 1))
    return out


def position_gradients(grad: Tensor, taps: Taps, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the offsets [N, G, kh, kw, 2, h, w] and of the mask [N, G, kh, kw, h, w].

    Both are combinations of four scalar products, of the sample's gradient with each of its neighbours.
    """
    y, x = taps.y, taps.x
    by_y = by_x = by_mask = torch.zeros_like(taps.mask)
    for i, j in CORNERS:
        product = torch.linalg.vecdot(cells[taps.rows(i, j).flatten()], grad).view(taps.mask.shape)
        by_y = by_y + product * y.slopes[i] * x.shares[j]
        by_x = by_x + product * y.shares[i] * x.slopes[j]
        by_mask = by_mask + product * y.shares[i] * x.shares[j]
    by_offset = torch.stack((by_y, by_x)) * taps.mask
    return by_offset.permute(1, 6, 3, 5, 0, 2, 4), by_mask.permute(0, 5, 2, 4, 1, 3)
