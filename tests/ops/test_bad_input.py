"""Arguments that do not fit are named with their value and the expectation; wild offsets read nothing."""

import pytest
import torch

from seg.ops import DeformConv2d, deform_conv2d, sampling_positions

pytestmark = pytest.mark.usefixtures("body")


def call(**changes):
    """A call that works, with some arguments changed."""
    arguments = dict(
        input=torch.randn(2, 6, 5, 7),
        offset=torch.zeros(2, 36, 5, 7),
        weight=torch.randn(4, 3, 3, 3),
        bias=torch.randn(4),
        stride=1,
        padding=1,
        dilation=1,
        mask=torch.ones(2, 18, 5, 7),
    )
    return deform_conv2d(**(arguments | changes))


def test_the_unchanged_call_works():
    assert call().shape == (2, 4, 5, 7)


@pytest.mark.fault(9)
@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(offset=torch.zeros(2, 35, 5, 7)), r"offset is \[2, 35, 5, 7\] .* multiple of 18 channels"),
        (dict(offset=torch.zeros(2, 0, 5, 7)), r"offset is \[2, 0, 5, 7\]"),
        (dict(offset=torch.zeros(2, 72, 5, 7)), r"offset has 4 groups, .* 6 channels"),
        (dict(offset=torch.zeros(2, 36, 5, 6)), r"offset is \[2, 36, 5, 6\] but has to be \[2, 36, 5, 7\]"),
        (dict(offset=torch.zeros(1, 36, 5, 7)), r"offset is \[1, 36, 5, 7\] but has to be \[2, 36, 5, 7\]"),
        (dict(offset=torch.zeros(36, 5, 7)), r"offset is \[36, 5, 7\]"),
        (dict(mask=torch.ones(2, 9, 5, 7)), r"mask is \[2, 9, 5, 7\] but has to be \[2, 18, 5, 7\]"),
        (dict(mask=torch.ones(2, 18, 5)), r"mask is \[2, 18, 5\]"),
        (dict(weight=torch.randn(4, 4, 3, 3)), r"weight takes 4 channels per group, .* input's 6"),
        (dict(weight=torch.randn(3, 3, 3, 3)), r"weight has 3 outputs, which its 2 groups"),
        (dict(weight=torch.randn(4, 3, 9)), r"weight is \[4, 3, 9\] but has to be \[O, C/groups, kh, kw\]"),
        (dict(input=torch.randn(6, 5, 7)), r"input is \[6, 5, 7\] but has to be \[N, C, H, W\]"),
        (dict(bias=torch.randn(3)), r"bias is \[3\] but has to be \[4\]"),
    ],
)
def test_fault_09_wrong_shapes_are_named(changes, told):
    with pytest.raises(ValueError, match=told):
        call(**changes)


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(stride=0), r"stride=\(0, 0\) has to be at least 1"),
        (dict(stride=(1, 0)), r"stride=\(1, 0\) has to be at least 1"),
        (dict(dilation=0), r"dilation=\(0, 0\) has to be at least 1"),
        (dict(padding=-1), r"padding=\(-1, -1\) has to be at least 0"),
        (dict(padding=0, dilation=(1, 4)), r"reaches over 3x9 cells .* padded input has 5x7"),
        (dict(stride=(1, 2, 3)), r"stride=\(1, 2, 3\) is neither a whole number nor a pair"),
        (dict(stride=(1.0, 1.0)), r"stride=\(1.0, 1.0\) is neither a whole number nor a pair"),
        (dict(stride=1.5), r"stride=1.5 is neither"),
        (dict(input=torch.randn(2, 6, 0, 7)), r"padded input has 2x9"),
    ],
)
def test_fault_10_impossible_windows_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        call(**changes)


@pytest.mark.fault(10)
def test_fault_10_the_operator_itself_refuses_too():
    with pytest.raises(ValueError, match="stride"):
        torch.ops.seg.deform_conv2d(
            torch.randn(1, 1, 3, 3),
            torch.zeros(1, 18, 1, 1),
            torch.ones(1, 1, 3, 3),
            None,
            None,
            [0, 0],
            [0, 0],
            [1, 1],
        )


@pytest.mark.fault(11)
@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(weight=torch.randn(4, 3, 3, 3).double()), r"weight is torch.float64 but has to be torch.float32"),
        (dict(input=torch.randn(2, 6, 5, 7).bfloat16()), r"weight is torch.float32 but has to be torch.bfloat16"),
        (dict(offset=torch.zeros(2, 36, 5, 7).half()), r"offset is torch.float16 but has to be torch.float32"),
        (dict(mask=torch.ones(2, 18, 5, 7, dtype=torch.int64)), r"mask is torch.int64"),
        (dict(input=torch.ones(2, 6, 5, 7, dtype=torch.int32)), r"input is torch.int32; it has to be one of"),
        (dict(offset=torch.zeros(2, 36, 5, 7, device="meta")), r"offset is on meta but input is on cpu"),
        (dict(bias=torch.zeros(4, device="meta")), r"bias is on meta but input is on cpu"),
    ],
)
def test_fault_11_mixed_dtypes_and_devices_are_refused(changes, told):
    with pytest.raises(ValueError, match=told):
        call(**changes)


def test_layer_and_positions_name_what_does_not_fit():
    with pytest.raises(ValueError, match=r"groups=4 has to divide in_channels=6"):
        DeformConv2d(6, 4, 3, groups=4)
    for arguments, words in (((6, 4, 0), "kernel_size=0"), ((0, 4, 3), "in_channels=0"), ((4, 0, 3), "out_channels=0")):
        with pytest.raises(ValueError, match=f"{words} has to be at least 1"):
            DeformConv2d(*arguments)
    with pytest.raises(ValueError, match=r"offset is \[1, 7, 2, 2\]"):
        sampling_positions(torch.zeros(1, 7, 2, 2), 3)


def gradients_with(value, channel):
    """Output and gradients when one offset at row 2, column 3 of the first image has this value."""
    torch.manual_seed(0)
    tensors = [torch.randn(2, 8, 6, 7), torch.randn(2, 18, 6, 7), torch.randn(5, 8, 3, 3), torch.rand(2, 9, 6, 7)]
    tensors[1][0, channel, 2, 3] = value
    input, offset, weight, mask = (t.requires_grad_() for t in tensors)
    out = deform_conv2d(input, offset, weight, None, 1, 1, 1, mask)
    return out, torch.autograd.grad(out.sum(), (input, offset, weight, mask))


@pytest.mark.fault(4)
@pytest.mark.parametrize("channel", [0, 1, 9])
def test_fault_04_nan_offset_makes_nan_of_its_pixel_alone(channel):
    out, (input, offset, _, mask) = gradients_with(float("nan"), channel)
    touched = torch.zeros(2, 1, 6, 7, dtype=torch.bool)
    touched[0, 0, 2, 3] = True
    assert torch.equal(out.isnan(), touched.expand_as(out))
    assert not input.isnan().any()
    assert not offset.isnan()[~touched.expand_as(offset)].any()
    assert not mask.isnan()[~touched.expand_as(mask)].any()
    assert offset[0, channel, 2, 3].isnan()


@pytest.mark.fault(5)
@pytest.mark.parametrize("channel", [0, 1, 9])
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e30, -1e30, 3e9, -3e9, 2.0**31, -(2.0**31), 2.0**63])
def test_fault_05_infinite_and_huge_offsets_contribute_zero(value, channel):
    out, gradients = gradients_with(value, channel)
    far, _ = gradients_with(100.0, channel)  # just outside the map
    assert torch.equal(out, far)
    assert all(gradient.isfinite().all() for gradient in gradients)
    _, offset, _, mask = gradients
    assert offset[0, channel, 2, 3] == 0
    assert mask[0, channel // 2, 2, 3] == 0


@pytest.mark.fault(13)
def test_fault_13_more_than_two_to_the_31_elements(body):
    if body == "reference":
        pytest.skip("its indices are int64 throughout, but its padded float32 copy does not fit a small machine")
    side = 32800
    cells = torch.empty(1, side, side, 2, dtype=torch.bfloat16)  # 4 GiB of which few pages are ever touched
    assert cells.numel() > 2**31
    cells[0, :: side - 1, :: side - 1] = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]])
    cells[0, 1, :: side - 1], cells[0, :: side - 1, 1], cells[0, 1, 1] = 0, 0, 0  # neighbours, read with weight 0
    weight = torch.tensor([1.0, 10.0], dtype=torch.bfloat16).view(1, 2, 1, 1)
    out = deform_conv2d(cells.permute(0, 3, 1, 2), torch.zeros(1, 2, 2, 2), weight, stride=side - 1)
    assert out[0, 0].tolist() == [[21, 43], [65, 87]]


@pytest.mark.fault(13)
def test_fault_13_more_cells_than_an_index_can_count_are_refused(body):
    if body == "reference":
        pytest.skip("its indices are int64 throughout")
    image = torch.zeros(1, 1, 1, 1).expand(1, 1, 2**16, 2**15)
    with pytest.raises(RuntimeError, match="too many cells: 2147483648"):
        deform_conv2d(image, torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, 1), stride=2**16)
