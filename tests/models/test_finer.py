"""Nets at a finer output stride than they were trained at, and where upsampling writes their cells."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from seg.analysis import record_offsets
from seg.errors import ConfigError
from seg.models import (
    Active,
    ASPPv2,
    ASPPv3,
    DeepLab,
    Deform,
    Dilated,
    FixedDeconv,
    Interpolate,
    Modulated,
    Modulation,
    resnet18,
    resnet50,
    tiny,
)
from seg.models.conv import Everywhere, OffsetConv

VARIANTS = {
    "dilated": partial(Dilated, dilation=3),
    "deform": partial(Deform, offset_groups=2, offset_dilation=2),
    "modulated": Modulated,
    "modulation": Modulation,
    "active": Active,
}
TRUNKS = {
    "tiny": tiny,
    "tiny, replaced from stage 3 on": partial(tiny, replaced=5),
    "resnet18": resnet18,
    "resnet18, stride 8": partial(resnet18, output_stride=8, replaced=5),
    "resnet50": resnet50,
    "resnet50, caffe": partial(resnet50, style="caffe", replaced=5),
}


def net(trunk: str, variant: str, **arguments: object) -> DeepLab:
    """A net that looks whole cells further than its grid: there a finer map has the same cells to offer."""
    torch.manual_seed(0)
    model = DeepLab(TRUNKS[trunk](VARIANTS[variant]), 3, **arguments).double()  # type: ignore[arg-type]
    for layer in model.modules():
        if isinstance(layer, OffsetConv | Everywhere):
            with torch.no_grad():
                layer.bias.copy_(torch.randint(-2, 3, layer.bias.shape))
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
    return model.eval()


def written(logits: np.ndarray, size: tuple[int, int], stride: int, centre: float, ring: bool) -> np.ndarray:
    """Bilinear upsampling written out: cell n at pixel centre + n * stride; around the map its edge, or zeros."""
    found = np.zeros(size)
    padded = np.pad(logits, 2) if ring else np.pad(logits, 2, mode="edge")
    for row, column in np.ndindex(size):
        y, x = (row - centre) / stride + 2, (column - centre) / stride + 2
        i, j = int(np.floor(y)), int(np.floor(x))
        corners = padded[np.ix_([min(i, len(padded) - 1), min(i + 1, len(padded) - 1)], np.clip([j, j + 1], 0, None))]
        found[row, column] = np.array([i + 1 - y, y - i]) @ corners @ np.array([j + 1 - x, x - j])
    return found


@pytest.mark.parametrize("kind, ring", [(Interpolate, False), (FixedDeconv, True)])
@pytest.mark.parametrize("stride, factor", [(8, 1), (16, 1), (16, 2), (16, 4), (8, 4)])
@pytest.mark.parametrize("short", [0, 1, 5])
def test_every_cell_is_written_at_its_place_in_images_of_any_size(
    kind: type[Interpolate], ring: bool, stride: int, factor: int, short: int
) -> None:
    finer, logits = stride // factor, torch.randn(1, 1, 5, 7, dtype=torch.float64)
    size, upsample = (5 * finer - min(short, finer - 1), 7 * finer), kind(stride)
    upsample.refine(factor)
    expected = written(logits[0, 0].numpy(), size, finer, (stride - 1) / 2, ring)
    np.testing.assert_allclose(upsample(logits, size)[0, 0].numpy(), expected, atol=1e-12)


def test_images_of_whole_cells_are_upsampled_as_by_torchvision_and_others_are_not_stretched() -> None:
    logits = torch.randn(1, 2, 3, 4)
    whole = F.interpolate(logits, (48, 64), mode="bilinear")
    assert torch.equal(Interpolate(16)(logits, (48, 64)), whole)
    assert torch.equal(Interpolate(16)(logits, (41, 50)), whole[..., :41, :50])


def test_a_map_that_does_not_cover_the_image_goes_on_with_its_edge() -> None:
    logits = torch.randn(1, 2, 3, 4)
    found = Interpolate(16)(logits, (52, 64))
    torch.testing.assert_close(found[..., 48:, :], found[..., 47:48, :].expand(-1, -1, 4, -1))


@pytest.mark.parametrize("size", [(48, 64), (41, 50), (52, 64)])
def test_deterministic_algorithms_upsample_alike(deterministic: None, size: tuple[int, int]) -> None:
    logits = torch.randn(1, 2, 3, 4)
    found = Interpolate(16)(logits, size)
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, Interpolate(16)(logits, size))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("trunk", TRUNKS)
def test_cells_that_both_nets_have_are_equal(trunk: str, variant: str) -> None:
    model = net(trunk, variant)
    stride, image = model.trunk.stride, torch.randn(1, 3, 76, 101, dtype=torch.float64)
    finer = model.finer(stride // 2)
    with torch.no_grad():
        expected, found = model.trunk(image), finer.trunk(image)
    assert found.shape[-2] > 1.5 * expected.shape[-2]
    torch.testing.assert_close(found[..., ::2, ::2], expected)
    cells = list(finer.trunk.cells.values())  # type: ignore[operator, union-attr]
    assert (finer.trunk.stride, cells[-1].stride) == (stride // 2, stride // 2)


@pytest.mark.parametrize("output_stride", [2, 4])
def test_the_cells_between_are_those_of_the_image_shifted(output_stride: int) -> None:
    model = DeepLab(tiny(partial(Dilated, dilation=1)), 3).double().eval()
    image = torch.randn(1, 3, 256, 256, dtype=torch.float64)
    with torch.no_grad():
        found, shifted = model.finer(output_stride).trunk(image), model.trunk(image[..., output_stride:, :])
    step = 8 // output_stride
    middle = slice(14, 17)  # far from the edges, which the two images have at different places
    torch.testing.assert_close(found[..., 1::step, ::step][..., middle, middle], shifted[..., middle, middle])


def test_offsets_between_cells_read_the_finer_map() -> None:
    model = net("tiny", "deform")
    for layer in model.modules():
        if isinstance(layer, OffsetConv):
            nn.init.constant_(layer.bias, 0.5)
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected, found = model.trunk(image), model.finer(4).trunk(image)[..., ::2, ::2]
    assert (found - expected).abs().max() > 1e-6  # half a cell is a whole one there: nothing is interpolated


def test_what_is_recorded_of_a_finer_net_is_in_its_own_cells() -> None:
    model, image = net("tiny", "modulated"), torch.randn(1, 3, 48, 48, dtype=torch.float64)
    with torch.no_grad(), record_offsets(model) as coarse:
        model(image)
    finer = model.finer(4)
    with torch.no_grad(), record_offsets(finer) as fine:
        finer(image)
    for name, recorded in coarse.items():
        assert recorded.offset.abs().max() >= 1
        torch.testing.assert_close(fine[name].offset[..., ::2, ::2], 2 * recorded.offset)
        assert fine[name].dilation == (2 * recorded.dilation[0], 2 * recorded.dilation[1])
        assert (fine[name].located().stride, recorded.located().stride) == (4, 8)


@pytest.mark.parametrize("head", [ASPPv2, ASPPv3])
def test_heads_look_as_far_as_before(head: type[nn.Module]) -> None:
    model = net("tiny", "dilated", head=head)
    if isinstance(model.head, ASPPv3):  # the mean of all cells is another one with more cells
        nn.init.zeros_(model.head.pooled[0].weight)
    image = torch.randn(1, 3, 160, 160, dtype=torch.float64)
    finer = model.finer(4)
    with torch.no_grad():
        torch.testing.assert_close(finer.head(finer.trunk(image))[..., ::2, ::2], model.head(model.trunk(image)))


def test_the_net_itself_stays_as_it_is_and_shares_its_weights() -> None:
    model, image = net("tiny", "modulated"), torch.randn(1, 3, 40, 48, dtype=torch.float64)
    with torch.no_grad():
        before = model(image)
        finer = model.finer(4)
        assert torch.equal(model(image), before)
        assert finer(image).shape == before.shape
        assert not torch.equal(finer(image), before)
    pointers = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    assert {name: tensor.data_ptr() for name, tensor in finer.state_dict().items()} == pointers


@pytest.mark.parametrize(
    "trunk, asked, words",
    [
        ("resnet18", 16, r"output_stride is 16; this net has 16, and it can have 4 or 8 instead"),
        ("resnet18", 6, r"output_stride is 6;"),
        ("resnet18, stride 8", 16, r"this net has 8, and it can have 4 instead"),
        ("tiny", "4", r"output_stride is '4'; this net has 8, and it can have 2 or 4 instead"),
    ],
)
def test_a_stride_that_the_net_cannot_have_is_named_with_those_it_can(trunk: str, asked: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        net(trunk, "dilated").finer(asked)  # type: ignore[arg-type]


def test_a_part_that_cannot_be_made_finer_is_named() -> None:
    with pytest.raises(ConfigError, match=r"output_stride=4: Upsample has no refine\(\)"):
        DeepLab(tiny(Dilated), 3, upsample=nn.Upsample()).finer(4)


def test_a_finer_net_can_be_made_finer_still() -> None:
    model, image = net("resnet18", "dilated"), torch.randn(1, 3, 65, 50, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model.finer(8).finer(4)(image), model.finer(4)(image))


def test_training_a_finer_net_trains_the_net() -> None:
    model = net("tiny", "deform")
    model.finer(4)(torch.randn(2, 3, 33, 47, dtype=torch.float64)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
