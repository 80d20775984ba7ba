"""Real pictures, where they lie beside the repository; expected numbers are those of the data's own descriptions."""

import json
from pathlib import Path

import numpy as np
import pytest

from seg.data import VOC, CamVid, evaluate_loader, evaluation_transform, train_loader, training_transform
from seg.data.check import check


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks walk over the first images only, so that the tests stay short."""
    for kind in (VOC, CamVid):
        monkeypatch.setattr(kind, "__len__", lambda self: min(len(self.entries), 12))


def test_camvids_lists_and_classes_are_read(real_data: Path) -> None:
    sizes = {split: len(CamVid(real_data / "camvid", split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 367, "val": 101, "test": 233}
    listed = json.loads((real_data / "camvid" / "classes.json").read_text())["classes"]
    assert list(CamVid(real_data / "camvid").classes) == [entry["name"] for entry in listed[:-1]]


def test_camvids_own_class_list_equals_ours(real_data: Path) -> None:
    from seg.data.camvid import CAMVID_CLASSES, COLOURS

    data = CamVid(real_data / "camvid")
    assert (data.classes, data.palette.tolist()) == (CAMVID_CLASSES, [list(colour) for colour in COLOURS])


def test_camvid_val_has_the_pixel_counts_of_its_description(real_data: Path) -> None:
    data = CamVid(real_data / "camvid", "val")
    counts = np.zeros(256, dtype=np.int64)
    for entry in data.entries:
        counts += np.bincount(data.read_label(entry).ravel(), minlength=256)
    described = json.loads((real_data / "camvid" / "classes.json").read_text())["splits"]["val"]["pixels"]
    assert dict(zip(data.classes, counts.tolist(), strict=False)) | {"void": int(counts[255])} == described


@pytest.mark.usefixtures("first")
def test_car_parts_have_classes_pairs_and_object_masks(real_data: Path) -> None:
    data = VOC(real_data / "car-parts", "val")
    report = check(data)
    assert report.ok
    assert (len(data.classes), data.object_source) == (19, "masks")
    assert {data.classes[k] for pair in data.flip_pairs for k in pair} == {
        name for name in data.classes if "left" in name or "right" in name
    }
    assert set(report.encodings) == {"image: JPEG RGB", "label: PNG palette", "objects: PNG palette"}


@pytest.mark.usefixtures("first")
def test_coco_photos_in_voc_layout_are_sound(real_data: Path) -> None:
    report = check(VOC(real_data / "coco-voc", "trainval"))
    assert report.ok
    assert report.ignored > 0
    assert report.object_source == "masks"


def test_voc_samples_skip_object_numbers_and_have_no_contours(real_data: Path) -> None:
    data = VOC(real_data / "voc-samples", "train")
    sample = data[data.names.index("2011_000006")]
    assert sample.objects is not None
    assert set(np.unique(sample.objects[sample.objects > 0])) == {1, 2, 3, 4, 5, 7}
    assert (sample.objects[(sample.label == 255) & (sample.objects <= 0)] == -1).all()


@pytest.mark.usefixtures("first")
def test_msrc_has_no_background_and_objects_by_components(real_data: Path) -> None:
    data = VOC(real_data / "msrc21", "val", things=["cow", "car"])
    assert (data.classes[0], data.object_source, len(data.classes)) == ("building", "components", 21)
    assert check(data).ok


def test_mirrored_car_parts_exchange_left_and_right(real_data: Path) -> None:
    data = VOC(real_data / "car-parts", "val")
    sample = data[0]
    mirrored = next(
        changed for seed in range(20) if (changed := training_transform()(sample, seed)).image[0, 0].tolist()
        == sample.image[0, -1].tolist() and (changed.image != sample.image).any()
    )  # fmt: skip
    swap = {left: right for pair in data.flip_pairs for left, right in (pair, pair[::-1])}
    for kind in np.unique(sample.label):
        np.testing.assert_array_equal(mirrored.label[:, ::-1] == swap.get(kind, kind), sample.label == kind)


def test_real_pictures_come_in_batches(real_data: Path) -> None:
    data = VOC(real_data / "coco-voc", "train")
    transform = training_transform(crop=(96, 128), scale=(0.5, 2.0), color=0.2)
    batch = next(train_loader(data, transform, batch_size=4, workers=1).epoch(0))
    assert batch.image.shape == (4, 3, 96, 128)
    assert batch.image.isfinite().all()
    one = next(iter(evaluate_loader(data, evaluation_transform(resize=(120, 200)))))
    assert min(one.image.shape[-2:]) <= 120
    assert one.label.shape[-2:] == data[0].label.shape
