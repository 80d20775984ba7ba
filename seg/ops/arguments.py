"""What a deformable convolution accepts; everything else is a ValueError that names argument, value and expectation."""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seg.ops.geometry import Pair, offset_groups, output_size, position_dtype

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def checked_size(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Pair:
    """Rows and columns of the output, after a check of all arguments against each other.

    raises: ValueError for what does not fit
    """
    check_kinds(input, offset, weight, bias, mask)
    check_channels(input, weight, bias)
    kernel_size = (weight.shape[2], weight.shape[3])
    size = output_size((input.shape[2], input.shape[3]), kernel_size, stride, padding, dilation)
    groups = offset_groups(offset, kernel_size)
    if input.shape[1] % groups:
        raise ValueError(f"offset has {groups} groups, which do not divide the input's {input.shape[1]} channels")
    check_map("offset", offset, (input.shape[0], 2 * groups * kernel_size[0] * kernel_size[1], *size))
    if mask is not None:
        check_map("mask", mask, (input.shape[0], groups * kernel_size[0] * kernel_size[1], *size))
    return size


def check_kinds(input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None) -> None:
    """Dtypes and devices: data share one dtype; offset and mask share it too or have that of coordinates."""
    if input.dtype not in FLOATS:
        raise ValueError(f"input is {input.dtype}; it has to be one of {', '.join(map(str, FLOATS))}")
    for name, tensor in (("offset", offset), ("weight", weight), ("bias", bias), ("mask", mask)):
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device} but input is on {input.device}; move them to one device")
        allowed = {input.dtype} if name in ("weight", "bias") else {input.dtype, position_dtype(input)}
        if tensor.dtype not in allowed:
            raise ValueError(
                f"{name} is {tensor.dtype} but has to be {' or '.join(sorted(map(str, allowed)))} with an input of "
                f"{input.dtype}; convert it, or run under torch.autocast"
            )


def check_channels(input: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Input, weight and bias: dimensions, channels, groups."""
    for name, tensor, layout in (("input", input, "[N, C, H, W]"), ("weight", weight, "[O, C/groups, kh, kw]")):
        if tensor.dim() != 4:
            raise ValueError(f"{name} is {list(tensor.shape)} but has to be {layout}")
    channels, outputs, taken = input.shape[1], weight.shape[0], weight.shape[1]
    if channels < 1 or taken < 1 or channels % taken:
        raise ValueError(
            f"weight takes {taken} channels per group, which do not divide the input's {channels}; weight is "
            "[O, C/groups, kh, kw]"
        )
    if outputs < 1 or outputs % (channels // taken):
        raise ValueError(f"weight has {outputs} outputs, which its {channels // taken} groups do not divide")
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != outputs):
        raise ValueError(f"bias is {list(bias.shape)} but has to be [{outputs}], one for each output of the weight")


def check_map(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """The shape of offset or mask, whose rows and columns are those of the output."""
    if tensor.dim() != 4 or any(a != b for a, b in zip(tensor.shape, expected, strict=True)):
        raise ValueError(
            f"{name} is {list(tensor.shape)} but has to be {list(expected)}, with the rows and columns of the output; "
            "was it computed with the same kernel size, stride, padding and dilation?"
        )


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Raises NotImplementedError in forward-mode differentiation, where torch would take the derivative for zero."""
    if any(tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors):
        raise NotImplementedError(
            "there is no forward-mode derivative (torch.func.jvp, torch.autograd.forward_ad) of this operator; "
            "torch.autograd.functional.jvp works, in reverse mode"
        )
