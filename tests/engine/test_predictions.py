"""Evaluation of label files, against Cityscapes' own evaluation and on bad files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data import VOC, Cityscapes
from seg.engine.predictions import evaluate_predictions, find_predictions
from seg.errors import DataError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
# the official program runs in a process of its own, because it reads its settings at import and ends with sys.exit
OFFICIAL = """
import json, sys
import numpy as np
np.in1d = getattr(np, "in1d", np.isin)  # gone from numpy 2.4
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
official.args.JSONOutput = False
official.args.quiet = True
official.args.evalInstLevelScore = False
predictions, truths = json.loads(sys.argv[1]), json.loads(sys.argv[2])
result = official.evaluateImgLists(predictions, truths, official.args)
print("RESULT" + json.dumps({"classes": result["classScores"], "mean": result["averageScoreClasses"]}))
"""


def save(path: Path, array: np.ndarray) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)
    return str(path)


def official_scores(predictions: list[str], truths: list[str]) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", OFFICIAL, json.dumps(predictions), json.dumps(truths)], capture_output=True, text=True
    )
    assert "RESULT" in done.stdout, done.stdout + done.stderr
    return json.loads(done.stdout.partition("RESULT")[2].splitlines()[0])


def write_cityscapes(root: Path, images: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Blocky random labels and predictions, label ids 0 to 33 in both, so ignored ids are true and predicted too."""
    predictions, truths = [], []
    for index in range(images):
        name = f"aachen_{index:06d}_000019"
        truth = np.kron(rng.integers(0, 34, (8, 16)), np.ones((8, 8), dtype=int))
        prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 34, truth.shape))
        save(root / f"leftImg8bit/val/aachen/{name}_leftImg8bit.png", np.zeros((*truth.shape, 3)))
        truths.append(save(root / f"gtFine/val/aachen/{name}_gtFine_labelIds.png", truth))
        predictions.append(save(root / f"predictions/{name}_leftImg8bit.png", prediction))
    return predictions, truths


def compare(root: Path, predictions: list[str], truths: list[str]) -> None:
    data = Cityscapes(root, "val")
    ours = evaluate_predictions(root / "predictions", data, classes=19, thresholds=(96, 224)).scores(data.classes)
    theirs = official_scores(predictions, truths)
    for name, iou in ours["iou"].items():
        official = theirs["classes"][name]
        if iou is None:
            assert official != official  # NaN
        else:
            assert iou == pytest.approx(official, abs=1e-9), name
    assert ours["miou"] == pytest.approx(theirs["mean"], abs=1e-9)


@pytest.mark.fault(64)
@pytest.mark.filterwarnings("ignore")
def test_fault_64_equals_cityscapesscripts_on_random_labels(tmp_path: Path) -> None:
    compare(tmp_path, *write_cityscapes(tmp_path, 5, np.random.default_rng(3)))


@pytest.mark.fault(64)
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real images of {SHARED} are not here")
def test_fault_64_equals_cityscapesscripts_on_real_pictures(tmp_path: Path) -> None:
    label_ids = np.array([23, 11, 17, 7, 8, 21, 20, 13, 26, 24, 25, 0])  # of CamVid's classes
    predictions, truths = [], []
    for path in sorted((SHARED / "camvid/labels/test").glob("*.png"))[:8]:
        truth = label_ids[np.array(Image.open(path))]
        name = f"camvid_{path.stem.replace('_', '-')}_000000"
        save(tmp_path / f"leftImg8bit/val/camvid/{name}_leftImg8bit.png", np.zeros((*truth.shape, 3)))
        truths.append(save(tmp_path / f"gtFine/val/camvid/{name}_gtFine_labelIds.png", truth))
        # a plausible prediction: everything a little off
        predictions.append(save(tmp_path / f"predictions/{name}.png", np.roll(truth, (3, 7), (0, 1))))
    compare(tmp_path, predictions, truths)


@pytest.fixture
def voc(tmp_path: Path) -> VOC:
    root = tmp_path / "VOC2012"
    for name in ("a", "b"):
        save(root / f"JPEGImages/{name}.jpg", np.zeros((6, 9, 3)))
        save(root / f"SegmentationClass/{name}.png", np.ones((6, 9)))
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/val.txt").write_text("a\nb\n")
    return VOC(root, "val")


def scores(voc: VOC, folder: Path) -> dict:
    return evaluate_predictions(folder, voc, classes=21, thresholds=(96, 224)).scores(voc.classes)


def test_right_predictions_score_one_and_a_missing_object_class_zero(voc: VOC, tmp_path: Path) -> None:
    save(tmp_path / "p/a.png", np.ones((6, 9)))
    save(tmp_path / "p/b.png", np.zeros((6, 9)))
    found = scores(voc, tmp_path / "p")
    assert found["iou"]["aeroplane"] == 0.5
    assert found["iou"]["background"] == 0
    assert found["iou"]["bicycle"] is None


def test_each_image_has_a_file_of_its_own(tmp_path: Path) -> None:
    """An id that begins another one, and ids of one name in two folders."""
    save(tmp_path / "a/seq_2.png", np.ones((2, 2)))
    with pytest.raises(DataError, match="no prediction for seq"):
        find_predictions(tmp_path / "a", ["seq", "seq_2"])
    save(tmp_path / "a/seq_leftImg8bit.png", np.ones((2, 2)))
    assert [path.name for path in find_predictions(tmp_path / "a", ["seq", "seq_2"]).values()] == [
        "seq_leftImg8bit.png",
        "seq_2.png",
    ]
    save(tmp_path / "b/0.png", np.ones((2, 2)))
    with pytest.raises(DataError, match="0.png fits both x/0 and y/0"):
        find_predictions(tmp_path / "b", ["x/0", "y/0"])
    for folder in "xy":
        save(tmp_path / f"c/{folder}/0.png", np.ones((2, 2)))
    assert [path.parent.name for path in find_predictions(tmp_path / "c", ["x/0", "y/0"]).values()] == ["x", "y"]


def test_train_ids_are_refused_where_label_ids_are_expected(tmp_path: Path) -> None:
    write_cityscapes(tmp_path, 2, np.random.default_rng(0))
    for path in (tmp_path / "predictions").glob("*.png"):
        save(path, np.zeros((64, 128)) + (np.arange(128) // 8 % 6))
    with pytest.raises(DataError, match="train ids where label ids are expected"):
        evaluate_predictions(tmp_path / "predictions", Cityscapes(tmp_path, "val"), classes=19, thresholds=(96, 224))


@pytest.mark.fault(65)
def test_fault_65_bad_predictions_are_named(voc: VOC, tmp_path: Path) -> None:
    folder = tmp_path / "p"
    save(folder / "a.png", np.ones((6, 9)))
    with pytest.raises(DataError, match="no prediction for b"):
        scores(voc, folder)
    save(folder / "b.png", np.ones((6, 8)))
    with pytest.raises(DataError, match="b.png is 8x6 px but the label of b is 9x6 px"):
        scores(voc, folder)
    save(folder / "b.png", np.ones((6, 9, 3)))
    with pytest.raises(DataError, match="b.png: a mask of mode RGB"):
        scores(voc, folder)
    Image.fromarray(np.ones((6, 9), dtype=np.uint16)).save(folder / "b.png")
    with pytest.raises(DataError, match="b.png: a mask of mode I;16"):
        scores(voc, folder)
    save(folder / "b.png", np.ones((6, 9)))
    save(folder / "again/b.png", np.ones((6, 9)))
    with pytest.raises(DataError, match="two predictions for b"):
        scores(voc, folder)
    with pytest.raises(DataError, match="no such folder"):
        scores(voc, tmp_path / "absent")
