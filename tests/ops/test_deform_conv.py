"""The deformable convolution against torchvision's, a loop, a plain convolution, and by hand."""

import itertools
import math
import threading

import pytest
import torch
import torchvision
from torch.nn import functional as F

from seg.analysis.timing import extra_memory
from seg.ops import DeformConv2d, deform_conv2d

pytestmark = pytest.mark.usefixtures("body")
TORCHVISION = torchvision.ops.deform_conv2d


def by_loops(case):
    """The definition, one sample at a time: a map inside a ring of zeros, weighted by the distance to four cells."""
    x, offset, weight = case.input, case.offset, case.weight
    taps = list(itertools.product(range(weight.shape[2]), range(weight.shape[3])))
    offset_groups = offset.shape[1] // (2 * len(taps))
    taken, made = weight.shape[1], weight.shape[0] // (x.shape[1] // weight.shape[1])
    out = torch.zeros(x.shape[0], weight.shape[0], *offset.shape[2:], dtype=x.dtype)
    for n, o, row, column in itertools.product(*map(range, out.shape)):
        for c, (k, (i, j)) in itertools.product(range(taken), enumerate(taps)):
            channel = o // made * taken + c
            group = channel // (x.shape[1] // offset_groups)
            dy, dx = offset[n, 2 * (group * len(taps) + k) :, row, column][:2].tolist()
            y = row * case.stride[0] - case.padding[0] + i * case.dilation[0] + dy
            z = column * case.stride[1] - case.padding[1] + j * case.dilation[1] + dx
            value = 0.0
            for cell_y, cell_x in itertools.product(
                range(math.floor(y), math.floor(y) + 2), range(math.floor(z), math.floor(z) + 2)
            ):
                if 0 <= cell_y < x.shape[2] and 0 <= cell_x < x.shape[3]:
                    value += (1 - abs(y - cell_y)) * (1 - abs(z - cell_x)) * x[n, channel, cell_y, cell_x].item()
            factor = 1.0 if case.mask is None else case.mask[n, group * len(taps) + k, row, column].item()
            out[n, o, row, column] += weight[o, c, i, j].item() * value * factor
    return out if case.bias is None else out + case.bias[:, None, None]


@pytest.mark.parametrize("seed", range(240))
def test_values_and_all_gradients_are_torchvisions(seed, draw, relative_error):
    case = draw(seed)
    assert relative_error(case.run(deform_conv2d), case.run(TORCHVISION)) <= 1e-5
    for found, expected in zip(case.gradients(deform_conv2d), case.gradients(TORCHVISION), strict=True):
        assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("seed", range(6))
def test_many_channels_and_pixels_are_torchvisions(seed, draw, relative_error):
    case = draw(seed, batch=(1, 2), sizes=(13, 17, 24), channels=(67, 131, 160))
    assert relative_error(case.run(deform_conv2d), case.run(TORCHVISION)) <= 1e-5
    for found, expected in zip(case.gradients(deform_conv2d), case.gradients(TORCHVISION), strict=True):
        assert relative_error(found, expected) <= 1e-5


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_of_the_definition_in_loops(seed, draw, relative_error):
    case = draw(1000 + seed, dtype=torch.float64, batch=(1, 2), sizes=(3, 5), channels=(1, 2))
    assert relative_error(case.run(deform_conv2d), by_loops(case)) < 1e-12


def slope(rows=5, columns=5):
    """A map whose value is 10 y + x: bilinear sampling inside is exact."""
    return torch.arange(rows)[:, None] * 10.0 + torch.arange(columns) * 1.0


def look(position, image=None):
    """The 5x5 map, sampled once at a position (y, x) given as offset from its corner."""
    image = slope() if image is None else image
    offset = torch.zeros(1, 2, *image.shape)
    offset[0, :, 0, 0] = torch.tensor(position)
    return deform_conv2d(image[None, None], offset, torch.ones(1, 1, 1, 1))[0, 0, 0, 0].item()


@pytest.mark.parametrize(
    "position, value",
    [
        ((2.0, 3.0), 23.0),
        ((1.5, 2.25), 17.25),
        ((0.0, 0.0), 0.0),
        ((4.0, 4.0), 44.0),
        ((4.25, 4.0), 0.75 * 44),  # a quarter of the way into the ring of zeros
        ((4.0, 4.5), 0.5 * 44),
        ((4.5, 4.5), 0.25 * 44),
        ((-0.25, 3.0), 0.75 * 3),
        ((3.0, -0.5), 0.5 * 30),
    ],
)
def test_hand_made_samples_of_a_5x5_map(position, value):
    assert look(position) == pytest.approx(value, rel=1e-6)


def test_y_comes_before_x_in_the_offset():
    assert look((1.0, 0.0)) == 10.0
    assert look((0.0, 1.0)) == 1.0


def test_offset_is_added_after_dilation():
    offset = torch.zeros(1, 18, 1, 1)
    offset[0, 16:, 0, 0] = torch.tensor([0.5, -1.0])  # the last tap, at (4, 4) with dilation 2
    weight = torch.zeros(1, 1, 3, 3)
    weight[0, 0, 2, 2] = 1
    found = deform_conv2d(slope()[None, None], offset, weight, dilation=2)
    assert found.item() == pytest.approx(0.5 * 43)  # row 4.5 is half in the ring, column 3


@pytest.mark.fault(1)
def test_fault_01_batch_of_none_gives_empty_output_and_zero_gradients(draw):
    case = draw(7, batch=(0,))
    out = case.run(deform_conv2d)
    assert out.shape[0] == 0
    assert out.shape[1] == case.weight.shape[0]
    for tensor, gradient in zip(case.tensors, case.gradients(deform_conv2d), strict=True):
        assert gradient.shape == tensor.shape
        assert not gradient.any()


@pytest.mark.fault(2)
@pytest.mark.parametrize("batch", [1, 33, 37, 65])
def test_fault_02_any_batch_gives_each_image_what_it_gets_alone(batch, draw, relative_error):
    case = draw(3, batch=(batch,), sizes=(5, 7), layout=("contiguous",))
    whole = case.run(deform_conv2d)
    assert relative_error(whole, case.run(TORCHVISION)) <= 1e-5
    last = slice(batch - 1, batch)
    case.input, case.offset = case.input[last], case.offset[last]
    case.mask = None if case.mask is None else case.mask[last]
    assert relative_error(case.run(deform_conv2d), whole[last]) <= 1e-6


@pytest.mark.fault(3)
@pytest.mark.parametrize("argument", ["input", "offset", "weight", "mask"])
@pytest.mark.parametrize("layout", ["channels_last", "permuted", "strided", "expanded"])
def test_fault_03_memory_layout_of_an_argument_changes_nothing(argument, layout, layouts, draw, relative_error):
    seed = next(s for s in itertools.count() if draw(s).mask is not None)
    case = draw(seed, batch=(3,), sizes=(5, 7), layout=("contiguous",))
    plain = layouts["expanded"](getattr(case, argument)) if layout == "expanded" else getattr(case, argument)
    setattr(case, argument, plain.detach().contiguous().requires_grad_())
    expected, expected_gradients = case.run(deform_conv2d), case.gradients(deform_conv2d)
    setattr(case, argument, layouts[layout](plain.detach()).requires_grad_())
    assert relative_error(case.run(deform_conv2d), expected) <= 1e-6
    for found, wanted in zip(case.gradients(deform_conv2d), expected_gradients, strict=True):
        assert relative_error(found, wanted) <= 1e-6


@pytest.mark.fault(6)
@pytest.mark.parametrize(
    "y, share",
    [(-1.0, 0.0), (-0.999999, 1e-6), (-0.25, 0.75), (0.0, 1.0), (4.0, 1.0), (4.25, 0.75), (4.999999, 1e-6), (5.0, 0.0)],
)
def test_fault_06_samples_fade_to_zero_over_one_cell_at_the_border(y, share):
    image = torch.full((5, 5), 8.0)
    assert look((y, 2.0), image) == pytest.approx(8 * share, abs=1e-5)
    assert look((2.0, y), image) == pytest.approx(8 * share, abs=1e-5)


@pytest.mark.fault(7)
@pytest.mark.parametrize("y, gradient", [(2.0, 7.0), (3.0, -10.0), (4.0, -4.0), (0.0, 2.0)])
def test_fault_07_gradient_at_a_whole_numbered_position_is_that_of_the_cell_below(y, gradient):
    image = torch.tensor([1.0, 3.0, 7.0, 14.0, 4.0])[:, None].expand(5, 5)  # below the last row there is 0
    offset = torch.zeros(1, 2, 5, 5)
    offset[0, 0, 0, 2] = y
    offset.requires_grad_()
    deform_conv2d(image[None, None], offset, torch.ones(1, 1, 1, 1))[0, 0, 0, 2].backward()
    assert offset.grad[0, 0, 0, 2].item() == pytest.approx(gradient)


@pytest.mark.fault(7)
def test_fault_07_gradients_at_zero_offset_are_torchvisions_at_the_border_too(relative_error, draw):
    case = draw(5, batch=(2,), sizes=(5, 7))
    case.offset = torch.zeros_like(case.offset).requires_grad_()
    for found, expected in zip(case.gradients(deform_conv2d), case.gradients(TORCHVISION), strict=True):
        assert relative_error(found, expected) <= 1e-5


@pytest.mark.fault(8)
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("dilation", [1, 2, (2, 1)])
def test_fault_08_zero_offset_is_dilated_conv(groups, dilation, relative_error):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 12, 9, 14), torch.randn(6, 12 // groups, 3, 3), torch.randn(6)
    plain = F.conv2d(x, weight, bias, (2, 1), 2, dilation, groups)
    offset, mask = torch.zeros(2, 18, *plain.shape[2:]), torch.ones(2, 9, *plain.shape[2:])
    assert relative_error(deform_conv2d(x, offset, weight, bias, (2, 1), 2, dilation), plain) < 1e-6
    assert relative_error(deform_conv2d(x, offset, weight, bias, (2, 1), 2, dilation, mask), plain) < 1e-6


@pytest.mark.fault(12)
@pytest.mark.parametrize(
    "dtype, tolerance", [(torch.bfloat16, 1.2e-2), (torch.float16, 1.5e-3), (torch.float64, 1e-13)]
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_fault_12_every_dtype_is_as_close_as_its_precision_allows(dtype, tolerance, seed, draw, relative_error):
    case = draw(seed, batch=(2,), sizes=(7, 12)).to(dtype)
    exact = case.to(torch.float64)
    assert case.run(deform_conv2d).dtype == dtype
    assert relative_error(case.run(deform_conv2d), exact.run(TORCHVISION)) <= tolerance
    for found, wanted in zip(case.gradients(deform_conv2d), exact.gradients(TORCHVISION), strict=True):
        assert found.dtype == dtype
        assert relative_error(found, wanted) <= 4 * tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels_last", [False, True])
def test_what_a_call_of_nan_left_in_memory_reaches_no_later_call(dtype, channels_last, relative_error):
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, weight = torch.randn(2, 34, 5, 7), torch.randn(9, 34, 3, 3)  # odd numbers of outputs and of pixels
    x, weight = (t.to(dtype).contiguous(memory_format=layout).requires_grad_() for t in (x, weight))
    offset = torch.randn(2, 18, 5, 7, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    grad = torch.randint(-9, 10, (2, 9, 5, 7)).to(dtype)
    exact = [t.detach().double().requires_grad_() for t in (x, weight)]
    wanted = torch.autograd.grad(TORCHVISION(exact[0], offset.double(), exact[1], padding=1), exact, grad.double())
    for value in (grad * math.nan, grad):
        found = torch.autograd.grad(deform_conv2d(x, offset, weight, padding=1), (x, weight), value)
    for ours, theirs in zip(found, wanted, strict=True):
        assert relative_error(ours, theirs) <= 1e-2


def test_gradients_of_many_groups_take_bounded_memory(body):
    if body == "reference":
        pytest.skip("keeps all samples at once")
    x, offset, weight = torch.randn(1, 128, 96, 96), torch.randn(1, 18, 96, 96), torch.randn(128, 1, 3, 3)
    arguments = x, x, offset, weight, None, (1, 1), (1, 1), (1, 1), [True, True, True, False]

    def run():  # in a thread, whose scratch memory goes when it ends
        thread = threading.Thread(target=torch.ops.seg.deform_conv2d_backward, args=arguments)
        thread.start()
        thread.join()

    found = extra_memory(run)
    if found is None:
        pytest.skip("this system does not tell the peak")
    assert found < 100 * 2**20


def test_gradients_of_many_groups_that_take_turns_are_torchvisions(relative_error):
    torch.manual_seed(0)
    shapes = (2, 128, 64, 64), (2, 36, 64, 64), (128, 1, 3, 3), (2, 18, 64, 64)
    x, offset, weight, mask = tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    found, expected = (
        torch.autograd.grad(function(x, offset, weight, None, 1, 1, 1, mask).square().sum(), tensors)
        for function in (deform_conv2d, TORCHVISION)
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert relative_error(ours, theirs) <= 1e-5


def test_half_precision_data_with_float32_offsets_sample_a_wide_map_at_the_right_place(relative_error):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 8, 3, 512).bfloat16(), torch.randn(8, 8, 3, 3).bfloat16()
    offset = torch.randn(1, 18, 3, 512)
    exact = TORCHVISION(x.double(), offset.double(), weight.double(), padding=1)
    assert relative_error(deform_conv2d(x, offset, weight, padding=1), exact) < 8e-3


@pytest.mark.fault(21)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 11)])
def test_fault_21_tiny_and_odd_maps(size, relative_error):
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, *size), torch.randn(3, 5, 3, 3)
    offset, mask = torch.randn(2, 18, *size), torch.rand(2, 9, *size)
    expected = TORCHVISION(x, offset, weight, None, 1, 1, 1, mask)
    assert relative_error(deform_conv2d(x, offset, weight, None, 1, 1, 1, mask), expected) <= 1e-5


@pytest.mark.fault(14)
def test_fault_14_more_than_65535_rows_and_pixels(relative_error):
    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 70001, 3), torch.randn(4, 2, 3, 3)
    offset = torch.zeros(1, 18, 70001, 3)
    assert relative_error(deform_conv2d(x, offset, weight, padding=1), F.conv2d(x, weight, padding=1)) < 1e-6


def test_layer_has_torchvisions_parameters_and_gives_its_output(relative_error):
    arguments = dict(kernel_size=(3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2)
    torch.manual_seed(5)
    theirs = torchvision.ops.DeformConv2d(8, 6, **arguments)
    torch.manual_seed(5)
    ours = DeformConv2d(8, 6, **arguments)
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    ours.load_state_dict(theirs.state_dict())
    x, offset, mask = torch.randn(2, 8, 9, 11), torch.randn(2, 24, 5, 9), torch.rand(2, 12, 5, 9)
    assert relative_error(ours(x, offset, mask), theirs(x, offset, mask)) <= 1e-5
    assert relative_error(ours(x, offset), theirs(x, offset)) <= 1e-5


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_output_and_gradient_have_the_inputs_memory_format(layout, layouts):
    x = layouts[layout](torch.randn(2, 6, 5, 7)).requires_grad_()
    out = deform_conv2d(x, torch.zeros(2, 18, 5, 7), torch.randn(4, 6, 3, 3), padding=1)
    out.sum().backward()
    memory_format = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[layout]
    assert out.is_contiguous(memory_format=memory_format)
    assert x.grad.is_contiguous(memory_format=memory_format)
