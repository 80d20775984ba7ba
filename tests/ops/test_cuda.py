"""The deformable convolution on a GPU, on both paths. Skipped where there is none."""

import pytest
import torch
from torch.nn import functional as F

from seg.ops import backend, deform_conv2d, deform_roi_pool, reference
from seg.ops.confusion import confusion_counts, reference_counts
from seg.ops.roi_geometry import Pooling, bins

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
    pytest.mark.timeout(900),  # the first test builds the library
]
WINDOW = ((1, 1), (2, 2), (2, 2))
# of the norm of what is expected
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 1e-2}


@pytest.fixture(params=["plain", "fused"], autouse=True)
def path(request, monkeypatch):
    """Runs a test on both paths of the compiled kernels, which nothing excuses where there is a GPU."""
    monkeypatch.setenv("SEG_KERNELS", "require")
    monkeypatch.setenv("SEG_CUDA_PATH", request.param)
    return request.param


@pytest.fixture
def tf32():
    """Allows TF32 for the time of a test."""
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


def layer(
    *, batch=1, channels=64, outputs=96, size=(19, 23), groups=1, offset_groups=1, dtype=torch.float32, masked=True
):
    """The tensors of a 3x3 layer on the GPU, with gradients; `size` stays through WINDOW."""
    made = torch.Generator("cuda").manual_seed(0)

    def normal(*shape, scale=1.0):
        drawn = torch.randn(*shape, device="cuda", generator=made) * scale
        return drawn.to(dtype).requires_grad_()

    # with few bits after the point, or float32 rounds some positions into the next cell, where float64 does not
    offset = (normal(batch, 18 * offset_groups, *size, scale=2.0).detach() * 1024).round().div(1024).requires_grad_()
    mask = normal(batch, 9 * offset_groups, *size) if masked else None
    weight = normal(outputs, channels // groups, 3, 3, scale=(9 * channels / groups) ** -0.5)
    return [normal(batch, channels, *size), offset, weight, normal(outputs), mask]


def run(tensors, window=WINDOW):
    """Our output."""
    *first, mask = tensors
    return deform_conv2d(*first, *window, mask)


def expected(tensors, window=WINDOW):
    """The reference's output in float64, on the CPU."""
    return reference.deform_conv2d(*(None if t is None else t.detach().cpu().double() for t in tensors), *window)


def error(found, wanted):
    """The norm of the difference, as a share of the wanted norm."""
    difference = (found.detach().cpu().double() - wanted.detach().cpu().double()).norm()
    return float(difference / wanted.detach().cpu().double().norm().clamp(min=1e-3))


def gradients(tensors, function=run, window=WINDOW):
    """Gradients of all tensors that are there, for a gradient of whole numbers."""
    out = function(tensors, window)
    drawn = torch.randint(-9, 10, out.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad(out, [t for t in tensors if t is not None], drawn.to(out))


def wide_gradients(tensors, window=WINDOW):
    """The same by the reference in float64, on the CPU."""
    wide = [None if t is None else t.detach().cpu().double().requires_grad_() for t in tensors]
    return gradients(wide, lambda given, window: reference.deform_conv2d(*given, *window), window)


def test_the_library_is_built_and_loaded():
    assert backend("cuda") == "compiled"


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("seed", range(24))
def test_random_cases_are_the_references(seed, dtype, draw):
    case = draw(seed, dtype=dtype)
    tensors = [case.input, case.offset, case.weight, case.bias, case.mask]
    tensors = [None if t is None else t.detach().cuda().requires_grad_() for t in tensors]
    window = case.stride, case.padding, case.dilation
    assert error(run(tensors, window), expected(tensors, window)) <= TOLERANCE[dtype]
    for found, wanted in zip(gradients(tensors, window=window), wide_gradients(tensors, window), strict=True):
        assert error(found, wanted) <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"batch": 3, "channels": 128, "outputs": 200, "size": (33, 33)},
        {"channels": 512, "outputs": 512, "size": (23, 31)},  # the sum is split
        {"channels": 128, "offset_groups": 4, "masked": False},
        {"channels": 256, "outputs": 64, "groups": 4},
        {"channels": 96, "outputs": 6, "groups": 2, "offset_groups": 4},
        {"channels": 72, "outputs": 33, "size": (5, 131)},
    ],
)
def test_layers_are_the_references(sizes, dtype):
    tensors = layer(dtype=dtype, **sizes)
    assert error(run(tensors), expected(tensors)) <= TOLERANCE[dtype]
    for found, wanted in zip(gradients(tensors), wide_gradients(tensors), strict=True):
        assert error(found, wanted) <= TOLERANCE[dtype]


def test_tf32_stays_within_a_thousandth(tf32):
    tensors = layer(channels=256, outputs=256)
    assert error(run(tensors), expected(tensors)) <= 1e-3
    for found, wanted in zip(gradients(tensors), wide_gradients(tensors), strict=True):
        assert error(found, wanted) <= 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_as_exact_on_a_wide_map(dtype):
    tensors = layer(batch=1, channels=16, outputs=16, size=(3, 2048), dtype=dtype)
    tensors[1] = tensors[1].detach().float().requires_grad_()
    assert error(run(tensors), expected(tensors)) <= 5e-3


def test_values_are_those_of_the_cpus_kernels():
    tensors = layer(channels=128, outputs=128)
    on_cpu = [None if t is None else t.detach().cpu() for t in tensors]
    assert error(run(tensors), run(on_cpu)) <= 1e-5


def test_zero_offset_and_no_mask_is_a_convolution():
    input, offset, weight, bias, _ = layer(dtype=torch.float64)
    found = run([input, torch.zeros_like(offset), weight, bias, None])
    assert error(found, F.conv2d(input, weight, bias, *WINDOW)) <= 1e-12


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "permuted", "strided", "expanded"])
def test_any_layout_gives_the_same(layout, layouts):
    tensors = layer(batch=2)
    laid = [t if t.dim() != 4 else layouts[layout](t.detach()) for t in tensors]
    assert error(run(laid), expected(laid)) <= 1e-5


def test_outputs_are_written_everywhere(deterministic):
    tensors = layer(batch=2, dtype=torch.bfloat16)  # new tensors are NaN under deterministic algorithms
    assert run(tensors).isfinite().all()
    assert all(g.isfinite().all() for g in gradients(tensors))


@pytest.mark.fault(17)
def test_fault_17_deterministic_algorithms_give_the_same_bits(deterministic):
    tensors = layer(batch=2)
    first = gradients(tensors)
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(tensors), strict=True))


@pytest.mark.fault(4)
def test_fault_04_no_number_reaches_only_the_pixel_that_reads_it():
    tensors = layer(masked=False)
    tensors[1] = tensors[1].detach().clone()
    tensors[1][0, 0, 3, 4] = torch.nan
    out = run(tensors)
    assert out[0, :, 3, 4].isnan().all()
    assert out.isnan().sum() == out.shape[1]


@pytest.mark.fault(5)
@pytest.mark.parametrize("far", [float("inf"), -float("inf"), 1e30, -1e30, 3e9, -3e9])
def test_fault_05_far_offsets_read_zero(far):
    input, offset, weight, _, _ = layer(masked=False)
    far_away = [input, torch.full_like(offset, far).requires_grad_(), weight, None, None]
    assert not run(far_away).any()
    assert all(g.isfinite().all() for g in gradients(far_away))


@pytest.mark.fault(19)
def test_fault_19_work_goes_to_the_current_stream():
    tensors = layer(channels=256, outputs=256, size=(64, 64))
    wanted = run(tensors)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # the input is made late, on this stream
        late = [None if t is None else t.detach().clone() for t in tensors]
        found = run(late)
    stream.synchronize()
    assert error(found, wanted) <= 1e-6


@pytest.mark.fault(19)
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_fault_19_work_goes_to_the_tensors_device():
    tensors = [None if t is None else t.detach().to("cuda:1").requires_grad_() for t in layer()]
    assert torch.cuda.current_device() == 0
    assert run(tensors).device == torch.device("cuda:1")
    assert error(run(tensors), expected(tensors)) <= 1e-5
    assert torch.cuda.current_device() == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own tensors
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_opcheck_passes(dtype):
    tensors = layer(size=(5, 6), channels=8, outputs=8, dtype=dtype)
    torch.library.opcheck(torch.ops.seg.deform_conv2d.default, (*tensors, *WINDOW))


def test_autocast_computes_in_half_precision():
    tensors = layer(channels=128, outputs=128)
    with torch.autocast("cuda", torch.bfloat16):
        out = run(tensors)
    assert out.dtype == torch.bfloat16
    assert error(out, expected(tensors)) <= 1e-2


def test_a_cityscapes_batch_needs_no_column_buffer(path):
    tensors = layer(batch=8, channels=256, outputs=256, size=(64, 128), dtype=torch.bfloat16)
    run(tensors)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = run(tensors)
    extra = torch.cuda.max_memory_allocated() - before - out.nbytes
    columns = 9 * 256 * 8 * 64 * 128 * 2
    assert extra < columns / 2


def test_a_training_step_needs_no_column_buffer():
    tensors = layer(batch=8, channels=256, outputs=256, size=(64, 128), dtype=torch.bfloat16)
    gradients(tensors)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    made = gradients(tensors)
    extra = torch.cuda.max_memory_allocated() - before - sum(g.nbytes for g in made)
    assert extra < 9 * 256 * 8 * 64 * 128 * 2


def test_a_large_image_is_the_references():
    tensors = layer(batch=1, channels=8, outputs=8, size=(1024, 2048))
    on_gpu = [t.detach().double() for t in tensors]
    assert error(run(tensors), reference.deform_conv2d(*on_gpu, *WINDOW)) <= 1e-5


@pytest.mark.fault(13)
@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
def test_fault_13_more_than_2_31_elements(dtype):
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("the GPU has less than 40 GiB free")
    size, channels = (2048, 2049), 512  # 2.1e9 elements
    input = torch.randn(1, channels, *size, device="cuda", dtype=dtype)
    assert input.numel() > 2**31
    offset = torch.randn(1, 2, *size, device="cuda")
    weight = torch.randn(8, channels, 1, 1, device="cuda", dtype=dtype) * channels**-0.5
    out = deform_conv2d(input, offset, weight)
    corner = (slice(None), slice(None), slice(-24, None), slice(-24, None))
    near = reference.deform_conv2d(
        input[corner].cpu().double(),
        offset[corner].cpu().double(),
        weight.cpu().double(),
        None,
        None,
        (1, 1),
        (0, 0),
        (1, 1),
    )
    inner = (slice(None), slice(None), slice(8, None), slice(8, None))  # whose samples lie in the corner
    assert error(out[corner][inner], near[inner]) <= 1e-2


def test_numbers_of_pixels_are_counted_as_by_bincount():
    label, prediction = (torch.randint(0, 19, (1024, 2048), device="cuda") for _ in range(2))
    label[:100] = 255
    assert torch.equal(confusion_counts(prediction, label, 19, 255), reference_counts(prediction, label, 19, 255))


def test_a_label_that_is_no_class_is_named():
    label = torch.full((4, 4), 21, device="cuda")
    with pytest.raises(ValueError, match="21"):
        confusion_counts(label, label, 21, 255)


@pytest.mark.parametrize("mode", ["paper", "cells", "release", "mmcv"])
@pytest.mark.parametrize("count", [3, 7, 13])
def test_bins_of_boxes_are_those_of_the_cpu(mode, count):
    sides = torch.arange(1.0, 300.0)
    rois = torch.stack([torch.zeros_like(sides), *[torch.full_like(sides, 3.0)] * 2, 3 + sides, 3 + sides.flip(0)], 1)
    pooling = Pooling(mode, (count, count), 1.0, 0, 0.1)
    found, expected = (bins(boxes, None, (400, 400), pooling, torch.float32) for boxes in (rois.cuda(), rois))
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("mode", ["paper", "release", "mmcv"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_pooling_is_that_of_the_cpu(mode, dtype):
    made = torch.Generator().manual_seed(0)
    rois = torch.rand(40, 5, generator=made, dtype=dtype) * 300
    rois[:, 0], rois[:, 3:] = torch.arange(40) % 2, rois[:, 1:3] + rois[:, 3:]
    tensors = [torch.randn(*shape, generator=made, dtype=dtype) for shape in ((2, 24, 31, 37), (40, 2, 7, 7))]
    mask = torch.rand(40, 1, 7, 7, generator=made, dtype=dtype)
    results = []
    for device in ("cuda", "cpu"):
        given = [t.to(device).requires_grad_() for t in (*tensors, mask)]
        out = deform_roi_pool(given[0], rois.to(device), given[1], 7, 1 / 16, mask=given[2], mode=mode)
        results.append((out, *torch.autograd.grad(out.square().sum(), given)))
    assert all(error(a, b) <= TOLERANCE[dtype] for a, b in zip(*results, strict=True))
