"""The trunks against torchvision's, and their geometry against gradients."""

from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn

from seg.models import Deform, Dilated, Modulated, ResNet, resnet18, resnet50, resnet101, tiny

SMALL = {"depths": (1, 1, 2, 1), "widths": (2, 2, 2, 2), "stem_width": 2, "replaced": 1}


def with_random_norms(model: nn.Module) -> nn.Module:
    """Norms with statistics and affine that are not those of the start."""
    random = torch.Generator().manual_seed(11)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=random)
            layer.running_var.uniform_(0.5, 1.5, generator=random)
            with torch.no_grad():
                layer.weight.uniform_(0.5, 1.0, generator=random)
                layer.bias.normal_(0, 0.1, generator=random)
    return model.eval()


def features(model: nn.Module, image: Tensor) -> Tensor:
    """torchvision's trunk, without its pooling and classifier."""
    x = model.maxpool(model.relu(model.bn1(model.conv1(image))))
    return model.layer4(model.layer3(model.layer2(model.layer1(x))))


def loosen(layer: nn.Conv2d, dilation: int) -> None:
    layer.dilation = layer.padding = (dilation, dilation)


@pytest.mark.parametrize("replaced", [0, 3])
@pytest.mark.parametrize("output_stride", [16, 8])
def test_resnet50_computes_what_torchvisions_does(replaced: int, output_stride: int) -> None:
    torch.manual_seed(0)
    dilate = [False, output_stride == 8, True]
    theirs = with_random_norms(torchvision.models.resnet50(weights=None, replace_stride_with_dilation=dilate))
    # torchvision's first block of a dilated stage keeps the dilation of the stage before
    loosen(theirs.layer4[0].conv2, 32 // output_stride)
    loosen(theirs.layer3[0].conv2, 16 // output_stride)
    conv = partial(Dilated, dilation=32 // output_stride)
    ours = resnet50(conv, replaced=replaced, output_stride=output_stride).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    ours.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), features(theirs, image), rtol=1e-4, atol=1e-4)


def test_resnet18_computes_what_torchvisions_does() -> None:
    torch.manual_seed(0)
    theirs = with_random_norms(torchvision.models.resnet18(weights=None))
    theirs.layer4[0].conv1.stride = theirs.layer4[0].downsample[0].stride = (1, 1)
    for block in theirs.layer4:
        loosen(block.conv1, 2)
        loosen(block.conv2, 2)
    ours = resnet18(Deform, replaced=3).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")}
    assert all(".offset." in key for key in ours.load_state_dict(state, strict=False).missing_keys)
    image = torch.randn(2, 3, 64, 75)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), features(theirs, image), rtol=1e-4, atol=1e-4)


def kinds(trunk: ResNet) -> dict[str, type[nn.Module]]:
    return {name: type(trunk.get_submodule(name)) for name in trunk.cells}


@pytest.mark.parametrize("make, layers", [(tiny, 6), (resnet18, 16), (resnet50, 16), (resnet101, 33)])
def test_the_last_replaced_layers_and_no_others_are_the_argument(make: object, layers: int) -> None:
    with torch.device("meta"):
        for replaced in (0, 1, 4, layers):
            found = list(kinds(make(Modulated, replaced=replaced)).values())
            assert found == [nn.Conv2d] * (layers - replaced) + [Modulated] * replaced


def test_a_replaced_layer_has_its_own_dilation_in_the_last_stage_and_the_natural_one_before() -> None:
    with torch.device("meta"):
        trunk = resnet50(partial(Dilated, dilation=6), replaced=13)
    layers = {name: trunk.get_submodule(name) for name in trunk.cells}
    assert {layer.dilation for name, layer in layers.items() if name.startswith("layer4")} == {(6, 6)}
    assert {layer.dilation for name, layer in layers.items() if not name.startswith("layer4")} == {(1, 1)}
    assert [name for name, layer in layers.items() if layer.stride == (2, 2)] == ["layer2.0.conv2", "layer3.0.conv2"]


@pytest.mark.parametrize("output_stride, dilations", [(16, (1, 2)), (8, (2, 4))])
def test_an_unreplaced_layer_keeps_the_dilation_that_stands_for_the_lost_stride(
    output_stride: int, dilations: tuple[int, int]
) -> None:
    with torch.device("meta"):
        trunk = resnet101(Dilated, replaced=0, output_stride=output_stride)
    found = [{block.conv2.dilation[0] for block in stage} for stage in (trunk.layer3, trunk.layer4)]
    assert found == [{d} for d in dilations]


@pytest.mark.parametrize("make, channels", [(tiny, 128), (resnet18, 512)])
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("style", ["torchvision", "caffe"])
def test_the_map_has_the_channels_and_stride_that_the_trunk_states(
    make: object, channels: int, output_stride: int, style: str
) -> None:
    trunk = make(Dilated, output_stride=output_stride, style=style).eval()
    assert (trunk.channels, trunk.stride) == (channels, output_stride)
    with torch.inference_mode():
        assert trunk(torch.zeros(1, 3, 96, 160)).shape == (1, channels, 96 // output_stride, 160 // output_stride)


@pytest.mark.parametrize(
    "height, padded, unpadded", [(360, 23, 23), (68, 5, 5), (65, 5, 4), (97, 7, 6), (1024, 64, 64)]
)
def test_the_caffe_style_pools_without_padding_and_rounds_up(height: int, padded: int, unpadded: int) -> None:
    # by hand: 68 -> 34 -> 17 | 17 (16 if rounded down) -> 9 -> 5; 65 -> 33 -> 17 | 16 -> 9 | 8 -> 5 | 4;
    # 97 -> 49 -> 25 | 24 -> 13 | 12 -> 7 | 6
    for style, expected in (("torchvision", padded), ("caffe", unpadded)):
        with torch.device("meta"):
            trunk = ResNet(Dilated, style=style, **SMALL).eval()
            assert trunk(torch.zeros(1, 3, height, 64)).shape[2] == expected


@pytest.mark.parametrize("make", [tiny, partial(ResNet, **SMALL)])
@pytest.mark.parametrize("style", ["torchvision", "caffe"])
def test_every_cell_sits_where_its_receptive_field_is_centred(make: object, style: str) -> None:
    trunk = make(Dilated, style=style).double().eval()
    for layer in trunk.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
    if isinstance(trunk.maxpool, nn.MaxPool2d):  # linear, and in the same place
        pool = trunk.maxpool
        trunk.maxpool = nn.AvgPool2d(3, 2, pool.padding, ceil_mode=pool.ceil_mode)
    image = torch.ones(1, 3, 400, 400, dtype=torch.float64, requires_grad=True)
    for name in trunk.cells:
        assert centre_read(trunk, name, 200 // trunk.cells[name].stride, image) == pytest.approx(
            trunk.cells[name].centres(400)[200 // trunk.cells[name].stride]
        )


def centre_read(trunk: nn.Module, name: str, cell: int, image: Tensor) -> float:
    """Row of the image around which the gradient of one cell of a layer's input map is centred."""
    read: list[Tensor] = []
    hook = trunk.get_submodule(name).register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    trunk(image)
    hook.remove()
    (gradient,) = torch.autograd.grad(read[0][0, :, cell, cell].sum(), image)
    rows = gradient.sum((0, 1, 3))
    return float((rows * torch.arange(400)).sum() / rows.sum())


def test_a_seed_gives_the_same_trunk_whatever_the_variant() -> None:
    states = []
    for conv in (Dilated, Deform, Modulated):
        torch.manual_seed(7)
        states.append(tiny(conv).state_dict())
    shared = states[0].keys()
    assert all(torch.equal(states[0][key], state[key]) for state in states[1:] for key in shared)


def test_the_last_gain_is_that_of_each_blocks_last_norm() -> None:
    trunk = tiny(Dilated, last_gamma=0.2)
    assert all(torch.equal(block.bn3.weight, torch.full((128,), 0.2)) for block in trunk.layer4)
    assert torch.equal(trunk.layer4[0].bn2.weight, torch.ones(64))


def test_a_frozen_norm_is_the_same_in_training_and_moves_nothing() -> None:
    trunk = with_random_norms(ResNet(Dilated, norm="frozen", **SMALL))
    image = torch.randn(2, 3, 64, 64)
    before = {k: v.clone() for k, v in trunk.state_dict().items()}
    evaluated = trunk(image)
    torch.testing.assert_close(trunk.train()(image), evaluated)
    assert all(torch.equal(before[k], v) for k, v in trunk.state_dict().items())
    assert not any(p.requires_grad for n, p in trunk.named_parameters() if "bn" in n or "downsample.1" in n)


def test_a_deep_net_with_frozen_norms_is_usable_before_any_weights_are_read() -> None:
    torch.manual_seed(0)
    deep = {"depths": (3, 4, 23, 3), "widths": (8, 8, 8, 8), "stem_width": 8, "replaced": 3}
    image = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        frozen, loud = (ResNet(Deform, norm="frozen", last_gamma=gain, **deep)(image).std() for gain in (None, 1.0))
    assert 0.1 < frozen < 10
    assert loud > 100 * frozen  # each of 33 blocks doubles the variance, as no norm takes it back


@pytest.mark.parametrize("stages, fixed", [(0, ()), (1, ("conv1", "bn1")), (3, ("conv1", "bn1", "layer1", "layer2"))])
def test_frozen_stages_are_fixed_and_the_others_are_not(stages: int, fixed: tuple[str, ...]) -> None:
    trunk = ResNet(Dilated, frozen_stages=stages, **SMALL)
    for name, parameter in trunk.named_parameters():
        assert parameter.requires_grad == (name.split(".")[0] not in fixed)
    before = trunk.bn1.running_mean.clone()
    trunk.train()(torch.randn(2, 3, 64, 64))
    assert torch.equal(trunk.bn1.running_mean, before) == (stages > 0)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"replaced": 7}, "replaced is 7; it must be a whole number, 0 to 6"),
        ({"replaced": -1}, "replaced is -1"),
        ({"output_stride": 32}, "output_stride is 32; it must be one of 8, 16"),
        ({"style": "detectron"}, "style is 'detectron'; it must be one of 'torchvision', 'caffe'"),
        ({"norm": "group"}, "norm is 'group'; it must be one of 'train', 'frozen'"),
        ({"frozen_stages": 6}, "frozen_stages is 6; it must be a whole number, 0 to 5"),
    ],
)
def test_a_trunk_names_the_value_that_is_out_of_range(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(Dilated, **arguments)
