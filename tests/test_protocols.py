"""The papers' experiments compose to the papers' nets and settings: -m experiment=table1/voc and the others."""

import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from build import build, check  # noqa: E402
from training import fresh_model  # noqa: E402

from seg.errors import ConfigError  # noqa: E402
from seg.models import Dilated, tiny  # noqa: E402

CLASSES = {"voc": 21, "cityscapes": 19}
PLAIN = {"voc": 44_619_861, "cityscapes": 44_617_811}
# 3x3 layers that are replaced, the dilation of those in res5, and what the offset convolutions add: 82,962 for each
# in res5 (9 x 512 x 18 + 18), 41,490 for each in res4 (9 x 256 x 18 + 18)
ROWS = {
    "dilated_2": (3, 2, 0),
    "dilated_4": (3, 4, 0),
    "dilated_6": (3, 6, 0),
    "dilated_8": (3, 8, 0),
    "deform_1": (1, 2, 82_962),
    "deform_2": (2, 2, 165_924),
    "deform_3": (3, 2, 248_886),
    "deform_6": (6, 2, 373_356),
}
TABLES = {
    "table1": ["dilated_2", "deform_1", "deform_2", "deform_3", "deform_6"],
    "table3": ["dilated_2", "dilated_4", "dilated_6", "dilated_8", "deform_3"],
    "release": ["dilated_2", "deform_3"],
}
# steps, images a step, learning rate of a mean over them, and where the rate falls to a tenth
PAPER = {"voc": (30_000, 8, 8e-3, 20_000), "cityscapes": (45_000, 8, 8e-3, 30_000)}
RELEASE = {"voc": (63_492, 4, 2e-3, 42_328), "cityscapes": (78_811, 4, 2e-3, 59_999)}
EACH = [(table, data) for table in TABLES for data in CLASSES]


def configuration(experiment: str, *overrides: str, variant: str = "deform_3") -> DictConfig:
    given = [f"experiment={experiment}", f"variant={variant}", "data.root=R", "weights=W", "run=U", *overrides]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", given)


def last_3x3(model: nn.Module) -> list[nn.Module]:
    """The 3x3 layers of res4 and res5, in order; those that emit offsets are no layers of their own."""
    blocks = [*model.trunk.layer3, *model.trunk.layer4]
    return [block.conv2 for block in blocks]


@pytest.mark.parametrize("table, data", EACH)
def test_each_row_of_a_table_is_one_job(table: str, data: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("train", [f"experiment={table}/{data}"], return_hydra_config=True)
    assert config.hydra.sweeper.params.variant.split(",") == TABLES[table]
    assert config.hydra.sweep.dir == f"runs/{table}/{data}"
    assert config.weights  # nobody trains from nothing unawares


@pytest.mark.parametrize("data", CLASSES)
@pytest.mark.parametrize("variant", ROWS)
def test_each_row_composes_to_its_net(data: str, variant: str) -> None:
    table = "table1" if variant in TABLES["table1"] else "table3"
    config = configuration(f"{table}/{data}", variant=variant)
    check(config)
    with torch.device("meta"):
        model = build(config.model, classes=CLASSES[data])
    replaced, dilation, added = ROWS[variant]
    kind = "Deform" if variant.startswith("deform") else "Dilated"
    layers = last_3x3(model)
    assert [type(layer).__name__ == kind for layer in layers] == [False] * (26 - replaced) + [True] * replaced
    assert [layer.dilation for layer in layers] == [(1, 1)] * 23 + [(dilation, dilation)] * 3
    assert sum(p.numel() for p in model.parameters()) == PLAIN[data] + added
    # conv1, res2 and the gains and biases of all norms are fixed
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 327_744
    assert type(model.upsample).__name__ == "FixedDeconv"


def test_table_2_to_4_nets_have_the_released_geometry() -> None:
    with torch.device("meta"):
        trunk = build(configuration("table1/voc").model, classes=21).trunk
    assert trunk.layer2[0].conv1.stride == (2, 2)  # the stride on the first 1x1
    assert trunk.maxpool.ceil_mode
    assert trunk.maxpool.padding == 0
    offsets = [block.conv2.offset for block in trunk.layer4]
    assert [(o.out_channels, o.dilation) for o in offsets] == [(18, (1, 1))] * 3  # one offset group, dilation 1


@pytest.mark.parametrize("table, data", EACH)
def test_the_schedule_has_the_stated_values(table: str, data: str) -> None:
    config = configuration(f"{table}/{data}")
    steps, images, rate, fall = (RELEASE if table == "release" else PAPER)[data]
    assert config.trainer.iterations == steps
    assert config.data.batch_size * config.trainer.accumulate == images
    # lr (sum of the images' gradients + wd w) = (lr x images) (their mean + (wd / images) w)
    assert config.optimizer.lr == pytest.approx(rate)
    assert config.optimizer.lr == pytest.approx(images * (5e-4 if table == "release" else 1e-3))
    assert config.optimizer.weight_decay == pytest.approx(5e-4 / images)
    schedule = build(config.schedule)
    assert [schedule.factor(step) for step in (fall - 1, fall, steps - 1)] == pytest.approx([1, 0.1, 0.1])
    warm = 0.1 if (table, data) == ("release", "cityscapes") else 1
    assert [schedule.factor(step) for step in (0, 999, 1000)] == pytest.approx([warm, warm, 1])


def test_biases_have_twice_the_rate_and_all_weights_decay() -> None:
    config = configuration("release/voc")
    model = build(config.model, classes=21)
    groups = build(config.optimizer, model).param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    offset = model.trunk.layer4[2].conv2.offset
    for layer in (offset, model.head.fc6, model.head.score):
        assert found[id(layer.weight)] == pytest.approx((2e-3, 1.25e-4))
        assert found[id(layer.bias)] == pytest.approx((4e-3, 0))


@pytest.mark.parametrize(
    "experiment, resize, crop, truth",
    [
        ("table1/voc", [360, 600], None, "original"),
        ("table3/cityscapes", [1024, 2048], None, "original"),
        ("release/voc", [360, 600], None, "resized"),
        ("release/cityscapes", [1024, 2048], [768, 1024], "original"),
    ],
)
def test_images_are_of_the_stated_sizes(experiment: str, resize: list, crop: list | None, truth: str) -> None:
    data = configuration(experiment).data
    assert data.train_transform.resize == data.evaluate_transform.resize == resize
    assert data.train_transform.crop == crop
    assert data.train_transform.flip
    assert data.train_transform.scale is None
    assert data.evaluate_transform.truth == truth
    assert data.train.split == ("train_aug" if data.name == "voc" else "train")
    assert build(data.normalization).std == (1.0, 1.0, 1.0)


def test_weights_that_fit_by_name_alone_are_refused() -> None:
    style = ["trunk.style=torchvision", "data.normalization._target_=seg.data.imagenet_normalization"]
    for some in ([], style[:1], style[1:]):
        with pytest.raises(
            ConfigError, match="resnet101-imagenet is of a net with other strides .* trunk.style=torchv"
        ):
            fresh_model(configuration("paper/voc", "weights=resnet101-imagenet", *some), 21)


def small_net(weights: Path, *overrides: str, classes: int = 5) -> nn.Module:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = ["trunk=tiny", "head.hidden=8", "run=U", f"weights={weights}", *overrides]
        return fresh_model(compose("train", given), classes)


CAFFE = "data.normalization._target_=seg.data.caffe_normalization"


@pytest.mark.parametrize("spread, here, way_out", [(1.0, [CAFFE], "torchvision"), (57.0, [], "caffe")])
def test_a_file_of_a_net_that_read_other_images_is_refused(
    tmp_path: Path, spread: float, here: list[str], way_out: str
) -> None:
    state = tiny(Dilated).state_dict()
    state["bn1.running_var"] = state["conv1.weight"].square().sum((1, 2, 3)) * 2 * spread**2
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=rf"w.pth: .* spread by about {spread:.2g}.* trunk.style={way_out} data.norm"):
        small_net(tmp_path / "w.pth", *here, "weights_bgr=false")
    other = [] if here else [CAFFE, "weights_bgr=true"]
    first = small_net(tmp_path / "w.pth", *other).trunk.conv1.weight
    assert torch.equal(first, state["conv1.weight"] if here else state["conv1.weight"].flip(1))


def test_the_order_of_colours_is_asked_for_where_files_of_both_go_round(tmp_path: Path) -> None:
    torch.save(tiny(Dilated).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"w.pth may be of a net that reads blue, green, red.* weights_bgr=true"):
        small_net(tmp_path / "w.pth", CAFFE)
    small_net(tmp_path / "w.pth")  # torchvision's read red, green, blue


def test_the_head_is_loaded_too_where_it_is_for_as_many_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    given = small_net("null")
    torch.save(given.state_dict(), tmp_path / "w.pth")
    for classes, with_head in ((5, True), (6, False)):
        net = small_net(tmp_path / "w.pth", classes=classes)
        assert torch.equal(net.trunk.conv1.weight, given.trunk.conv1.weight)
        assert torch.equal(net.head.fc6.weight, given.head.fc6.weight) is with_head
        assert ("unused: head.fc6.weight" in capsys.readouterr().out) is not with_head


def test_a_resnet_without_weights_is_told_of(capsys: pytest.CaptureFixture) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        fresh_model(compose("train", ["trunk=resnet18", "run=U"]), 5)
        fresh_model(compose("train", ["trunk=tiny", "run=U"]), 5)
    told = capsys.readouterr().out.splitlines()
    assert told == ["resnet18 starts from random weights; weights=resnet18-imagenet download=true gives it ImageNet's"]
