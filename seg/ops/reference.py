"""Every operator in plain torch: the default body on all devices, and the oracle of the compiled kernels.

A deformable convolution samples the map at all taps and multiplies the samples of each output with the weight, as a
1x1 convolution of C*kh*kw channels. A sample is the weighted sum of four cells of the map inside a ring of zeros:
positions up to one cell outside fade to zero, those beyond are zero (the rule of DCNv2, arXiv:1811.11168). At
whole-numbered positions the gradient is that of the cells below and to the right. A position that is not a number makes
its output not a number, and reads nothing.
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
    dtype = position_dtype(input)
    taps = look_up(input, offset, mask, kernel_of(weight), stride, padding, dilation)
    samples = sample(ringed(input.to(dtype), taps.groups), taps)
    out = convolve(samples, weight.to(dtype), None if bias is None else bias.to(dtype))
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
    dtype = position_dtype(input)
    taps = look_up(input, offset, mask, kernel_of(weight), stride, padding, dilation)
    cells = ringed(input.to(dtype), taps.groups)
    grad = grad.to(dtype)
    targets = (input, offset, weight, input if mask is None else mask)
    grads = [target.new_empty(0) for target in targets]
    if needed[2]:
        grads[2] = weight_gradient(grad, sample(cells, taps), weight)
    if needed[0] or needed[1] or needed[3]:
        of_samples = sample_gradient(grad, weight.to(dtype), input.shape[1] // weight.shape[1])
        of_samples = of_samples.reshape(-1, cells.shape[1])
        if needed[0]:
            grads[0] = without_ring(scatter(of_samples, taps, cells), input)
        by_offset, by_mask = position_gradients(of_samples, taps, cells) if needed[1] or needed[3] else grads[:2]
        if needed[1]:
            grads[1] = by_offset.reshape(offset.shape)
        if needed[3] and mask is not None:
            grads[3] = by_mask.reshape(mask.shape)
    of_input, of_offset, of_weight, of_mask = (g.to(t.dtype) for g, t in zip(grads, targets, strict=True))
    return of_input, of_offset, of_weight, of_mask


def kernel_of(weight: Tensor) -> Pair:
    """Rows and columns of a weight's kernel."""
    return weight.shape[2], weight.shape[3]


class Axis(NamedTuple):
    """One axis of the two cells that a sample lies between; tensors [N, h, w, kh, kw, G]."""

    cells: tuple[Tensor, Tensor]  # int64, in the ringed map: 0 is the ring
    shares: tuple[Tensor, Tensor]  # bilinear weights; both 0 outside the ringed map
    slopes: tuple[Tensor, Tensor]  # their derivatives by the position


class Taps(NamedTuple):
    """All that is looked up once per sample, for all channels of its group."""

    y: Axis
    x: Axis
    first: Tensor  # int64, where the sample's map and group begin among the cells
    width: int  # of the ringed map
    mask: Tensor  # [N, h, w, kh, kw, G]; ones where there is none

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
    y, x = positions.permute(4, 0, 5, 6, 2, 3, 1).unbind(0)  # each [N, h, w, kh, kw, G]
    count, _, rows, columns = input.shape
    unknown = y.isnan() | x.isnan()  # where one is not a number, neither is read
    groups = offset_groups(offset, kernel_size)
    image = torch.arange(count, device=input.device).view(-1, 1, 1, 1, 1, 1) * ((rows + 2) * (columns + 2))
    first = (image * groups + torch.arange(groups, device=input.device)).expand(y.shape)
    if mask is None:
        factor = torch.ones_like(y)
    else:
        factor = mask.to(y.dtype).reshape(count, groups, *kernel_size, *mask.shape[2:]).permute(0, 4, 5, 2, 3, 1)
    return Taps(axis(y, rows, unknown), axis(x, columns, unknown), first, columns + 2, factor)


def axis(position: Tensor, size: int, unknown: Tensor) -> Axis:
    """Cells, shares and slopes along one axis of a map with `size` cells."""
    # at exactly -1 the value is 0 but the gradient is that of the first cell: there lie the border's taps at offset 0
    read = (position >= -1) & (position < size) & ~unknown
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
    """The map at all taps, times the mask: [N, h, w, kh*kw, C]."""
    rows = torch.stack([taps.rows(i, j) for i, j in CORNERS], dim=-1)
    shares = torch.stack([taps.mask * taps.y.shares[i] * taps.x.shares[j] for i, j in CORNERS], dim=-1)
    count, h, w, kh, kw, groups, _ = rows.shape
    bags = F.embedding_bag(rows.view(-1, 4), cells, per_sample_weights=shares.view(-1, 4), mode="sum")
    return bags.view(count, h, w, kh * kw, groups * cells.shape[1])


def convolve(samples: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """[N, O, h, w] of samples [N, h, w, kh*kw, C]: each output's samples times the weight, as a 1x1 convolution."""
    count, h, w, taps, channels = samples.shape
    groups = channels // weight.shape[1]
    stacked = samples.view(count, h, w, taps, groups, weight.shape[1]).transpose(3, 4)
    stacked = stacked.reshape(count, h, w, taps * channels)
    pointwise = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], taps * weight.shape[1], 1, 1)
    return F.conv2d(stacked.permute(0, 3, 1, 2), pointwise, bias, groups=groups)


def sample_gradient(grad: Tensor, weight: Tensor, groups: int) -> Tensor:
    """The gradient [N, h, w, kh*kw, C] of the samples, from that of the output [N, O, h, w]."""
    outputs, taken, kh, kw = weight.shape
    count, _, h, w = grad.shape
    pointwise = weight.view(groups, -1, taken, kh, kw).permute(0, 3, 4, 2, 1).reshape(-1, outputs // groups, 1, 1)
    stacked = F.conv2d(grad, pointwise, groups=groups).permute(0, 2, 3, 1)
    stacked = stacked.reshape(count, h, w, groups, kh * kw, taken).transpose(3, 4)
    return stacked.reshape(count, h, w, kh * kw, groups * taken)


def weight_gradient(grad: Tensor, samples: Tensor, weight: Tensor) -> Tensor:
    """The gradient [O, C/groups, kh, kw] of the weight."""
    outputs, taken, kh, kw = weight.shape
    groups = samples.shape[4] // taken
    places = grad.shape[0] * grad.shape[2] * grad.shape[3]
    of_outputs = grad.permute(1, 0, 2, 3).reshape(groups, outputs // groups, places)
    of_taps = samples.view(places, kh * kw, groups, taken).permute(2, 0, 1, 3)
    of_taps = of_taps.reshape(groups, places, kh * kw * taken)
    return torch.bmm(of_outputs, of_taps).view(outputs, kh, kw, taken).permute(0, 3, 1, 2)


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
    return by_offset.permute(1, 6, 4, 5, 0, 2, 3), by_mask.permute(0, 5, 3, 4, 1, 2)
