"""The CUDA kernels of the RoI pooling, run on the host thread by thread, against the reference in float64."""

import pytest
import torch

from seg.ops import roi_reference
from seg.ops.roi_geometry import Bins, Pooling, bins
from seg.ops.roi_pool import grouped
from tests.ops import cuda_host

# of the largest expected value; half precision rounds the result
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2, torch.float16: 2e-3}


@pytest.fixture(scope="module")
def operators():
    """The operators, with kernels that run on the host."""
    return cuda_host.operators()


def case(mode, groups, classes, dtype):
    """(maps, image, grids, mask) and what the reference needs: boxes of all kinds, one bin unknown, one far away."""
    torch.manual_seed(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    input = torch.randn(2, 3 * classes * groups[0] * groups[1], 6, 7).to(dtype)
    rois = torch.rand(6, 5, dtype=wide) * 12 - 3
    rois[:, 0], rois[:, 3:] = torch.arange(6) % 2, rois[:, 1:3] + torch.rand(6, 2) * 9 - 2
    offset = torch.randn(6, 2 * classes, 3, 2, dtype=wide)
    offset[3, 0, 0, 0], offset[4, 1, 0, 0] = float("nan"), 1e30
    ratio = 0 if mode == "paper" else 2
    grids = bins(rois, offset, (6, 7), Pooling(mode, (3, 2), 0.9, ratio, 0.1), wide)
    return input, rois[:, 0].long(), Bins(*(t.contiguous() for t in grids)), torch.rand(6, classes, 3, 2, dtype=wide)


def error(found, expected):
    """The largest difference as a share of the largest expected value; what is not a number must be so in both."""
    assert found.shape == expected.shape
    assert torch.equal(found.isnan(), expected.isnan())
    found, expected = (t.double().nan_to_num() for t in (found, expected))
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("groups, classes", [((1, 1), 1), ((3, 2), 2)])
@pytest.mark.parametrize("mode", ["paper", "release", "mmcv"])
def test_values_and_gradients_are_the_references(mode, groups, classes, dtype, operators):
    input, image, grids, mask = case(mode, groups, classes, dtype)
    rule = Pooling(mode, (3, 2), 0.9, 0, 0.1).rule
    wide = Bins(grids.first.double(), grids.step.double(), grids.samples)
    expected = roi_reference.roi_pool(input.double(), image, wide, mask.double(), groups, rule)
    arguments = (grouped(input, groups), image, *grids, mask, *groups, rule)
    assert error(operators.roi_pool(*arguments, False), expected) <= TOLERANCE[dtype]
    grad = torch.randint(-9, 10, expected.shape).to(dtype)
    known = roi_reference.roi_pool_backward(grad.double(), input.double(), image, wide, mask.double(), groups, rule)
    for deterministic in (False, True):
        maps, *positions = operators.roi_pool_backward(grad, *arguments, True, True, True, deterministic)
        made = (maps.permute(0, 4, 1, 2, 3).reshape(input.shape), *positions)
        assert all(error(a, b) <= TOLERANCE[dtype] for a, b in zip(made, known, strict=True))


def test_no_boxes_launch_nothing(operators):
    maps, empty = torch.randn(1, 1, 4, 4, 3), torch.zeros(0, 1, 2, 2, 2)
    samples = torch.zeros(0, 2, 2, 2, dtype=torch.int32)
    arguments = (maps, torch.zeros(0, dtype=torch.long), empty, torch.zeros(0, 2), samples, None, 1, 1, 0)
    assert operators.roi_pool(*arguments, False).shape == (0, 3, 2, 2)
    of_maps, *_ = operators.roi_pool_backward(torch.zeros(0, 3, 2, 2), *arguments, True, True, False)
    assert torch.equal(of_maps, torch.zeros_like(maps))


def test_maps_without_outputs_have_gradients_of_zero(operators, deterministic):
    maps, first = torch.zeros(1, 1, 4, 4, 0), torch.rand(2, 1, 2, 2, 2)
    samples = torch.ones(2, 2, 2, 2, dtype=torch.int32)
    arguments = (maps, torch.zeros(2, dtype=torch.long), first, torch.ones(2, 2), samples, None, 1, 1, 0)
    found = operators.roi_pool_backward(torch.zeros(2, 0, 2, 2), *arguments, True, True, True)
    assert [tuple(f.shape) for f in found] == [(1, 1, 4, 4, 0), (2, 1, 2, 2, 2), (2, 1, 2, 2)]
    assert not any(f.any() for f in found)


def test_maps_without_groups_are_refused(operators):
    maps, first = torch.zeros(1, 0, 4, 4, 3), torch.rand(2, 1, 2, 2, 2)
    samples = torch.ones(2, 2, 2, 2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="groups must be at least 1x1, got 0x1"):
        operators.roi_pool(maps, torch.zeros(2).long(), first, torch.ones(2, 2), samples, None, 0, 1, 0, False)
