"""Parameters of the DeepLab of arXiv:1703.06211 and arXiv:1811.11168, to the integer, against sums made by hand."""

from functools import partial

import pytest
import torch
from torch import nn

from seg.models import DeepLab, Deform, Dilated, Modulated, resnet50, resnet101

PLAIN = {21: 44_619_861, 19: 44_617_811}  # VOC, Cityscapes
# offset convolutions: 9 * channels * emitted + emitted; res5 has 512 channels, res4 256
ADDED = {
    (Deform, 1): {0: 0, 1: 82_962, 2: 165_924, 3: 248_886, 6: 373_356},
    (Deform, 4): {0: 0, 1: 331_848, 2: 663_696, 3: 995_544, 6: 1_493_424},
    (Modulated, 1): {0: 0, 1: 124_443, 2: 248_886, 3: 373_329, 6: 560_034},
    (Modulated, 4): {0: 0, 1: 497_772, 2: 995_544, 3: 1_493_316, 6: 2_240_136},
}
RELEASE = {"style": "caffe", "norm": "frozen", "frozen_stages": 2}
FROZEN = 327_744  # conv1, res2 and the gains and biases of every norm


def count(module: nn.Module, *, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)


def deeplab(conv: object, classes: int, **trunk: object) -> DeepLab:
    with torch.device("meta"):
        return DeepLab(resnet101(conv, **trunk), classes)


@pytest.mark.parametrize("classes", [21, 19])
@pytest.mark.parametrize("style", ["caffe", "torchvision"])
def test_plain_deeplab_has_the_parameters_of_its_layers(classes: int, style: str) -> None:
    model = deeplab(Dilated, classes, style=style)
    assert count(model) == PLAIN[classes]
    assert count(model.trunk) == 42_500_160
    assert count(model.head) == 2_098_176 + {21: 21_525, 19: 19_475}[classes]
    statistics = [b for name, b in model.named_buffers() if "running" in name]
    assert sum(b.numel() for b in statistics) == 105_344


@pytest.mark.parametrize("classes", [21, 19])
@pytest.mark.parametrize("variant, groups", ADDED)
def test_each_replaced_layer_adds_its_offset_convolution(variant: type, groups: int, classes: int) -> None:
    for replaced, added in ADDED[variant, groups].items():
        model = deeplab(partial(variant, offset_groups=groups), classes, replaced=replaced, **RELEASE)
        assert count(model) == PLAIN[classes] + added
        assert count(model, trained=True) == PLAIN[classes] + added - FROZEN


def test_the_released_nets_have_the_counts_of_the_release() -> None:
    trained = {(Dilated, 21): 44_292_117, (Dilated, 19): 44_290_067, (Deform, 21): 44_541_003, (Deform, 19): 44_538_953}
    whole = {(Deform, 21): 44_868_747, (Deform, 19): 44_866_697}
    for (conv, classes), expected in trained.items():
        model = deeplab(conv, classes, **RELEASE)
        assert count(model, trained=True) == expected
        assert count(model) == whole.get((conv, classes), PLAIN[classes])


def test_three_deformable_layers_add_less_than_a_hundredth() -> None:
    assert count(deeplab(Deform, 21)) / count(deeplab(Dilated, 21)) < 1.01


@pytest.mark.parametrize(
    "make, replaced, groups, added",
    [(resnet101, 30, 1, 1_929_258), (resnet101, 30, 4, 7_717_032), (resnet50, 13, 1, 871_263)],
)
def test_dcn_v2_in_conv3_to_conv5_adds_what_it_should(make: object, replaced: int, groups: int, added: int) -> None:
    with torch.device("meta"):
        plain, modulated = make(Dilated), make(partial(Modulated, offset_groups=groups), replaced=replaced)
    assert count(modulated) - count(plain) == added
    assert not any(name.startswith("layer1") and "offset" in name for name, _ in modulated.named_parameters())
