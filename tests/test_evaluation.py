"""Street scenes in Cityscapes' layout: trained on for two steps, then evaluated in every way that there is."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from seg.data import Cityscapes
from seg.engine import RunFolder
from seg.errors import ConfigError, RunError

ROOT = Path(__file__).resolve().parents[1]
CAMVID = ROOT.parent / "shared" / "data" / "camvid"
sys.path.insert(0, str(ROOT / "scripts"))

from evaluation import evaluate_folder_of_predictions, evaluate_run  # noqa: E402
from run import load_config  # noqa: E402
from training import train_run  # noqa: E402

pytestmark = pytest.mark.skipif(not CAMVID.is_dir(), reason=f"the real images of {CAMVID} are not here")
LABEL_IDS = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25, 0], dtype=np.uint8)  # of CamVid's classes


def configuration(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, list(overrides))


def write_cityscapes(root: Path) -> None:
    """A few CamVid frames, 96x128 px, under Cityscapes' names and label ids."""
    for split, count in (("train", 2), ("val", 3)):
        for number, path in enumerate(sorted((CAMVID / "labels" / split).glob("*.png"))[:count]):
            stem = f"camvid_{number:06d}_000019"
            image = Image.open(CAMVID / "images" / split / f"{path.stem}.jpg").resize((128, 96))
            label = Image.fromarray(LABEL_IDS[np.array(Image.open(path))]).resize((128, 96), Image.Resampling.NEAREST)
            for picture, place, kind in ((image, "leftImg8bit", "leftImg8bit"), (label, "gtFine", "gtFine_labelIds")):
                target = root / place / split / "camvid" / f"{stem}_{kind}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.save(target)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("cityscapes")
    write_cityscapes(root)
    return root


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_run(
        configuration(
            "train", "data=cityscapes", f"data.root={root}", "trunk=tiny", "head.hidden=16", "data.workers=0",
            "data.batch_size=2", "data.train_transform.crop=[64,64]", "trainer.iterations=2", "evaluate=false",
            "runtime.threads=1", "runtime.precision=fp32", f"run={folder}",
        )
    )  # fmt: skip
    return folder


def evaluated(run: Path, output: Path, *overrides: str, official: bool = False) -> dict:
    given = configuration("evaluate", f"run={run}", *overrides)
    config = load_config(str(run), given)
    config.inference = given.inference
    return evaluate_run(RunFolder(run), config, output=output, examples=1, official=official)


def test_official_evaluation_of_a_run_and_of_its_predictions_equals_ours(root: Path, run: Path, tmp_path: Path) -> None:
    result = evaluated(run, tmp_path, official=True)
    assert result["official"]["miou"] == pytest.approx(result["miou"], abs=1e-9)
    files = evaluate_folder_of_predictions(
        tmp_path / "predictions",
        configuration("evaluate", "data=cityscapes", f"+data.root={root}"),
        output=tmp_path / "again",
        official=True,
    )
    assert files["iou"] == result["iou"]
    assert files["official"] == result["official"]
    assert "predictions as given" in files["protocol"]
    assert len(list((tmp_path / "predictions").glob("*.png"))) == len(Cityscapes(root, "val"))


def test_the_protocol_says_how_the_net_was_asked(run: Path, tmp_path: Path) -> None:
    plain = evaluated(run, tmp_path / "plain")
    assert "at the labels' resolution, single scale, no flip, computed in fp32, 255 ignored" in plain["protocol"]
    assert plain["precision"] == plain["train_precision"] == "fp32"
    assert plain["effective_dilation"]
    several = evaluated(
        run, tmp_path / "several", "inference.scales=[0.5,1.0]", "inference.flip=true", "inference.window=[48,64]",
        "runtime.precision=bf16",
    )  # fmt: skip
    assert "scales 0.5, 1, with the mirror image, windows of 48x64 px every 32x42 px" in several["protocol"]
    assert "mean of the probabilities, computed in bf16" in several["protocol"]
    assert (several["precision"], several["train_precision"]) == ("bf16", "fp32")
    assert several["effective_dilation"] == []  # that of windows and scales would be of other filters
    finer = evaluated(run, tmp_path / "finer", "inference.output_stride=4")
    assert "single scale, no flip, evaluated at output stride 4, computed in fp32" in finer["protocol"]
    assert finer["effective_dilation"] == []
    assert finer["cost"]["flops"] > 2 * plain["cost"]["flops"]
    with pytest.raises(ConfigError, match="output_stride is 16; this net has 8, and it can have 2 or 4 instead"):
        evaluated(run, tmp_path / "coarser", "inference.output_stride=16")
    resized = evaluated(
        run, tmp_path / "resized", "data.evaluate_transform.resize=48", "data.evaluate_transform.truth=resized"
    )
    assert "the truth resized with it (the released DeepLab's protocol)" in resized["protocol"]
    assert ", images resized to a short side of 48 px, single scale" in resized["protocol"]
    bounded = evaluated(run, tmp_path / "bounded", "data.evaluate_transform.resize=[40,48]")
    assert "labels' resolution, images resized to a short side of 40 px, 48 px long at most, si" in bounded["protocol"]
    pixels = [sum(image["union"]) for image in resized["per_image"]]
    assert all(48 * 64 / 2 < count <= 2 * 48 * 64 for count in pixels)


def test_official_evaluation_of_other_data_is_refused(run: Path, tmp_path: Path) -> None:
    config = configuration("evaluate", "data=creatures")
    with pytest.raises(ConfigError, match="official=true is Cityscapes' own evaluation"):
        evaluate_folder_of_predictions(tmp_path, config, official=True)
    with pytest.raises(ConfigError, match="official=true compares at the labels' size"):
        evaluated(run, tmp_path, "data.evaluate_transform.truth=resized", official=True)


def test_ours_is_kept_where_the_official_evaluation_objects(root: Path, tmp_path: Path) -> None:
    for entry in Cityscapes(root, "val").entries:
        ids = np.array(Image.open(entry.label))
        ids[0, 0] = 255  # no label of theirs
        Image.fromarray(ids).save(tmp_path / f"{entry.name}.png")
    with pytest.raises(RunError, match=r"cityscapesscripts gave no result \(that of this program is written\)"):
        evaluate_folder_of_predictions(
            tmp_path,
            configuration("evaluate", "data=cityscapes", f"+data.root={root}"),
            output=tmp_path / "out",
            official=True,
        )
    assert "miou" in json.loads((tmp_path / "out" / "result.json").read_text())


def test_a_run_is_evaluated_at_full_size_though_it_was_trained_to_be_resized(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    text = (again / "config.yaml").read_text()
    target = "_target_: seg.data.evaluation_transform\n    resize: "
    (again / "config.yaml").write_text(text.replace(f"{target}null", f"{target}48"))
    found = [evaluated(again, tmp_path / name, *given)["protocol"] for name, given in (
        ("as", []), ("null", ["data.evaluate_transform.resize=null"]), ("full", ["data.evaluate_transform.resize=0"]),
    )]  # fmt: skip
    assert ["resized to a short side of 48 px" in protocol for protocol in found] == [True, True, False]
