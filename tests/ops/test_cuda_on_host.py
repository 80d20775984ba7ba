"""The CUDA kernels, run on the host thread by thread, against the reference in float64. No GPU is asked for.

What this can't show: that a GPU runs them, in whatever order its threads come, and how fast.
"""

import itertools
import math

import pytest
import torch

from seg.ops import reference
from seg.ops.confusion import reference_counts
from tests.ops import cuda_host

pytestmark = pytest.mark.timeout(900)  # the first test compiles, which takes minutes on a busy machine
# of the norm of what is expected; half precision rounds the samples and their gradients
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 1e-2}
FUSED = {torch.float32: 1e-3, torch.bfloat16: 1e-2, torch.float16: 1e-2}  # float32 as TF32


@pytest.fixture(scope="module")
def operators():
    """The operators, with kernels that run on the host."""
    return cuda_host.operators()


def error(found, expected):
    """The norm of the difference, as a share of the expected norm; infinite for no number, which max() hides."""
    difference = (found.double() - expected.double()).norm()
    share = float(difference / expected.double().norm().clamp(min=1e-3))
    return math.inf if math.isnan(share) else share


def arguments(case, dtype=None):
    """(input, offset, weight, bias, mask), detached."""
    tensors = (case.input, case.offset, case.weight, case.bias, case.mask)
    return [None if t is None else t.detach().to(dtype or t.dtype) for t in tensors]


def window(case):
    """Stride, padding and dilation as six numbers."""
    return [*case.stride, *case.padding, *case.dilation]


def forward_error(operators, case, **options):
    """Error of the forward against the reference in float64."""
    found = operators.deform_conv2d(*arguments(case), *window(case), **options)
    expected = reference.deform_conv2d(*arguments(case, torch.float64), case.stride, case.padding, case.dilation)
    assert found.shape == expected.shape
    assert found.dtype == case.input.dtype
    return error(found, expected)


def backward_errors(operators, case, **options):
    """Errors of all gradients against the reference in float64."""
    input, offset, weight, _, mask = arguments(case)
    shape = (input.shape[0], weight.shape[0], *offset.shape[2:])
    grad = torch.randint(-9, 10, shape, generator=torch.Generator().manual_seed(0)).to(input.dtype)
    needed = [True, True, True, mask is not None]
    found = operators.deform_conv2d_backward(grad, input, offset, weight, mask, *window(case), *needed, **options)
    wide = [None if t is None else t.double() for t in (grad, input, offset, weight, mask)]
    expected = reference.deform_conv2d_backward(*wide, case.stride, case.padding, case.dilation, needed)
    return [error(f.reshape(e.shape), e) for f, e, need in zip(found, expected, needed, strict=True) if need]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("seed", range(25))
def test_plain_values_and_gradients_are_the_references(seed, dtype, operators, draw):
    case = draw(seed, dtype=dtype, batch=(0, 1, 2, 3))
    assert forward_error(operators, case) <= TOLERANCE[dtype]
    for found in backward_errors(operators, case, deterministic=seed % 2 == 0):
        assert found <= TOLERANCE[dtype]


@pytest.mark.parametrize("seed", range(4))
def test_plain_path_reads_many_channels_at_once_and_one_by_one(seed, operators, draw):
    case = draw(seed, batch=(1, 2), sizes=(13, 17), channels=(16, 32, 40, 67))
    assert forward_error(operators, case) <= 1e-5
    assert max(backward_errors(operators, case)) <= 1e-5


@pytest.mark.parametrize("dtype", FUSED, ids=str)
@pytest.mark.parametrize("seed", range(6))
def test_fused_values_are_the_references(seed, dtype, operators, draw):
    case = draw(seed, dtype=dtype, batch=(1, 2, 3), sizes=(5, 7, 12), channels=(8, 16, 72, 136))
    assert forward_error(operators, case, fused=True, tf32=True) <= FUSED[dtype]


@pytest.mark.parametrize(
    "channels, outputs, groups, offset_groups, dtype",
    [
        (16, 24, 1, 1, torch.float32),
        (16, 24, 1, 1, torch.bfloat16),
        (16, 24, 1, 1, torch.float16),
        (144, 72, 1, 1, torch.bfloat16),  # two blocks of channels share an offset, two steps of outputs
        (32, 16, 2, 4, torch.bfloat16),
        (32, 32, 4, 2, torch.float32),
    ],
)
def test_fused_gradients_are_the_references(channels, outputs, groups, offset_groups, dtype, operators, draw):
    case = draw(0, dtype=dtype)
    made = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=made).to(dtype)

    case.input, case.weight = normal(2, channels, 5, 7), normal(outputs, channels // groups, 3, 2)
    case.offset, case.mask, case.bias = normal(2, 12 * offset_groups, 5, 6), normal(2, 6 * offset_groups, 5, 6), None
    case.stride, case.padding, case.dilation = (1, 1), (2, 1), (2, 3)
    found = backward_errors(operators, case, fused=True, tf32=True)
    assert max(found) <= FUSED[dtype]
    if dtype == torch.float32:
        assert min(found) > 1e-5  # TF32 it was
    assert max(backward_errors(operators, case, fused=True, deterministic=True)) <= TOLERANCE[dtype]


def weight_gradient(operators, case, **options):
    """Gradient of the weight alone, for a gradient of the output that TF32 has to round, and the reference's."""
    input, offset, weight, _, mask = arguments(case)
    shape = (input.shape[0], weight.shape[0], *offset.shape[2:])
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(input.dtype)
    needed = [False, False, True, False]
    found = operators.deform_conv2d_backward(grad, input, offset, weight, mask, *window(case), *needed, **options)[2]
    wide = [None if t is None else t.double() for t in (grad, input, offset, weight, mask)]
    return found, reference.deform_conv2d_backward(*wide, case.stride, case.padding, case.dilation, needed)[2]


@pytest.mark.parametrize("dtype", FUSED, ids=str)
@pytest.mark.parametrize(
    "channels, outputs, groups, offset_groups, size, kernel, masked",
    [
        (8, 8, 1, 1, (23, 31), (1, 2), True),  # one tile, whose steps are shared by all blocks
        (
            72,
            264,
            1,
            1,
            (3, 5),
            (2, 3),
            False,
        ),  # more tiles than blocks; two blocks of outputs, the second nearly empty
        (144, 136, 2, 2, (7, 11), (1, 2), True),  # chunks of channels that are not full
        (32, 16, 1, 4, (5, 17), (3, 1), False),
        (64, 32, 4, 1, (3, 3), (1, 1), True),
    ],
)
def test_fused_gradient_of_the_weight_is_the_references(
    channels, outputs, groups, offset_groups, size, kernel, masked, dtype, operators, draw
):
    case, taps = draw(0, dtype=dtype), kernel[0] * kernel[1]
    made = torch.Generator().manual_seed(1)
    case.input = torch.randn(2, channels, *size, generator=made).to(dtype)
    case.weight = torch.zeros(outputs, channels // groups, *kernel, dtype=dtype)
    case.offset = torch.randn(2, 2 * taps * offset_groups, *size, generator=made)
    case.mask = torch.randn(2, taps * offset_groups, *size, generator=made) if masked else None
    case.stride, case.padding, case.dilation = (1, 1), (kernel[0] - 1, kernel[1] - 1), (2, 2)
    found, expected = weight_gradient(operators, case, fused=True, tf32=True)
    assert error(found, expected) <= FUSED[dtype]
    with cuda_host.backwards():
        again, _ = weight_gradient(operators, case, fused=True, tf32=True, deterministic=True)
    assert torch.equal(again, found)
    if dtype == torch.float32:
        assert error(found, expected) > 1e-5  # TF32 it was


@pytest.mark.parametrize("multiprocessors, shared_kib", [(1, 227), (3, 99), (132, 163)])
def test_any_device_gives_the_references(multiprocessors, shared_kib, operators, draw):
    case = draw(0, dtype=torch.bfloat16)
    made = torch.Generator().manual_seed(2)
    case.input = torch.randn(1, 72, 9, 13, generator=made).bfloat16()
    case.weight = torch.randn(136, 72, 2, 1, generator=made).bfloat16()
    case.offset = torch.randn(1, 4, 10, 13, generator=made)
    case.mask = case.bias = None
    case.stride, case.padding, case.dilation = (1, 1), (1, 0), (1, 1)
    with cuda_host.device(multiprocessors, shared_kib << 10):
        assert forward_error(operators, case, fused=True) <= 1e-2
        assert max(backward_errors(operators, case, fused=True)) <= 1e-2


def test_a_gpu_before_sm_80_takes_the_plain_path(operators, draw):
    case = draw(1, batch=(1,), sizes=(9, 12), channels=(16,))
    with cuda_host.device(major=7):
        assert forward_error(operators, case, fused=True, tf32=True) <= 1e-6
        assert max(backward_errors(operators, case, fused=True, tf32=True)) <= 1e-5


@pytest.mark.parametrize("dtype", FUSED, ids=str)
def test_threads_may_come_in_any_order(dtype, operators, draw):
    case = draw(3, dtype=dtype, batch=(2,), sizes=(9, 12), channels=(16,))
    grad = torch.ones(2, case.weight.shape[0], *case.offset.shape[2:], dtype=dtype)

    def run(fused):
        input, offset, weight, bias, mask = arguments(case)
        needed = [True, True, True, mask is not None]
        out = operators.deform_conv2d(input, offset, weight, bias, mask, *window(case), fused=fused, tf32=True)
        return out, *operators.deform_conv2d_backward(
            grad, input, offset, weight, mask, *window(case), *needed, fused=fused, tf32=True
        )

    for fused in (False, True):
        found = run(fused)
        with cuda_host.backwards():
            again = run(fused)
        for i, (one, other) in enumerate(zip(found, again, strict=True)):
            if i == 1:  # the input's gradient is a sum in any order
                assert error(one, other) <= (1e-6 if dtype == torch.float32 else 1e-3)
            else:
                assert torch.equal(one, other)


def test_float32_is_rounded_to_tf32_only_on_the_fused_path_and_where_allowed(operators, draw):
    case = draw(1, batch=(1,), sizes=(9, 12), channels=(16, 72))
    assert forward_error(operators, case, fused=True, tf32=False) <= 1e-6
    assert forward_error(operators, case, fused=False, tf32=True) <= 1e-6
    assert 1e-5 < forward_error(operators, case, fused=True, tf32=True) <= 1e-3


@pytest.mark.parametrize("fused", [False, True])
def test_positions_that_are_no_numbers_or_far_outside_are_the_references(fused, operators, draw):
    case = draw(1, dtype=torch.bfloat16, batch=(2,), sizes=(9, 12), channels=(16,))
    values = torch.tensor([math.nan, math.inf, -math.inf, 1e30, -1e30, 3e9, -3e9, -1.0, 0.0])
    offset = case.offset.detach().float().contiguous()
    offset.view(-1)[: 9 * 11 : 11] = values
    input, _, weight, bias, mask = arguments(case)
    found = operators.deform_conv2d(input, offset, weight, bias, mask, *window(case), fused=fused)
    input, _, weight, bias, mask = arguments(case, torch.float64)
    expected = reference.deform_conv2d(
        input, offset.double(), weight, bias, mask, case.stride, case.padding, case.dilation
    )
    assert expected.isnan().any()
    assert torch.equal(found.isnan(), expected.isnan())
    assert error(found.nan_to_num(), expected.nan_to_num()) <= 1e-2


def test_numbers_of_cells_and_labels_are_counted_as_by_bincount(operators):
    label, prediction = torch.randint(0, 5, (3, 7, 11)), torch.randint(0, 7, (3, 7, 11))
    label[0, 0] = 255
    for dtypes in itertools.product((torch.uint8, torch.int64), repeat=2):
        counts = operators.confusion(label.to(dtypes[0]), prediction.to(dtypes[1]), 5, 255)
        assert torch.equal(counts[:-1].view(5, 6), reference_counts(prediction, label, 5, 255))
        assert counts[-1] == 0
    assert operators.confusion(label, prediction, 4, 255)[-1] == (label == 4).sum()
    many = torch.randint(0, 200, (2, 64, 64))  # more counters than shared memory holds
    assert torch.equal(
        operators.confusion(many, many, 200, 255)[:-1].view(200, 201), reference_counts(many, many, 200, 255)
    )
