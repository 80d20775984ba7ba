"""Deformable convolution, plain and modulated: the operator `seg::deform_conv2d`, its gradients, and the layer."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from seg.ops import dispatch, reference
from seg.ops.arguments import checked_size, refuse_tangents
from seg.ops.geometry import Pair, in_own_dtype, pair

library = torch.library.Library("seg", "DEF")
library.define(
    "deform_conv2d(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, "
    "int[2] stride, int[2] padding, int[2] dilation) -> Tensor"
)
library.define(
    "deform_conv2d_backward(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, "
    "int[2] stride, int[2] padding, int[2] dilation, bool[4] needed) -> (Tensor, Tensor, Tensor, Tensor)"
)


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Convolution that reads the map at shifted, fractional positions; torchvision's signature and layouts.

    input:   [N, C, H, W] float32, float64, bfloat16 or float16; sums and positions are float32 (float64 for float64)
    offset:  [N, 2*G*kh*kw, h, w] in cells of the input: group-major, then tap, then (y, x); added after dilation.
             In the input's dtype or float32; autocast leaves it as it is, for half precision moves the samples
    weight:  [O, C/groups, kh, kw]
    mask:    [N, G*kh*kw, h, w], a factor for each sample; None is 1. Dtype as for the offset
    returns: [N, O, h, w] in the input's dtype and memory format
    raises:  ValueError for arguments that do not fit each other, NotImplementedError in forward-mode differentiation
    source:  arXiv:1703.06211, equation 2; arXiv:1811.11168, equation 1 and its rule at the border
    """
    refuse_tangents(input, offset, weight, bias, mask)
    pairs = pair(stride, "stride"), pair(padding, "padding"), pair(dilation, "dilation")
    return torch.ops.seg.deform_conv2d(input, offset, weight, bias, mask, *pairs)


class DeformConv2d(nn.Module):
    """The layer around `deform_conv2d`: parameters, their names and their first values as torchvision's."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.kernel_size = pair(kernel_size, "kernel_size")
        for name, least in (
            ("kernel_size", min(self.kernel_size)), ("in_channels", in_channels), ("out_channels", out_channels)
        ):  # fmt: skip
            if least < 1:
                raise ValueError(f"{name}={least} has to be at least 1")
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups} has to divide in_channels={in_channels} and out_channels={out_channels}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.stride, self.padding = pair(stride, "stride"), pair(padding, "padding")
        self.dilation = pair(dilation, "dilation")
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws the parameters anew, as a plain convolution does."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.weight[0].numel())
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """The layer's output [N, O, h, w]; arguments as of `deform_conv2d`."""
        return deform_conv2d(input, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)

    def extra_repr(self) -> str:
        """What print shows of the layer."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )


@torch.library.impl(library, "deform_conv2d", "CompositeExplicitAutograd")
def forward(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """The operator's body."""
    checked_size(input, offset, weight, bias, mask, stride, padding, dilation)
    compiled = dispatch.kernels(input.device.type)
    if compiled is None:
        out = reference.deform_conv2d(input, offset, weight, bias, mask, stride, padding, dilation)
    else:
        options = dispatch.options(input.device.type)
        out = compiled.deform_conv2d.default(input, offset, weight, bias, mask, *stride, *padding, *dilation, **options)
    return out.contiguous(memory_format=layout(input))


@torch.library.impl(library, "deform_conv2d_backward", "CompositeExplicitAutograd")
def backward(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    needed: list[bool],
) -> reference.Gradients:
    """The body of the gradients' operator; what is not needed is an empty tensor."""
    compiled = dispatch.kernels(input.device.type)
    if compiled is None:
        with in_own_dtype(input):
            grads = reference.deform_conv2d_backward(
                grad, input, offset, weight, mask, stride, padding, dilation, needed
            )
    else:
        options = dispatch.options(input.device.type, backward=True)
        grads = compiled.deform_conv2d_backward.default(
            grad, input, offset, weight, mask, *stride, *padding, *dilation, *needed, **options
        )
    of_input, of_offset, of_weight, of_mask = grads
    nothing = input.new_empty
    return (
        of_input.contiguous(memory_format=layout(input)) if needed[0] else nothing(0),
        of_offset.to(offset.dtype).contiguous() if needed[1] else nothing(0, dtype=offset.dtype),
        of_weight.contiguous(memory_format=layout(weight)) if needed[2] else nothing(0),
        of_mask.to(mask.dtype).contiguous() if mask is not None and needed[3] else nothing(0),
    )


def layout(tensor: Tensor) -> torch.memory_format:
    """The memory format that results take from an argument."""
    plain = tensor.is_contiguous() or not tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if plain else torch.channels_last


@torch.library.register_fake("seg::deform_conv2d", lib=library)
def forward_shape(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    """An output without values, for tracing."""
    size = checked_size(input, offset, weight, bias, mask, stride, padding, dilation)
    return input.new_empty((input.shape[0], weight.shape[0], *size)).to(memory_format=layout(input))


@torch.library.register_fake("seg::deform_conv2d_backward", lib=library)
def backward_shape(
    grad: Tensor, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, *rest: Any
) -> reference.Gradients:
    """Gradients without values, for tracing."""
    needed = rest[-1]
    return (
        input.new_empty(input.shape).to(memory_format=layout(input)) if needed[0] else input.new_empty(0),
        offset.new_empty(offset.shape if needed[1] else 0),
        weight.new_empty(weight.shape).to(memory_format=layout(weight)) if needed[2] else weight.new_empty(0),
        mask.new_empty(mask.shape) if mask is not None and needed[3] else input.new_empty(0),
    )


def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keeps what the gradients need."""
    input, offset, weight, _, mask, *ctx.window = inputs
    ctx.save_for_backward(input, offset, weight, mask)


def differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the operator's arguments; those that nobody asked for are not computed."""
    input, offset, weight, mask = ctx.saved_tensors
    need_input, need_offset, need_weight, need_bias, need_mask = ctx.needs_input_grad[:5]
    needed = [need_input, need_offset, need_weight, need_mask]
    grads: list[Tensor | None] = [None] * 4
    if any(needed):
        made = torch.ops.seg.deform_conv2d_backward(grad, input, offset, weight, mask, *ctx.window, needed)
        grads = [g if need else None for g, need in zip(made, needed, strict=True)]
    of_bias = grad.sum((0, 2, 3)) if need_bias else None
    return grads[0], grads[1], grads[2], of_bias, grads[3], None, None, None


torch.library.register_autograd("seg::deform_conv2d", differentiate, setup_context=remember, lib=library)


def remember_twice(ctx: Any, inputs: tuple[Any, ...], output: reference.Gradients) -> None:
    """Keeps what the gradients' gradients need."""
    *tensors, stride, padding, dilation, needed = inputs
    ctx.rest = stride, padding, dilation, needed
    ctx.save_for_backward(*tensors)


def differentiate_twice(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the gradients, by differentiating the reference."""
    wanted = [i for i in range(5) if ctx.needs_input_grad[i]]
    with torch.enable_grad(), in_own_dtype(ctx.saved_tensors[0]):
        tensors = list(ctx.saved_tensors)
        for i in wanted:
            tensors[i] = tensors[i].view_as(tensors[i])  # a node of its own, else gradients through it would be added
        made = reference.deform_conv2d_backward(*tensors, *ctx.rest)
        needed = ctx.rest[-1]
        pairs = [(m, g) for m, g, need in zip(made, grads, needed, strict=True) if need and m.requires_grad]
        found = torch.autograd.grad(
            [m for m, _ in pairs],
            [tensors[i] for i in wanted],
            [g for _, g in pairs],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    out: list[Tensor | None] = [None] * 9
    for i, gradient in zip(wanted, found, strict=True):
        out[i] = gradient
    return tuple(out)


torch.library.register_autograd(
    "seg::deform_conv2d_backward", differentiate_twice, setup_context=remember_twice, lib=library
)


def autocast(device_type: str) -> None:
    """Registers what torch.autocast does: data go to its dtype, offset and mask stay, positions being float32."""
    key = f"Autocast{device_type.upper()}"
    keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def cast(
        input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *window: Pair
    ) -> Tensor:
        dtype = input.dtype if input.dtype == torch.float64 else torch.get_autocast_dtype(device_type)
        bias = None if bias is None else bias.to(dtype)
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return torch.ops.seg.deform_conv2d(input.to(dtype), offset, weight.to(dtype), bias, mask, *window)

    library.impl("deform_conv2d", cast, key)


for device_type in ("cpu", "cuda", "mps", "xpu"):
    autocast(device_type)


@register_flop_formula(torch.ops.seg.deform_conv2d)
def flops(input: Any, offset: Any, weight: Any, *rest: Any, out_shape: Any = None, **_: Any) -> int:
    """Multiplications and additions of the convolution, as torch counts a plain one; sampling is not counted."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


@register_flop_formula(torch.ops.seg.deform_conv2d_backward)
def backward_flops(grad: Any, input: Any, offset: Any, weight: Any, *rest: Any, **_: Any) -> int:
    """As `flops`: one product for the samples' gradient, one for the weight's, where they are needed."""
    need_input, need_offset, need_weight, need_mask = rest[-1]
    products = int(need_input or need_offset or need_mask) + int(need_weight)
    return products * 2 * math.prod(grad) * math.prod(weight[1:])
