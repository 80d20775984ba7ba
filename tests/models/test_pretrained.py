"""Loading weights from files that the tests write, in the names of several projects."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from seg.errors import DataError
from seg.models import DeepLab, Deform, Dilated, Modulated, ResNet, load_weights, resnet18, tiny
from seg.models.names import canonical
from seg.models.pretrained import head_fits

SHARED = Path(__file__).parents[3] / "shared" / "data" / "weights"
PARTIAL = SHARED / "resnet18-imagenet-conv1-layer3.safetensors"


def numbered(module: nn.Module) -> dict[str, Tensor]:
    """A state dict in which no two tensors are alike."""
    random = torch.Generator().manual_seed(2)
    return {k: torch.rand(v.shape, generator=random) + 0.5 for k, v in module.state_dict().items() if "num_b" not in k}


def small(conv: object = Deform) -> DeepLab:
    return DeepLab(tiny(conv), 3)


def same(module: nn.Module, state: dict[str, Tensor]) -> bool:
    own = module.state_dict()
    return all(torch.equal(own[k], v) for k, v in state.items())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_whole_file_is_loaded_with_nothing_left_over(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"weights{suffix}", numbered(small())
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    model = small()
    report = load_weights(model, path, strict=True)
    assert same(model, state)
    assert (set(report.loaded), report.missing, report.unused) == (set(state), (), ())


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
def test_a_state_dict_is_found_in_its_wrapper(tmp_path: Path, wrapper: str) -> None:
    state = numbered(small())
    torch.save({wrapper: {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "run.pth")
    model = small()
    load_weights(model, tmp_path / "run.pth", strict=True)
    assert same(model, state)


def test_a_partial_file_reports_every_name_that_was_not_found_or_used(tmp_path: Path) -> None:
    state = {k: v for k, v in numbered(tiny(Dilated)).items() if not k.startswith("layer4.2")}
    torch.save(state | {"fc.weight": torch.ones(2), "fc.bias": torch.ones(2)}, tmp_path / "part.pth")
    trunk = tiny(Deform)
    report = load_weights(trunk, tmp_path / "part.pth")
    missing = {k for k in numbered(trunk) if k.startswith("layer4.2") or ".offset." in k}
    assert set(report.missing) == missing
    assert report.unused == ("fc.weight", "fc.bias")
    assert same(trunk, state)
    assert not trunk.layer4[0].conv2.offset.weight.any()
    assert "2 unused: fc.weight, fc.bias" in str(report)


def test_a_trunks_file_fits_a_whole_net_and_a_whole_nets_file_its_trunk(tmp_path: Path) -> None:
    model, trunk = small(), numbered(tiny(Deform))
    torch.save(trunk, tmp_path / "trunk.pth")
    assert all(name.startswith("head.") for name in load_weights(model, tmp_path / "trunk.pth").missing)
    assert same(model.trunk, trunk)
    torch.save(numbered(model), tmp_path / "whole.pth")
    report = load_weights(model.trunk, tmp_path / "whole.pth")
    assert report.missing == ()
    assert all(name.startswith("head.") for name in report.unused)


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_of_a_net_that_read_bgr_is_turned_where_that_is_said(tmp_path: Path, whole: bool) -> None:
    state, model = numbered(tiny(Deform)), small()
    torch.save(state, tmp_path / "bgr.pth")
    load_weights(model if whole else model.trunk, tmp_path / "bgr.pth", bgr=True)
    first = state.pop("conv1.weight")
    assert same(model.trunk, state)
    image = torch.rand(1, 3, 9, 9)
    weight = model.trunk.conv1.weight
    assert torch.allclose(nn.functional.conv2d(image, weight), nn.functional.conv2d(image.flip(1), first))


def test_strict_refuses_a_partial_file_and_changes_nothing(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(32, 3, 3, 3)}, tmp_path / "part.pth")
    trunk = tiny(Dilated)
    before = trunk.conv1.weight.detach().clone()
    with pytest.raises(ValueError, match=r"does not fit exactly: missing bn1.weight"):
        load_weights(trunk, tmp_path / "part.pth", strict=True)
    assert torch.equal(trunk.conv1.weight, before)


def test_a_shape_that_differs_is_an_error_with_both_shapes(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(32, 3, 7, 7)}, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"wide.pth: conv1.weight is \[32, 3, 7, 7\].* is \[32, 3, 3, 3\]"):
        load_weights(tiny(Dilated), tmp_path / "wide.pth")


def test_skipped_names_keep_their_values_and_may_have_other_shapes(tmp_path: Path) -> None:
    torch.save(numbered(DeepLab(tiny(Dilated), 21)), tmp_path / "voc.pth")
    report = load_weights(small(Dilated), tmp_path / "voc.pth", skip=["head.score"])
    assert report.missing == report.unused == ("head.score.weight", "head.score.bias")


def test_half_precision_is_cast_to_the_models_type(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in numbered(tiny(Dilated)).items()}
    save_file(state, tmp_path / "half.safetensors")
    trunk = tiny(Dilated)
    load_weights(trunk, tmp_path / "half.safetensors")
    assert trunk.conv1.weight.dtype == torch.float32
    assert torch.equal(trunk.conv1.weight, state["conv1.weight"].float())


def test_a_file_with_no_name_in_common_is_an_error(tmp_path: Path) -> None:
    torch.save({"encoder.patch": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(
        ValueError, match=r"has none of the model's weights; it has encoder.patch, the model conv1.weight"
    ):
        load_weights(tiny(Dilated), tmp_path / "other.pth")


@pytest.mark.parametrize(
    "name, content", [("a.pth", b"<html>"), ("b.safetensors", b"x"), ("c.params", b""), ("d.pt", b"")]
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as caught:
        load_weights(tiny(Dilated), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_code_hidden_in_a_pth_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # type: ignore[return-value]

    torch.save({"conv1.weight": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap.pth: cannot be read"):
        load_weights(tiny(Dilated), tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("spread", [0.3, 1.0, 57.0])
def test_a_file_tells_how_far_the_values_of_its_images_spread(tmp_path: Path, spread: float) -> None:
    """The statistics are those that a norm in training takes of smooth images of that spread."""
    torch.manual_seed(3)
    trunk = tiny(Dilated)
    coarse = torch.randn(8, 3, 12, 12)
    image = nn.functional.interpolate(coarse, scale_factor=6, mode="bicubic")
    outputs = trunk.conv1(image / image.std() * spread)
    state = trunk.state_dict() | {"bn1.running_var": outputs.detach().var((0, 2, 3))}
    state["conv1.weight"][3] = state["bn1.running_var"][3] = 0  # some filters of ImageNet's nets are dead
    torch.save(state, tmp_path / "a.pth")
    scale = load_weights(trunk, tmp_path / "a.pth").scale
    assert scale is not None
    assert spread / 3 < scale < spread * 3


def test_a_file_without_statistics_of_its_norm_tells_no_spread(tmp_path: Path) -> None:
    state = tiny(Dilated).state_dict()  # the norm's variances are all 1
    for name in ("bn1.running_var", "conv1.weight", "layer3.0.conv1.weight"):
        torch.save(state, tmp_path / "a.pth")
        assert load_weights(tiny(Dilated), tmp_path / "a.pth").scale is None
        del state[name]


def test_a_head_fits_where_the_file_has_all_of_it_for_as_many_classes(tmp_path: Path) -> None:
    state = numbered(small())
    for name, content, fits in (
        ("whole", state, True),
        ("trunk", numbered(tiny(Deform)), False),
        ("part", {k: v for k, v in state.items() if k != "head.fc6.bias"}, False),
        ("classes", numbered(DeepLab(tiny(Deform), 4)), False),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        assert head_fits(small(), tmp_path / f"{name}.pth") is fits, name


@pytest.mark.skipif(not PARTIAL.is_file(), reason=f"{PARTIAL} is not here")
def test_imagenets_weights_are_of_images_that_spread_by_one() -> None:
    scale = load_weights(resnet18(Dilated), PARTIAL).scale
    assert scale == pytest.approx(1, rel=0.1)


def test_an_unknown_source_lists_the_names_that_are_known() -> None:
    with pytest.raises(ValueError, match=r"'resnet101-coco': no such file, and no known name .*resnet101-imagenet"):
        load_weights(tiny(Dilated), "resnet101-coco")


def test_a_download_that_fails_and_a_damaged_one_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(DataError, match=r"https://\S+resnet18-f37072fd\.pth as .*fetch it by other means"):
        load_weights(resnet18(Dilated), "resnet18-imagenet", download=True)
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True, exist_ok=True)
    cached.write_bytes(b"\xa1 cut")
    with pytest.raises(DataError, match=r"resnet18-f37072fd\.pth: .*delete that file"):
        load_weights(resnet18(Dilated), "resnet18-imagenet")


def test_nothing_is_downloaded_unless_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"allow the download"):
        load_weights(resnet18(Dilated), "resnet18-imagenet")
    assert not list(tmp_path.rglob("*.pth*"))


def test_the_factory_loads_what_it_is_told_to(tmp_path: Path) -> None:
    state = numbered(tiny(Dilated))
    torch.save(state, tmp_path / "w.pth")
    assert same(tiny(Deform, weights=tmp_path / "w.pth"), state)


# -- the names of other projects --


@pytest.mark.parametrize(
    "theirs, ours",
    [
        ("backbone.layer4.0.conv2.conv_offset.bias", "layer4.0.conv2.offset.bias"),
        ("layer4.1.conv2_offset.weight", "layer4.1.conv2.offset.weight"),
        ("module.backbone.layer3.22.bn1.running_var", "layer3.22.bn1.running_var"),
        ("arg:conv1_weight", "conv1.weight"),
        ("aux:bn_conv1_moving_mean", "bn1.running_mean"),
        ("arg:res2a_branch1_weight", "layer1.0.downsample.0.weight"),
        ("arg:bn2a_branch1_gamma", "layer1.0.downsample.1.weight"),
        ("aux:bn3b3_branch2b_moving_var", "layer2.3.bn2.running_var"),
        ("arg:res4b22_branch2c_weight", "layer3.22.conv3.weight"),
        ("arg:scale4b1_branch2a_beta", "layer3.1.bn1.bias"),
        ("arg:res5c_branch2b_weight", "layer4.2.conv2.weight"),
        ("arg:res5a_branch2b_offset_weight", "layer4.0.conv2.offset.weight"),
        ("arg:fc6_bias", "head.fc6.bias"),
        ("arg:score_weight", "head.score.weight"),
        ("arg:upsampling_weight", "upsampling_weight"),
    ],
)
def test_names_of_other_projects_are_understood(theirs: str, ours: str) -> None:
    assert canonical(theirs) == ours


def test_mmcvs_modulated_layers_load_with_their_offsets(tmp_path: Path) -> None:
    state = numbered(tiny(Modulated))
    torch.save(
        {"state_dict": {f"backbone.{k.replace('.offset.', '.conv_offset.')}": v for k, v in state.items()}},
        tmp_path / "m.pth",
    )
    trunk = tiny(Modulated)
    load_weights(trunk, tmp_path / "m.pth", strict=True)
    assert same(trunk, state)


def test_torchvisions_classifier_leaves_only_its_fc_unused(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "tv.pth")
    report = load_weights(resnet18(Dilated), tmp_path / "tv.pth")
    assert (report.missing, report.unused) == ((), ("fc.weight", "fc.bias"))


@pytest.mark.skipif(not PARTIAL.is_file(), reason="the partial ImageNet weights are not here")
def test_the_partial_imagenet_weights_fill_all_but_the_last_stage() -> None:
    report = load_weights(resnet18(Deform), PARTIAL)
    assert report.unused == ()
    assert report.missing
    assert all(name.startswith("layer4.") for name in report.missing)


def test_the_released_nets_names_cover_every_tensor_of_ours() -> None:
    with torch.device("meta"):
        model = DeepLab(ResNet(Deform, style="caffe"), 21)
    names = {canonical(name) for name in released_names()}
    assert {canonical(name) for name in model.state_dict() if "num_batches" not in name} == names


def released_names() -> list[str]:
    """Every name of the released deformable ResNet-101 DeepLab, as its symbol spells them."""
    blocks = [f"2{c}" for c in "abc"] + ["3a", "3b1", "3b2", "3b3", "4a"] + [f"4b{i}" for i in range(1, 23)]
    blocks += [f"5{c}" for c in "abc"]
    leaves = ("arg:{}_gamma", "arg:{}_beta", "aux:{}_moving_mean", "aux:{}_moving_var")
    names = ["arg:conv1_weight"] + [leaf.format("bn_conv1") for leaf in leaves]
    for block in blocks:
        branches = ["2a", "2b", "2c"] + (["1"] if block.endswith("a") else [])
        for branch in branches:
            names.append(f"arg:res{block}_branch{branch}_weight")
            names += [leaf.format(f"bn{block}_branch{branch}") for leaf in leaves]
        if block.startswith("5"):
            names += [f"arg:res{block}_branch2b_offset_{leaf}" for leaf in ("weight", "bias")]
    return names + [f"arg:{layer}_{leaf}" for layer in ("fc6", "score") for leaf in ("weight", "bias")]
