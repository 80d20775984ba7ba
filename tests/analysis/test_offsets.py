"""What the hooks see, against what the layers were given."""

import pytest
import torch
from torch import Tensor, nn

from seg.analysis import offset_statistics, record_offsets
from seg.models import Active, Cells, DeepLab, Deform, Dilated, Modulated, Modulation, resnet50, tiny


def with_biases(model: nn.Module) -> nn.Module:
    """Every position has the same offsets: the numbers 1, 2, ... in the order of the channels, a tenth of them."""
    for module in model.modules():
        if isinstance(getattr(module, "offset", None), nn.Module):
            bias = module.offset.bias
            with torch.no_grad():
                bias.copy_(torch.arange(1, len(bias) + 1) / 10)
    return model.eval()


def image() -> Tensor:
    return torch.randn(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("conv", [Deform, Modulated, Active])
def test_positions_are_the_grid_plus_the_offsets_of_each_tap(conv: type[nn.Module]) -> None:
    model = with_biases(DeepLab(tiny(conv), 3))
    with torch.no_grad(), record_offsets(model) as recorded:
        model(image())
    assert list(recorded) == ["layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"]
    positions = recorded["layer4.1.conv2"].positions
    assert positions.shape == (2, 1, 3, 3, 2, 7, 9)
    # filter (4, 5), tap (2, 0): row 4 - 2 + 2 * 2, column 5 - 2 + 0; channels 12 and 13 hold 1.3 and 1.4
    assert positions[1, 0, 2, 0, :, 4, 5].tolist() == pytest.approx([6 + 1.3, 3 + 1.4])


@pytest.mark.parametrize("conv", [Dilated, Modulation])
def test_layers_without_offsets_have_rows_too(conv: type[nn.Module]) -> None:
    model = with_biases(DeepLab(tiny(conv, replaced=2), 3))
    with torch.no_grad(), record_offsets(model) as recorded:
        model(image())
    assert list(recorded) == ["layer4.1.conv2", "layer4.2.conv2"]
    assert recorded["layer4.2.conv2"].positions[0, 0, 2, 0, :, 4, 5].tolist() == [6, 3]


def test_only_the_last_pass_is_held_and_nothing_is_left_behind() -> None:
    model = with_biases(DeepLab(tiny(Deform), 3))
    with torch.no_grad(), record_offsets(model) as recorded:
        model(image())
        model(image()[:1])
    assert len(recorded["layer4.0.conv2"].offset) == 1
    assert not any(module._forward_hooks for module in model.modules())
    before = dict(recorded)
    model(image())
    assert recorded == before


def test_recording_computes_nothing_twice_and_changes_no_output() -> None:
    model = with_biases(DeepLab(tiny(Modulated), 3))
    calls: list[int] = []
    for module in model.modules():
        if isinstance(module, Modulated):
            module.offset.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        expected = model(image())
        with record_offsets(model):
            assert torch.equal(model(image()), expected)
    assert len(calls) == 2 * 3


def test_offsets_are_detached_from_training() -> None:
    model = DeepLab(tiny(Deform), 3)
    with record_offsets(model) as recorded:
        model(image())
    assert not any(layer.offset.requires_grad for layer in recorded.values())


def test_every_layer_knows_where_its_cells_sit_in_the_image() -> None:
    model = resnet50(Deform, replaced=13, style="torchvision")
    with torch.no_grad(), record_offsets(model.eval()) as recorded:
        model(image())
    assert recorded["layer2.0.conv2"].cells == Cells(4)
    assert recorded["layer2.1.conv2"].cells == Cells(8)
    rows, columns = recorded["layer2.0.conv2"].centres()  # it strides: its filters are 8 px apart
    assert rows.tolist() == [0, 8, 16, 24, 32, 40, 48]
    assert columns.tolist() == list(range(0, 70, 8))
    assert recorded["layer4.2.conv2"].centres()[0].tolist() == [0, 16, 32, 48]


def test_a_layer_outside_a_trunk_says_that_its_place_is_unknown() -> None:
    model = nn.Sequential(Deform(3, 4))
    with torch.no_grad(), record_offsets(model) as recorded:
        model(image())
    with pytest.raises(ValueError, match=r"record a model that has a trunk"):
        recorded["0"].centres()


def test_statistics_are_the_mean_and_longest_displacement() -> None:
    model = tiny(Deform, replaced=1)
    with torch.no_grad():
        model.layer4[2].conv2.offset.bias[:4] = torch.tensor([3.0, 4.0, 0.0, 1.0])
        with offset_statistics(model) as statistics:
            model(image())
    assert statistics == {"layer4.2.conv2": {"mean": pytest.approx(6 / 9), "max": pytest.approx(5.0)}}


def test_dilated_nets_have_no_statistics_of_offsets() -> None:
    with torch.no_grad(), offset_statistics(model := tiny(Dilated)) as statistics:
        model(image())
    assert statistics == {}


def test_no_statistics_are_taken_of_a_pass_that_failed() -> None:
    with pytest.raises(ValueError, match=r"on purpose"), offset_statistics(tiny(Deform)) as statistics:
        raise ValueError("on purpose")
    assert statistics == {}
