"""Heads and upsampling against torch's and torchvision's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from seg.errors import ConfigError
from seg.models import ASPPv2, ASPPv3, DeepLab, Deform, FixedDeconv, Head, Interpolate, tiny


def released_upsampling(logits: Tensor, height: int, width: int) -> Tensor:
    """32x32, stride 16 transposed convolution by the bilinear weights, cropped at (8, 8), written out."""
    i = torch.arange(32, dtype=torch.float64)
    tent = 1 - (i / 16 - 31 / 32).abs()
    kernel = (tent[:, None] * tent[None, :]).expand(logits.shape[1], 1, 32, 32)
    up = F.conv_transpose2d(logits, kernel, stride=16, groups=logits.shape[1])
    return up[..., 8 : 8 + height, 8 : 8 + width]


@pytest.mark.parametrize("height, width", [(72, 51), (64, 48), (49, 40)])
def test_fixed_deconv_is_the_released_transposed_convolution(height: int, width: int) -> None:
    logits = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(FixedDeconv(16)(logits, (height, width)), released_upsampling(logits, height, width))


def test_fixed_deconv_is_interpolation_away_from_the_edge() -> None:
    logits = torch.randn(1, 2, 5, 7)
    ours, interpolated = FixedDeconv(8)(logits, (40, 56)), Interpolate(8)(logits, (40, 56))
    torch.testing.assert_close(ours[..., 4:-4, 4:-4], interpolated[..., 4:-4, 4:-4])
    assert not torch.allclose(ours[..., 0, :], interpolated[..., 0, :])


def test_fixed_deconv_has_no_parameters_and_saves_nothing() -> None:
    assert not FixedDeconv().state_dict()
    assert not list(FixedDeconv().parameters())


def test_fixed_deconv_refuses_an_image_that_the_map_does_not_cover() -> None:
    with pytest.raises(ValueError, match=r"a 4x3 map at stride 16 does not cover 73x48 px"):
        FixedDeconv(16)(torch.zeros(1, 2, 4, 3), (73, 48))


@pytest.mark.parametrize("upsample", [None, FixedDeconv(8)])
@pytest.mark.parametrize("height, width", [(64, 64), (33, 71)])
def test_logits_have_the_images_resolution(upsample: nn.Module | None, height: int, width: int) -> None:
    model = DeepLab(tiny(Deform), 3, upsample=upsample).eval()
    with torch.inference_mode():
        assert model(torch.randn(2, 3, height, width)).shape == (2, 3, height, width)


def test_logits_are_float32_under_autocast() -> None:
    model = DeepLab(tiny(Deform), 3).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(1, 3, 32, 32)).dtype == torch.float32


def test_every_trained_parameter_of_a_fresh_net_has_a_gradient() -> None:
    torch.manual_seed(0)
    model = DeepLab(tiny(Deform), 3)
    F.cross_entropy(model(torch.randn(2, 3, 48, 48)), torch.randint(3, (2, 48, 48))).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


def test_head_starts_as_the_release_does() -> None:
    torch.manual_seed(0)
    head = Head(256, 21, init_std=0.01)
    assert float(head.fc6.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert float(head.score.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not head.fc6.bias.any()
    assert not head.score.bias.any()


def test_head_is_two_matrix_products_with_a_relu_between() -> None:
    head, x = Head(6, 4, hidden=5), torch.randn(2, 6, 3, 7)

    def product(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        assert layer.bias is not None
        return torch.einsum("oi,nihw->nohw", layer.weight[..., 0, 0], x) + layer.bias[:, None, None]

    torch.testing.assert_close(head(x), product(head.score, product(head.fc6, x).clamp(min=0)))


def test_aspp_v2_sums_its_dilated_scores() -> None:
    head, x = ASPPv2(4, 3, dilations=(1, 2, 5)), torch.randn(2, 4, 9, 8)
    expected = sum(
        F.conv2d(x, s.weight, s.bias, padding=d, dilation=d) for s, d in zip(head.scores, (1, 2, 5), strict=True)
    )
    torch.testing.assert_close(head(x), expected)


def test_aspp_v3_computes_what_torchvisions_head_does_with_its_weights() -> None:
    torch.manual_seed(0)
    theirs = DeepLabHead(16, 3, (2, 4, 6))
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
    ours = nn.ModuleDict({"head": ASPPv3(16, 3, dilations=(2, 4, 6))})
    state = {f"classifier.{name}": value for name, value in theirs.state_dict().items()}
    targets = dict(ours.state_dict())
    ours.load_state_dict({ours_name: state[name] for ours_name, name in paired(targets, state).items()}, strict=True)
    x = torch.randn(2, 16, 9, 11)
    torch.testing.assert_close(ours["head"].eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


def paired(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, str]:
    from seg.models.names import canonical

    names = {canonical(name): name for name in theirs}
    return {name: names[name] for name in ours}


def test_aspp_v3_says_why_it_cannot_train_on_one_image() -> None:
    head = ASPPv3(8, 2).train()
    with pytest.raises(ConfigError, match=r"2 images or more a process.*raise data\.batch_size"):
        head(torch.randn(1, 8, 5, 5))
    head.pooled = nn.SyncBatchNorm.convert_sync_batchnorm(head.pooled).eval()  # in training it sees the images of all
    assert head(torch.randn(1, 8, 5, 5)).shape == (1, 2, 5, 5)


@pytest.mark.parametrize("classes", [1, 0, 2.0])
def test_a_net_needs_two_classes(classes: float) -> None:
    with pytest.raises(ValueError, match=r"classes is .*2 or more"):
        DeepLab(tiny(Deform), classes)


def test_a_deformable_net_compiles_as_one_graph() -> None:
    model, image = DeepLab(tiny(Deform, replaced=1), classes=5).eval(), torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(image), model(image))
