"""The 3x3 variants against torch's own convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg.models import Active, Deform, Dilated, Modulated, Modulation

SAMPLING = (Deform, Modulated, Modulation, Active)
VARIANTS = (Dilated, *SAMPLING)


def made(variant: type[nn.Module], channels_in: int = 6, channels_out: int = 4, **arguments: int) -> nn.Module:
    torch.manual_seed(3)
    return variant(channels_in, channels_out, **arguments)


def image(channels: int = 6, height: int = 9, width: int = 13) -> Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(5))


def shifted(x: Tensor, dy: int, dx: int) -> Tensor:
    """x read dy rows down and dx columns to the right, zeros beyond."""
    out = torch.zeros_like(x)
    h, w = x.shape[-2:]
    out[..., max(-dy, 0) : h - max(dy, 0), max(-dx, 0) : w - max(dx, 0)] = x[
        ..., max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)
    ]
    return out


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stride, dilation, groups", [(1, 2, 1), (2, 3, 1), (1, 1, 2)])
def test_every_variant_starts_as_the_dilated_convolution(
    variant: type[nn.Module], stride: int, dilation: int, groups: int
) -> None:
    layer = made(variant, stride=stride, dilation=dilation, groups=groups)
    expected = F.conv2d(image(), layer.weight, None, stride, dilation, dilation, groups)
    assert layer.weight.shape == (4, 6 // groups, 3, 3)
    torch.testing.assert_close(layer(image()), expected, rtol=1e-5, atol=1e-5)


def test_a_seed_gives_every_variant_the_same_filters() -> None:
    weights = [made(variant).weight for variant in VARIANTS]
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_grouped_filters_keep_the_variance_on_the_way_back() -> None:
    torch.manual_seed(0)
    for groups in (1, 8):
        layer, image = Dilated(128, 128, groups=groups), torch.randn(2, 128, 16, 16, requires_grad=True)
        out = layer(image)
        out.backward(grad := torch.randn_like(out))
        inner = image.grad[..., 2:-2, 2:-2].var() / grad.var()  # type: ignore[index]
        assert 1.9 < float(inner) < 2.1, "a ReLU halves it"


def test_filters_have_the_variance_for_a_relu() -> None:
    weight = made(Deform, 64, 256).weight
    assert float(weight.detach().var()) == pytest.approx(2 / (256 * 9), rel=0.02)


def test_a_plain_sigmoid_halves_the_start_and_twice_a_sigmoid_keeps_it() -> None:
    full = made(Modulated, mask_scale=2.0)(image())
    half = made(Modulated, mask_scale=1.0)(image())
    torch.testing.assert_close(half, full / 2)


@pytest.mark.parametrize("variant", [Deform, Modulated, Active])
def test_offsets_are_rows_before_columns_for_each_tap(variant: type[nn.Module]) -> None:
    layer = made(variant)
    with torch.no_grad():
        layer.offset.bias[:18] = torch.tensor([1.0, -2.0]).repeat(9)
    expected = F.conv2d(shifted(F.pad(image(), [4] * 4), 1, -2), layer.weight, None, 1, 2, 2)[..., 4:-4, 4:-4]
    torch.testing.assert_close(layer(image()), expected, rtol=1e-5, atol=1e-5)


def test_each_offset_group_moves_its_own_channels() -> None:
    layer = made(Active, offset_groups=3)
    with torch.no_grad():
        layer.offset.bias[18:36] = torch.tensor([0.0, 1.0]).repeat(9)
    moved = image()
    moved[:, 2:4] = shifted(moved, 0, 1)[:, 2:4]
    expected = F.conv2d(F.pad(moved, [2] * 4), layer.weight, None, 1, 0, 2)
    # but for the last column that was moved in: there the layer still sees the padding's neighbour
    torch.testing.assert_close(layer(image())[..., 2:-3], expected[..., 2:-3], rtol=1e-5, atol=1e-5)


def test_modulation_weights_each_tap() -> None:
    layer = made(Modulation)
    with torch.no_grad():
        layer.offset.bias[4] = -100.0  # the centre tap is shut
    weight = layer.weight.detach().clone()
    weight[:, :, 1, 1] = 0
    torch.testing.assert_close(layer(image()), F.conv2d(image(), weight, None, 1, 2, 2), rtol=1e-5, atol=1e-5)


def test_the_last_third_of_what_modulated_emits_is_the_mask() -> None:
    layer = made(Modulated, offset_groups=2)
    with torch.no_grad():
        layer.offset.bias[36 + 4] = -100.0  # group 0, centre tap
    weight = layer.weight.detach().clone()
    weight[:, :3, 1, 1] = 0
    torch.testing.assert_close(layer(image()), F.conv2d(image(), weight, None, 1, 2, 2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("variant", SAMPLING)
def test_what_moves_the_taps_has_a_gradient_at_the_start(variant: type[nn.Module]) -> None:
    layer = made(variant)
    layer(image()).square().sum().backward()
    assert all(parameter.grad.abs().max() > 1e-3 for parameter in layer.offset.parameters())


@pytest.mark.parametrize("offset_dilation", [1, 3])
def test_the_offset_convolution_has_the_dilation_asked_for(offset_dilation: int) -> None:
    layer = made(Deform, dilation=2, offset_dilation=offset_dilation)
    assert layer.offset.dilation == layer.offset.padding == (offset_dilation, offset_dilation)
    assert layer.offset(image()).shape == (2, 18, 9, 13)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"dilation": 0}, "dilation is 0; it must be a whole number, 1 or more"),
        ({"dilation": 2.5}, "dilation is 2.5"),
        ({"stride": 0}, "stride is 0"),
        ({"offset_groups": 4}, r"offset_groups is 4; it must divide the layer's 6 channels: one of \[1, 2, 3, 6\]"),
        ({"offset_groups": 0}, "offset_groups is 0"),
        ({"offset_dilation": 0}, "offset_dilation is 0"),
        ({"mask_scale": 0}, "mask_scale is 0; it must be above 0"),
        ({"groups": 5}, "groups is 5; it must divide the layer's 6 channels"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_range(arguments: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Modulated(6, 4, **arguments)
