"""Where a deformable convolution looks, and which arguments make sense for it."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

Pair = tuple[int, int]


def pair(value: int | tuple[int, ...] | list[int], name: str) -> Pair:
    """(rows, columns) of an argument that is one number for both or a pair.

    raises: ValueError where it is neither
    """
    if isinstance(value, int):
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(one, int) for one in value):
        return value[0], value[1]
    raise ValueError(f"{name}={value!r} is neither a whole number nor a pair (rows, columns) of them")


def output_size(size: Pair, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair) -> Pair:
    """Rows and columns of a convolution's output.

    raises: ValueError for a stride or dilation below 1, a negative padding, a kernel that is larger than the padded map
    """
    limits = (
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    )
    for name, values, least in limits:
        if min(values) < least:
            raise ValueError(f"{name}={tuple(values)} has to be at least {least} in rows and in columns")
    reach = [d * (k - 1) + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    padded = [s + 2 * p for s, p in zip(size, padding, strict=True)]
    if padded[0] < reach[0] or padded[1] < reach[1]:
        raise ValueError(
            f"the kernel reaches over {reach[0]}x{reach[1]} cells (kernel_size={tuple(kernel_size)}, "
            f"dilation={tuple(dilation)}) but the padded input has {padded[0]}x{padded[1]}; "
            "use a larger input, more padding or less dilation"
        )
    return (padded[0] - reach[0]) // stride[0] + 1, (padded[1] - reach[1]) // stride[1] + 1


def sampling_positions(
    offset: Tensor,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
) -> Tensor:
    """Where every tap of every filter reads.

    offset:  [N, 2*G*kh*kw, h, w] in cells of the map read: group-major, then tap, then (y, x)
    returns: [N, G, kh, kw, 2, h, w], (y, x) in cells of the map read, 0 = centre of the first cell; float32, or
             float64 for a float64 offset: half precision would be cells off on a wide map
    raises:  ValueError where the offset's channels are not 2*G*kh*kw
    source:  arXiv:1703.06211, equation 2
    """
    kernel_size, stride = pair(kernel_size, "kernel_size"), pair(stride, "stride")
    padding, dilation = pair(padding, "padding"), pair(dilation, "dilation")
    groups = offset_groups(offset, kernel_size)
    offset = offset.to(position_dtype(offset))
    count, _, rows, columns = offset.shape
    taps = offset.reshape(count, groups, *kernel_size, 2, rows, columns)
    y = axis_positions(rows, kernel_size[0], stride[0], padding[0], dilation[0], offset)
    x = axis_positions(columns, kernel_size[1], stride[1], padding[1], dilation[1], offset)
    return torch.stack((taps[..., 0, :, :] + y[:, None, :, None], taps[..., 1, :, :] + x[:, None, :]), dim=4)


def axis_positions(length: int, taps: int, stride: int, padding: int, dilation: int, like: Tensor) -> Tensor:
    """Cells [taps, length] that an undeformed kernel reads along one axis, in the dtype and on the device of `like`."""
    output = torch.arange(length, device=like.device, dtype=like.dtype) * stride - padding
    tap = torch.arange(taps, device=like.device, dtype=like.dtype) * dilation
    return tap[:, None] + output


def position_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of coordinates and sums that go with a tensor: float64 with float64, else float32."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def in_own_dtype(tensor: Tensor) -> AbstractContextManager[Any]:
    """A block that autocast keeps out of, on a tensor's device: sums stay in the dtype that was chosen for them."""
    return torch.autocast(tensor.device.type, enabled=False)


def offset_groups(offset: Tensor, kernel_size: Pair) -> int:
    """How many groups of input channels have offsets of their own.

    raises: ValueError where the offset's channels are no multiple of 2*kh*kw
    """
    per_group = 2 * kernel_size[0] * kernel_size[1]
    if offset.dim() != 4 or offset.shape[1] < per_group or offset.shape[1] % per_group:
        raise ValueError(
            f"offset is {list(offset.shape)} but has to be [N, channels, h, w] with a multiple of {per_group} channels "
            f"(y and x for each of the {kernel_size[0]}x{kernel_size[1]} taps, for each offset group)"
        )
    return offset.shape[1] // per_group
