"""Gradients of units against finite differences and against nets whose dependence is known."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from seg.analysis import (
    effective_receptive_field,
    effective_receptive_fields,
    effective_sampling_locations,
    node_features,
    reach,
    receptive_field,
    saliency_region,
)
from seg.models import Cells, DeepLab, Deform, Dilated, Modulated, resnet18, tiny


class OneLayer(nn.Module):
    """A trunk of a single 3x3 layer at stride 1."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.trunk = nn.Module()
        self.trunk.conv = layer
        self.trunk.cells = {"conv": Cells(1)}

    def forward(self, image: Tensor) -> Tensor:
        return self.trunk.conv(image)


def image(h: int = 12, w: int = 14) -> Tensor:
    return torch.randn(1, 3, h, w, generator=torch.Generator().manual_seed(1))


def test_the_field_of_a_dilated_layer_is_its_taps_with_their_weights() -> None:
    layer = Dilated(3, 5, dilation=3)
    field = effective_receptive_field(OneLayer(layer), image(), (6, 7), node="trunk.conv")
    expected = torch.zeros(12, 14)
    expected[3:10:3, 4:11:3] = layer.weight.detach().sum(0).abs().mean(0)
    torch.testing.assert_close(field, expected)


def test_the_field_of_a_net_equals_finite_differences() -> None:
    torch.manual_seed(0)
    model = DeepLab(tiny(Deform), 3).double().eval()
    for module in model.modules():
        if isinstance(module, Deform):
            nn.init.normal_(module.offset.weight, std=0.05)
    x = image(32, 32).double()
    field = effective_receptive_field(model, x, (2, 1))
    for y, column in ((16, 8), (3, 20)):
        slopes = []
        for channel in range(3):
            step = torch.zeros_like(x)
            step[0, channel, y, column] = 1e-6
            up, down = (node_features(model, x + s, "trunk", (2, 1)).sum() for s in (step, -step))
            slopes.append(float((up - down).detach().abs()) / 2e-6)
        assert float(field[y, column]) == pytest.approx(sum(slopes) / 3, rel=1e-4)


def test_fields_of_several_cells_are_those_of_each() -> None:
    model = DeepLab(tiny(Deform), 3).eval()
    cells = [(0, 0), (2, 1), (3, 3)]
    for cell, field in zip(cells, effective_receptive_fields(model, image(32, 32), cells), strict=True):
        torch.testing.assert_close(field, effective_receptive_field(model, image(32, 32), cell))


def test_reach_is_the_mean_distance_of_what_counts() -> None:
    field = torch.zeros(20, 30)
    field[4, 5] = 3.0  # 5 px from the unit
    field[7, 12] = 1.0  # 3 px
    assert reach(field, (7, 9)) == pytest.approx((3 * 5 + 1 * 3) / 4)
    assert reach(5 * field, (7, 9)) == pytest.approx(reach(field, (7, 9)))
    assert reach(field.roll(3, 1), (7, 12)) == pytest.approx(reach(field, (7, 9)))
    assert math.isnan(reach(torch.zeros(4, 4), (1, 1)))


@pytest.mark.parametrize("conv", [partial(Dilated, dilation=4), Deform, partial(Modulated, dilation=1)])
@pytest.mark.parametrize("trunk", [tiny, partial(resnet18, output_stride=8)])
def test_the_receptive_field_follows_from_kernels_strides_and_dilations(
    trunk: Callable[..., nn.Module], conv: Callable[..., nn.Module]
) -> None:
    """side = 1 + sum over layers of (kernel - 1) x dilation x the stride of the map that it reads."""
    model = DeepLab(trunk(conv), 3)
    side = stride = 1
    for name, layer in model.trunk.named_modules():
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not name.endswith(("offset", "downsample.0")):
            kernel, dilation, step = (
                nn.modules.utils._pair(v)[0] for v in (layer.kernel_size, layer.dilation, layer.stride)
            )
            side += (kernel - 1) * dilation * stride
            stride *= step
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert receptive_field(model) == side
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "a copy was changed"


def test_what_looks_everywhere_has_no_receptive_field() -> None:
    model = OneLayer(nn.Sequential(Dilated(3, 5, dilation=1), nn.AdaptiveAvgPool2d(1)))
    with pytest.raises(ValueError, match="'trunk.conv' depends on the whole image"):
        receptive_field(model, node="trunk.conv")


def test_sampling_locations_have_the_gradient_of_their_positions() -> None:
    torch.manual_seed(0)
    layer = Modulated(3, 4, dilation=1).double()
    nn.init.uniform_(layer.offset.bias, 0.1, 0.4)
    model, x = OneLayer(layer), image().double()
    ((points, weights),) = effective_sampling_locations(model, x, (5, 6), node="trunk.conv").values()
    assert points.shape == (9, 2)
    bias = layer.offset.bias.detach().clone()
    for tap in range(9):
        slopes = []
        for axis in range(2):
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    layer.offset.bias.copy_(bias)
                    layer.offset.bias[2 * tap + axis] += step
                    ends.append(float(node_features(model, x, "trunk.conv", (5, 6)).sum()))
            slopes.append((ends[0] - ends[1]) / 2e-6)
        assert float(weights[tap]) == pytest.approx((slopes[0] ** 2 + slopes[1] ** 2) ** 0.5, rel=1e-4)
        place = [5 - 1 + tap // 3 + float(bias[2 * tap]), 6 - 1 + tap % 3 + float(bias[2 * tap + 1])]
        assert points[tap].tolist() == pytest.approx(place, rel=1e-5)


def test_a_dilated_net_has_sampling_locations_in_every_replaced_layer() -> None:
    torch.manual_seed(0)
    model = DeepLab(tiny(Dilated), 3).eval()
    found = effective_sampling_locations(model, image(160, 160), (10, 10))
    assert list(found) == ["layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"]
    points, weights = found["layer4.2.conv2"]
    assert sorted(map(tuple, points.tolist())) == [(y, x) for y in (64.0, 80.0, 96.0) for x in (64.0, 80.0, 96.0)]
    assert (weights > 0).all()
    # the layer before has at most the 9 filters that those taps read, 9 taps each
    assert 9 < len(found["layer4.1.conv2"][0]) <= 81


def test_a_node_or_cell_that_does_not_exist_is_named() -> None:
    model = OneLayer(Dilated(3, 4))
    with pytest.raises(ValueError, match=r"node is 'neck': the model has no such module"):
        node_features(model, image(), "neck", (0, 0))
    with pytest.raises(ValueError, match=r"cell \(12, 0\) is not in the 12x14 map of 'trunk.conv'"):
        node_features(model, image(), "trunk.conv", (12, 0))


# -- saliency --


def test_the_region_of_one_layer_is_the_blocks_that_its_taps_read() -> None:
    torch.manual_seed(0)
    layer = Dilated(3, 64, dilation=8)
    region = saliency_region(
        OneLayer(layer), image(40, 44), (20, 20), centre=(20, 20), node="trunk.conv", bound=1e-4, block=4
    )
    read = torch.zeros(40, 44, dtype=torch.bool)
    for y in (12, 20, 28):
        for x in (12, 20, 28):
            read[y : y + 4, x : x + 4] = True
    assert torch.equal(region.mask, read)
    assert region.rectangle == (12, 12, 32, 32)
    assert region.error < 1e-6


def test_the_region_keeps_the_features_within_the_bound_and_no_block_can_go() -> None:
    torch.manual_seed(0)
    model = DeepLab(tiny(Deform), 3).eval()
    x = image(60, 68)
    region = saliency_region(model, x, (3, 4), centre=(24, 32), bound=0.02, block=8)

    def error(mask: Tensor) -> float:
        with torch.no_grad():
            kept, whole = (node_features(model, i, "trunk", (3, 4))[0] for i in (x * mask, x))
        return float(1 - kept @ whole / (kept.norm() * whole.norm()))

    assert error(region.mask) == pytest.approx(region.error, abs=1e-5)
    assert region.error < 0.02
    top, left, bottom, right = region.rectangle
    assert region.mask.sum() == region.mask[top:bottom, left:right].sum() > 0
    for y in range(0, 60, 8):
        for column in range(0, 68, 8):
            if region.mask[y, column]:
                less = region.mask.clone()
                less[y : y + 8, column : column + 8] = False
                assert error(less) >= 0.02 - 1e-5


@pytest.mark.parametrize("arguments", [{"bound": 0.0}, {"bound": 1.0}, {"block": 0}])
def test_a_bound_or_block_out_of_range_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected a bound between 0 and 1"):
        saliency_region(OneLayer(Dilated(3, 4)), image(), (0, 0), centre=(0, 0), node="trunk.conv", **arguments)
