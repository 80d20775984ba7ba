"""Training on boxes, as a user does it: a small data set in VOC's layout, a few steps, a picture of the bins."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from seg.data import Creatures

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from build import check  # noqa: E402


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A few creatures in VOC's layout."""
    for split in ("train", "val"):
        creatures = Creatures(split, images=4)
        for index, name in enumerate(f"{split}{i}" for i in range(4)):
            sample = creatures[index]
            objects = np.where(sample.objects < 0, 255, sample.objects).astype(np.uint8)
            pictures = {"JPEGImages": sample.image, "SegmentationClass": sample.label, "SegmentationObject": objects}
            for folder, picture in pictures.items():
                (tmp_path / folder).mkdir(exist_ok=True)
                suffix = "jpg" if folder == "JPEGImages" else "png"
                image = Image.fromarray(picture)
                if suffix == "png":
                    image.putpalette([grey for grey in range(256) for _ in "rgb"])
                image.save(tmp_path / folder / f"{name}.{suffix}")
        lists = tmp_path / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{split}.txt").write_text("".join(f"{split}{i}\n" for i in range(4)))
    return tmp_path


@pytest.mark.parametrize("pool", sorted(path.stem for path in (ROOT / "conf" / "pool").glob("*.yaml")))
def test_every_pooling_composes_with_the_experiment(pool: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = ["run=unused", "data.root=unused", f"pool={pool}", "roi_experiment=plain_vs_deformable"]
        config = compose("train_roi", given)
    check(config)
    assert config.model.pool == config.pool
    assert config.pool.output_size == 3


def test_a_run_leaves_scores_and_a_picture_of_its_bins(voc: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, str(ROOT / "scripts" / "train_roi.py"), f"data.root={voc}", f"run={run}"]
    small = ["trainer.iterations=2", "data.transform.resize=64", "data.smallest=4", "pictures=2", "data.batch_size=2"]
    done = subprocess.run([*command, *small], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "boxes.json").read_text())
    assert 0 <= result["accuracy"] <= 1
    assert len(result["bins"]) == 2
    assert len(result["bins"][0]["before"]) == len(result["bins"][0]["after"]) == 49
    assert Image.open(run / "bins.png").size[0] > 100
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    for given, words in (
        ("data.batch_size=1", "data.batch_size: 2 in the checkpoint"),
        ("+trainer.devices=2", "by one process"),
    ):
        done = subprocess.run([*command, *small, given], capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, words in done.stderr) == (2, True), done.stderr
