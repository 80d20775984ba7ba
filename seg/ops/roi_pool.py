"""RoI pooling, plain, position-sensitive, deformable and modulated: the functions, and the operator `seg::roi_pool`.

The functions turn boxes and offsets into grids of positions (seg.ops.roi_geometry, where the modes are described);
the operator averages the map over the grids and knows nothing of modes.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seg.ops import dispatch
from seg.ops import roi_reference as reference
from seg.ops.arguments import refuse_tangents
from seg.ops.deform_conv import layout
from seg.ops.geometry import Pair, in_own_dtype, pair, position_dtype
from seg.ops.roi_arguments import check_pooling, check_tensors, checked_images, stacked
from seg.ops.roi_geometry import Bins, Pooling, bins, spread

library = torch.library.Library("seg", "FRAGMENT")
library.define(
    "roi_pool(Tensor input, Tensor rois, Tensor first, Tensor step, Tensor count, Tensor? mask, int[2] group_size, "
    "int rule) -> Tensor"
)
library.define(
    "roi_pool_backward(Tensor grad, Tensor input, Tensor rois, Tensor first, Tensor step, Tensor count, Tensor? mask, "
    "int[2] group_size, int rule, bool[3] needed) -> (Tensor, Tensor, Tensor)"
)


def deform_roi_pool(
    input: Tensor,
    rois: Tensor | Sequence[Tensor],
    offset: Tensor | None,
    output_size: int | Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
    *,
    mask: Tensor | None = None,
    mode: str = "paper",
) -> Tensor:
    """Mean of the map in each bin of each box, where bins are moved by offsets; without offsets, RoI average pooling.

    input:          [N, C, H, W] float32, float64, bfloat16 or float16; positions and sums are float32 (float64)
    rois:           [R, 5], (image, x1, y1, x2, y2) in px, or a list of [L, 4] for each image; gets no gradient
    offset:         [R, 2*K, part rows, part columns]: for each of K classes x FIRST, THEN y (the opposite of
                    deformable convolution), as shares of the box's width and height, times gamma. A class moves
                    C/K neighbouring channels; parts are the output's bins, or fewer that each move several. None: no
                    offset
    output_size:    bins of a box, a number or (rows, columns)
    spatial_scale:  cells of the map for a px
    sampling_ratio: samples along each side of a bin; 0 is 4 in mode "release", in mode "mmcv" as many as it has cells.
                    Mode "paper" reads all cells of a bin, and allows 0 alone
    mask:           [R, K, part rows, part columns], a factor for each bin (arXiv:1811.11168, equation 2); None is 1
    mode:           "paper" (arXiv:1703.06211, equations 5 and 6), "release" (the authors' code) or "mmcv"; rounding,
                    sampling and borders of each are described in seg.ops.roi_geometry
    returns:        [R, C, rows, columns] in the input's dtype and memory format. No boxes: an empty tensor. A bin that
                    reads nothing, outside the map or of a box without extent in mode "mmcv", is 0. A box of zero or
                    negative size is 1 cell wide and high in mode "paper" and 0.1 in "release"; in mode "mmcv" with a
                    sampling_ratio it is read backwards. An offset that is not a number makes its bin not a number
    raises:         ValueError for arguments that do not fit, a box of an image that is not there, or not finite;
                    NotImplementedError in forward-mode differentiation
    """
    pooling = Pooling(mode, pair(output_size, "output_size"), spatial_scale, sampling_ratio, gamma)
    return pool(input, rois, offset, mask, pooling, (1, 1))


def deform_ps_roi_pool(
    input: Tensor,
    rois: Tensor | Sequence[Tensor],
    offset: Tensor | None,
    output_size: int | Pair,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
    *,
    group_size: int | Pair | None = None,
    mask: Tensor | None = None,
    mode: str = "paper",
) -> Tensor:
    """Deformable position-sensitive RoI pooling: as `deform_roi_pool`, but each bin reads a map of its own.

    input:      [N, O*gh*gw, H, W]; output o reads channel (o*gh + i)*gw + j in the bins of group (i, j)
    offset:     x FIRST, THEN y, as in `deform_roi_pool`; a class moves O/K neighbouring outputs
    group_size: (gh, gw), bins with maps of their own; by default the output's size
    returns:    [R, O, rows, columns]
    source:     arXiv:1703.06211, equation 8; mode "release" is the authors' DeformablePSROIPooling
    """
    size = pair(output_size, "output_size")
    groups = size if group_size is None else pair(group_size, "group_size")
    return pool(input, rois, offset, mask, Pooling(mode, size, spatial_scale, sampling_ratio, gamma), groups)


def ps_roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: int | Pair,
    spatial_scale: float = 1.0,
    *,
    group_size: int | Pair | None = None,
    mask: Tensor | None = None,
    mode: str = "paper",
) -> Tensor:
    """Position-sensitive RoI pooling: the mean over the cells of each bin, each in a map of its own.

    Arguments as of `deform_ps_roi_pool`. Mode "paper" (arXiv:1703.06211, equation 7) is torchvision's function, but
    for the map's last row and column, which that never reads; mode "release" is the authors' PSROIPooling; mode "mmcv"
    samples as mmcv's deformable pooling does.
    returns: [R, O, rows, columns]
    """
    size = pair(output_size, "output_size")
    groups = size if group_size is None else pair(group_size, "group_size")
    mode = "cells" if mode == "release" else mode
    return pool(input, boxes, None, mask, Pooling(mode, size, spatial_scale, 0, 0.0), groups)


def pool(
    input: Tensor,
    rois: Tensor | Sequence[Tensor],
    offset: Tensor | None,
    mask: Tensor | None,
    pooling: Pooling,
    group_size: Pair,
) -> Tensor:
    """The functions' common body."""
    refuse_tangents(input, offset, mask)
    rois = stacked(rois, input)
    check_pooling(pooling, group_size)
    check_tensors(input, rois, offset, mask, pooling, group_size)
    dtype = position_dtype(input)
    first, step, count = bins(rois, offset, (input.shape[2], input.shape[3]), pooling, dtype)
    if mask is not None:
        mask = spread(mask, pooling.output_size).to(dtype)
    classes = max(first.shape[1], 1 if mask is None else mask.shape[1])
    first = first.expand(-1, classes, -1, -1, -1).contiguous()
    return torch.ops.seg.roi_pool(input, rois.detach(), first, step, count, mask, group_size, pooling.rule)


@torch.library.impl(library, "roi_pool", "CompositeExplicitAutograd")
def forward(
    input: Tensor,
    rois: Tensor,
    first: Tensor,
    step: Tensor,
    count: Tensor,
    mask: Tensor | None,
    group_size: Pair,
    rule: int,
) -> Tensor:
    """The operator's body."""
    grids = Bins(first, step, count)
    image = checked_images(rois, len(input), grids)
    compiled = dispatch.kernels(input.device.type, "roi_pool")
    channels_last = layout(input) == torch.channels_last
    if compiled is None:
        with in_own_dtype(input):
            out = reference.roi_pool(input, image, grids, mask, group_size, rule)
    else:
        tensors = (grouped(input, group_size), image, *dense(first, step, count), opt(mask))
        out = compiled.roi_pool.default(*tensors, *group_size, rule, channels_last)
    return out.contiguous(memory_format=layout(input))


@torch.library.impl(library, "roi_pool_backward", "CompositeExplicitAutograd")
def backward(
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    first: Tensor,
    step: Tensor,
    count: Tensor,
    mask: Tensor | None,
    group_size: Pair,
    rule: int,
    needed: list[bool],
) -> reference.Gradients:
    """The body of the gradients' operator; what is not needed is an empty tensor."""
    grids, image = Bins(first, step, count), rois[:, 0].long()
    compiled = dispatch.kernels(input.device.type, "roi_pool")
    if compiled is None:
        with in_own_dtype(input):
            grads = reference.roi_pool_backward(grad, input, image, grids, mask, group_size, rule)
        of_input, of_first, of_mask = grads
    else:
        tensors = (grad, grouped(input, group_size), image, *dense(first, step, count), opt(mask))
        # the CPU's kernels are deterministic always
        flags = {"deterministic": torch.are_deterministic_algorithms_enabled()} if input.is_cuda else {}
        of_maps, of_first, of_mask = compiled.roi_pool_backward.default(*tensors, *group_size, rule, *needed, **flags)
        of_input = of_maps.permute(0, 4, 1, 2, 3).reshape(input.shape) if needed[0] else of_maps
    return (
        of_input.to(input.dtype).contiguous(memory_format=layout(input)) if needed[0] else input.new_empty(0),
        of_first.to(first.dtype).contiguous() if needed[1] else first.new_empty(0),
        of_mask.to(mask.dtype).contiguous() if mask is not None and needed[2] else first.new_empty(0),
    )


def grouped(input: Tensor, group_size: Pair) -> Tensor:
    """The map as the kernels read it: [N, gh*gw, H, W, O], dense; no copy for a channels-last map of one group."""
    groups = group_size[0] * group_size[1]
    count, channels, height, width = input.shape
    return input.reshape(count, channels // groups, groups, height, width).permute(0, 2, 3, 4, 1).contiguous()


def dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same values, contiguous."""
    return tuple(tensor.contiguous() for tensor in tensors)


def opt(mask: Tensor | None) -> Tensor | None:
    """The mask, contiguous, where there is one."""
    return None if mask is None else mask.contiguous()


@torch.library.register_fake("seg::roi_pool", lib=library)
def forward_shape(
    input: Tensor,
    rois: Tensor,
    first: Tensor,
    step: Tensor,
    count: Tensor,
    mask: Tensor | None,
    group_size: Pair,
    rule: int,
) -> Tensor:
    """An output without values, for tracing."""
    outputs = input.shape[1] // (group_size[0] * group_size[1])
    shape = (first.shape[0], outputs, first.shape[2], first.shape[3])
    return input.new_empty(shape).to(memory_format=layout(input))


@torch.library.register_fake("seg::roi_pool_backward", lib=library)
def backward_shape(
    grad: Tensor,
    input: Tensor,
    rois: Tensor,
    first: Tensor,
    step: Tensor,
    count: Tensor,
    mask: Tensor | None,
    *rest: Any,
) -> reference.Gradients:
    """Gradients without values, for tracing."""
    needed = rest[-1]
    return (
        input.new_empty(input.shape).to(memory_format=layout(input)) if needed[0] else input.new_empty(0),
        first.new_empty(first.shape if needed[1] else 0),
        mask.new_empty(mask.shape) if mask is not None and needed[2] else first.new_empty(0),
    )


def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keeps what the gradients need."""
    *tensors, ctx.group_size, ctx.rule = inputs
    ctx.save_for_backward(*tensors)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the operator's arguments; those that nobody asked for are not computed."""
    needed = [ctx.needs_input_grad[i] for i in (0, 2, 5)]
    made = torch.ops.seg.roi_pool_backward(grad, *ctx.saved_tensors, ctx.group_size, ctx.rule, needed)
    of_input, of_first, of_mask = (g if need else None for g, need in zip(made, needed, strict=True))
    return of_input, None, of_first, None, None, of_mask, None, None


torch.library.register_autograd("seg::roi_pool", differentiate, setup_context=remember, lib=library)


def remember_twice(ctx: Any, inputs: tuple[Any, ...], output: reference.Gradients) -> None:
    """Keeps what the gradients' gradients need."""
    *tensors, ctx.group_size, ctx.rule, ctx.needed = inputs
    ctx.save_for_backward(*tensors)


def differentiate_twice(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the gradients, by differentiating the reference."""
    wanted = [i for i in range(7) if ctx.needs_input_grad[i]]
    with torch.enable_grad(), in_own_dtype(ctx.saved_tensors[0]):
        tensors = list(ctx.saved_tensors)
        for i in wanted:
            tensors[i] = tensors[i].view_as(tensors[i])  # a node of its own, else gradients through it would be added
        grad, input, rois, first, step, count, mask = tensors
        made = reference.roi_pool_backward(
            grad, input, rois[:, 0].long(), Bins(first, step, count), mask, ctx.group_size, ctx.rule
        )
        pairs = [(m, g) for m, g, need in zip(made, grads, ctx.needed, strict=True) if need and m.requires_grad]
        found = torch.autograd.grad(
            [m for m, _ in pairs],
            [tensors[i] for i in wanted],
            [g for _, g in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    out: list[Tensor | None] = [None] * 10
    for i, gradient in zip(wanted, found, strict=True):
        out[i] = gradient
    return tuple(out)


torch.library.register_autograd(
    "seg::roi_pool_backward", differentiate_twice, setup_context=remember_twice, lib=library
)
