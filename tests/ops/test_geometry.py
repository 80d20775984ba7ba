"""Where taps look and how large an output is."""

import pytest
import torch
from torch.nn import functional as F

from seg.ops import sampling_positions
from seg.ops.geometry import output_size


def test_zero_offset_looks_at_the_taps_of_a_dilated_convolution():
    positions = sampling_positions(torch.zeros(1, 18, 4, 5), 3, stride=(2, 1), padding=2, dilation=(2, 3))
    assert positions.shape == (1, 1, 3, 3, 2, 4, 5)
    y, x = positions[0, 0, :, :, 0], positions[0, 0, :, :, 1]
    assert y[:, 0, 1, 0].tolist() == [0, 2, 4]  # row 1: 1 * 2 - 2 + (0, 2, 4)
    assert y[1, :, 3, 2].tolist() == [6, 6, 6]
    assert x[0, :, 0, 4].tolist() == [2, 5, 8]  # column 4: 4 * 1 - 2 + (0, 3, 6)
    assert x[2, 1, :, 0].tolist() == [1, 1, 1, 1]


def test_offsets_are_group_then_tap_then_y_x():
    offset = torch.arange(2 * 3 * 2 * 2, dtype=torch.float32).view(1, 24, 1, 1)  # 2 groups, 3x2 taps
    moved = sampling_positions(offset, (3, 2)) - sampling_positions(torch.zeros_like(offset), (3, 2))
    assert moved[0, 1, 2, 1, :, 0, 0].tolist() == [22, 23]
    assert moved[0, 0, 1, 0, :, 0, 0].tolist() == [4, 5]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_of_half_precision_offsets_are_float32(dtype):
    offset = torch.full((1, 2, 1, 3001), 0.5, dtype=dtype)
    positions = sampling_positions(offset, 1)
    assert positions.dtype == torch.float32
    assert positions[0, 0, 0, 0, 1, 0, 3000] == 3000.5


def test_positions_have_gradients():
    offset = torch.zeros(1, 18, 2, 2, requires_grad=True)
    sampling_positions(offset, 3).sum().backward()
    assert torch.equal(offset.grad, torch.ones_like(offset))


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (3, 2)])
@pytest.mark.parametrize("padding", [(0, 0), (2, 1)])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_output_size_is_that_of_a_convolution(stride, padding, dilation):
    made = F.conv2d(torch.zeros(1, 1, 11, 14), torch.zeros(1, 1, 3, 2), None, stride, padding, dilation)
    assert output_size((11, 14), (3, 2), stride, padding, dilation) == made.shape[2:]
