"""What torch asks of an operator: gradient checks, shapes for tracing, compilation, autocast, FLOPs, determinism."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from seg.ops import deform_conv2d, reference

FORWARD, BACKWARD = torch.ops.seg.deform_conv2d, torch.ops.seg.deform_conv2d_backward
WINDOW = ([2, 1], [1, 0], [1, 2])


def small(dtype=torch.float32, mask=True, bias=True, position_dtype=None, size=(5, 6)):
    """Asymmetric and small: 2 weight groups, 3 offset groups, a 3x2 kernel, stride (2, 1)."""
    torch.manual_seed(0)
    h, w = (size[0] - 1) // 2 + 1, size[1] - 2
    position_dtype = position_dtype or dtype

    def normal(*shape, dtype=dtype):
        return torch.randn(*shape).to(dtype).requires_grad_()

    return (
        normal(2, 6, *size),
        normal(2, 36, h, w, dtype=position_dtype),
        normal(4, 3, 3, 2),
        normal(4) if bias else None,
        normal(2, 18, h, w, dtype=position_dtype) if mask else None,
    )


def call(input, offset, weight, bias, mask):
    """The public function on such arguments."""
    return deform_conv2d(input, offset, weight, bias, *map(tuple, WINDOW), mask)


COMBINATIONS = list(itertools.product([True, False], [True, False]))


@pytest.mark.usefixtures("body")
@pytest.mark.fault(15)
@pytest.mark.parametrize("mask, bias", COMBINATIONS)
def test_fault_15_gradcheck_of_all_arguments_with_groups_and_offset_groups(mask, bias, body):
    tensors, fast = small(torch.float64, mask, bias), body == "reference" or not mask
    assert torch.autograd.gradcheck(lambda *t: FORWARD(*t, *WINDOW), tensors, fast_mode=fast)


@pytest.mark.usefixtures("body")
@pytest.mark.fault(16)
def test_fault_16_double_backward_agrees_with_finite_differences():
    assert torch.autograd.gradgradcheck(lambda *t: FORWARD(*t, *WINDOW), small(torch.float64), fast_mode=True)


@pytest.mark.usefixtures("body")
@pytest.mark.fault(18)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("mask, bias", COMBINATIONS)
@pytest.mark.parametrize(
    "dtype, position_dtype",
    [
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_fault_18_opcheck_of_both_operators(dtype, position_dtype, mask, bias):
    tensors = small(dtype, mask, bias, position_dtype)
    torch.library.opcheck(FORWARD, (*tensors, *WINDOW))
    # without gradients of the gradients: tracing those for symbolic sizes passes too, but takes minutes
    input, offset, weight, _, factor = (None if t is None else t.detach() for t in tensors)
    grad = torch.randn_like(FORWARD(input, offset, weight, None, factor, *WINDOW))
    needed = [True, bias, True, mask]  # `bias` only varies what is asked for here
    torch.library.opcheck(BACKWARD, (grad, input, offset, weight, factor, *WINDOW, needed))


@pytest.mark.usefixtures("body")
@pytest.mark.fault(18)
def test_fault_18_compiles_as_one_graph_for_any_size(relative_error):
    def layer(input, offset, weight, bias, mask):
        return call(input * 2, offset, weight, bias, mask.sigmoid()).relu()

    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((5, 6), (9, 7), (6, 12)):
        tensors = small(size=size)
        found, expected = compiled(*tensors), layer(*tensors)
        assert relative_error(found, expected) <= 1e-6
        grad = torch.ones_like(expected)
        for a, b in zip(
            torch.autograd.grad(found, tensors, grad), torch.autograd.grad(expected, tensors, grad), strict=True
        ):
            assert relative_error(a, b) <= 1e-6


@pytest.mark.usefixtures("body")
@pytest.mark.fault(18)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_fault_18_vmap_gives_each_element_what_it_gets_alone(relative_error):
    input, offset, weight, bias, mask = (t.detach() for t in small())
    inputs, offsets = torch.stack([input, input + 1]), torch.stack([offset, offset / 2])
    out = torch.vmap(lambda x, o: FORWARD(x, o, weight, bias, mask, *WINDOW))(inputs, offsets)
    for found, x, o in zip(out, inputs, offsets, strict=True):
        assert relative_error(found, FORWARD(x, o, weight, bias, mask, *WINDOW)) <= 1e-6


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # torch's own, for forward mode
@pytest.mark.parametrize("argument", range(5))
@pytest.mark.parametrize("needs_grad", [False, True])
def test_forward_mode_is_refused_in_place_of_a_derivative_of_zero(argument, needs_grad):
    tensors = [t.detach() for t in small()]
    primal = tensors[argument].requires_grad_(needs_grad)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=r"autograd\.functional\.jvp works"):
        call(*tensors[:argument], forward_ad.make_dual(primal, torch.ones_like(primal)), *tensors[argument + 1 :])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
def test_forward_mode_of_functions_is_refused_and_other_tensors_pass():
    x, *rest = (t.detach() for t in small())
    for jvp in (torch.func.jvp, torch.compile(torch.func.jvp, backend="aot_eager")):
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            jvp(lambda x: call(x * 2, *rest), (x,), (torch.ones_like(x),))
    value, slope = torch.func.jvp(lambda y: y * call(x, *rest).sum(), (torch.ones(()),), (torch.ones(()),))
    assert value == slope == call(x, *rest).sum()


@pytest.mark.usefixtures("body")
def test_the_way_out_of_forward_mode_agrees_with_finite_differences(relative_error):
    x, *rest = (t.detach() for t in small(torch.float64))
    direction = torch.randn_like(x)
    _, slope = torch.autograd.functional.jvp(lambda x: call(x, *rest), x, direction)
    assert relative_error(slope, call(x + direction, *rest) - call(x, *rest)) < 1e-12  # linear in the input


@pytest.mark.usefixtures("body")
@pytest.mark.fault(12)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fault_12_autocast_computes_data_in_half_and_positions_in_full_precision(dtype, relative_error):
    tensors = small()
    input, offset, weight, bias, mask = tensors
    with torch.autocast("cpu", dtype):
        found = FORWARD(*tensors, *WINDOW)
    assert found.dtype == dtype
    with torch.no_grad():
        expected = FORWARD(input.to(dtype), offset, weight.to(dtype), bias.to(dtype), mask, *WINDOW)
    assert torch.equal(found, expected)
    gradients = torch.autograd.grad(found.float().sum(), tensors)
    assert {g.dtype for g in gradients} == {torch.float32}


@pytest.mark.usefixtures("body")
def test_autocast_around_the_gradients_changes_nothing_in_them():
    tensors = small()
    out = FORWARD(*tensors, *WINDOW)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad(out, tensors, grad, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(out, tensors, grad)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.usefixtures("body")
def test_autocast_leaves_float64_alone():
    with torch.autocast("cpu", torch.bfloat16):
        assert FORWARD(*small(torch.float64), *WINDOW).dtype == torch.float64


@pytest.mark.parametrize("device_type", ["CPU", "CUDA", "MPS", "XPU"])
def test_autocast_is_registered_for_every_device_that_has_it(device_type):
    assert torch._C._dispatch_has_kernel_for_dispatch_key("seg::deform_conv2d", f"Autocast{device_type}")


@pytest.mark.usefixtures("body")
@pytest.mark.fault(17)
def test_fault_17_two_runs_give_the_same_bits_for_any_number_of_threads(body):
    torch.manual_seed(0)
    arguments = [torch.randn(*s).requires_grad_() for s in ((2, 40, 19, 23), (2, 18, 19, 23), (24, 40, 3, 3))]
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            out = deform_conv2d(*arguments, padding=1)
            runs.append((out, *torch.autograd.grad(out.square().sum(), arguments)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(runs[2], runs[3], strict=True))
    if body == "compiled":
        assert all(torch.equal(a, b) for run in runs for a, b in zip(runs[0], run, strict=True))


@pytest.mark.usefixtures("body")
@pytest.mark.fault(20)
@pytest.mark.parametrize("asked", [(0,), (1,), (2,), (3,), (4,), (0, 2), (1, 4)])
def test_fault_20_gradients_that_nobody_asked_for_are_not_computed(asked, monkeypatch, relative_error):
    tensors = small()
    everything = torch.autograd.grad(FORWARD(*tensors, *WINDOW).sum(), tensors)
    chosen = [t.detach().requires_grad_(i in asked) for i, t in enumerate(tensors)]
    out = FORWARD(*chosen, *WINDOW)
    with torch.profiler.profile() as profile:
        found = torch.autograd.grad(out.sum(), [chosen[i] for i in asked])
    for i, gradient in zip(asked, found, strict=True):
        assert relative_error(gradient, everything[i]) <= 1e-6
    ran = {event.key for event in profile.key_averages()}
    assert ("seg::deform_conv2d_backward" in ran) == (asked != (3,))


@pytest.mark.usefixtures("body")
@pytest.mark.fault(20)
@pytest.mark.parametrize("needed", [i for i in itertools.product([True, False], repeat=4)])
def test_fault_20_what_is_not_needed_is_an_empty_tensor(needed):
    input, offset, weight, _, mask = (t.detach() for t in small())
    grad = torch.randn_like(FORWARD(input, offset, weight, None, mask, *WINDOW))
    made = BACKWARD(grad, input, offset, weight, mask, *WINDOW, list(needed))
    for gradient, tensor, need in zip(made, (input, offset, weight, mask), needed, strict=True):
        assert gradient.shape == (tensor.shape if need else (0,))


def test_flops_are_those_of_the_convolution():
    tensors = small()
    with FlopCounterMode(display=False) as forward:
        out = FORWARD(*tensors, *WINDOW)
    once = 2 * out.numel() * 3 * 3 * 2
    assert forward.get_total_flops() == once
    with FlopCounterMode(display=False) as backward:
        torch.autograd.grad(out.sum(), tensors)
    assert backward.get_total_flops() == 2 * once


def test_meta_tensors_have_shapes_alone():
    meta = [t.detach().to("meta") for t in small()]
    assert FORWARD(*meta, *WINDOW).shape == FORWARD(*small(), *WINDOW).shape


def test_reference_agrees_with_its_own_autograd(relative_error):
    tensors = small(torch.float64)
    grad = torch.randn(2, 4, 3, 4, dtype=torch.float64)
    out = reference.deform_conv2d(*tensors, *WINDOW)
    input, offset, weight, _, mask = tensors
    expected = torch.autograd.grad(out, (input, offset, weight, mask), grad)
    found = reference.deform_conv2d_backward(grad, input, offset, weight, mask, *WINDOW, [True] * 4)
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < 1e-12


@pytest.mark.fault(19)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fault_19_runs_on_the_current_stream_and_on_the_last_device(relative_error):
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    expected = FORWARD(*small(), *WINDOW)
    moved = [t.detach().to(device) for t in small()]
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        found = FORWARD(*moved, *WINDOW)
    stream.synchronize()
    assert found.device == device
    assert relative_error(found.cpu(), expected) <= 1e-5
