from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data import Cityscapes
from seg.data.cityscapes import CITYSCAPES_CLASSES, number_instances, to_label_ids
from seg.errors import ConfigError, DataError


@pytest.fixture
def city_root(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Path:
    """Two cities of one image each in the layout of the original archives; label ids and instance ids."""
    for city in ("aachen", "bonn"):
        images, truth = tmp_path / "leftImg8bit" / "train" / city, tmp_path / "gtFine" / "train" / city
        images.mkdir(parents=True)
        truth.mkdir(parents=True)
        Image.fromarray(picture()).save(images / f"{city}_000000_000019_leftImg8bit.png")
        stem = f"{city}_000000_000019_gtFine"
        Image.fromarray(label_ids()).save(truth / f"{stem}_labelIds.png")
        Image.fromarray(instance_ids()).save(truth / f"{stem}_instanceIds.png")
    return tmp_path


def label_ids() -> np.ndarray:
    """Road with two cars, a group of persons, sky, and the car's own bonnet (ego vehicle: ignored)."""
    ids = np.full((30, 40), 7, dtype=np.uint8)
    ids[:8], ids[12:18, 2:9], ids[12:18, 20:30], ids[10:12, 33:38], ids[27:] = 23, 26, 26, 24, 1
    return ids


def instance_ids() -> np.ndarray:
    ids = label_ids().astype(np.uint16)
    ids[12:18, 2:9], ids[12:18, 20:30] = 26_000, 26_001
    return ids


def labels_of(root: Path, city: str, kind: str) -> Path:
    return root / "gtFine" / "train" / city / f"{city}_000000_000019_gtFine_{kind}.png"


def test_the_class_table_is_the_official_one() -> None:
    official = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    evaluated = sorted((label for label in official if 0 <= label.trainId < 255), key=lambda label: label.trainId)
    ours = [(one.name, one.label_id, one.colour, one.has_instances) for one in CITYSCAPES_CLASSES]
    assert ours == [(label.name, label.id, label.color, label.hasInstances) for label in evaluated]


def test_label_ids_become_train_ids_and_the_rest_is_ignored(city_root: Path) -> None:
    data = Cityscapes(city_root)
    assert data.names == ["aachen_000000_000019", "bonn_000000_000019"]
    expected = np.full((30, 40), 0)
    expected[:8], expected[12:18, 2:9], expected[12:18, 20:30], expected[10:12, 33:38], expected[27:] = (
        10,
        13,
        13,
        11,
        255,
    )
    np.testing.assert_array_equal(data[0].label, expected)


def test_instances_are_numbered_and_groups_and_ignored_pixels_are_unknown(city_root: Path) -> None:
    data = Cityscapes(city_root)
    expected = np.zeros((30, 40))
    expected[12:18, 2:9], expected[12:18, 20:30], expected[10:12, 33:38], expected[27:] = 1, 2, -1, -1
    assert data.object_source == "masks"
    np.testing.assert_array_equal(data[1].objects, expected)


def test_instances_of_ignored_classes_are_objects_too() -> None:
    values = np.array([[29_000, 29, 26, 33_001]])
    label = np.array([[255, 255, 13, 18]], dtype=np.uint8)
    assert number_instances(values, label).tolist() == [[1, -1, -1, 2]]


def test_without_instance_files_objects_are_components(city_root: Path) -> None:
    for path in city_root.rglob("*_instanceIds.png"):
        path.unlink()
    data = Cityscapes(city_root)
    assert data.object_source == "components"
    expected = np.zeros((30, 40))
    expected[10:12, 33:38], expected[12:18, 2:9], expected[12:18, 20:30], expected[27:] = 1, 2, 3, -1
    np.testing.assert_array_equal(data[0].objects, expected)


def test_predictions_go_back_to_label_ids() -> None:
    table = pytest.importorskip("cityscapesscripts.helpers.labels").trainId2label
    label = np.array([[*range(19), 255]], dtype=np.uint8)
    assert to_label_ids(label).tolist() == [[*(table[k].id for k in range(19)), 0]]


@pytest.mark.fault(39)
def test_fault_39_train_ids_in_place_of_label_ids_are_detected(city_root: Path) -> None:
    right = Cityscapes(city_root)[0].label
    path = labels_of(city_root, "aachen", "labelIds")
    Image.fromarray(right).save(path)
    with pytest.raises(DataError, match=rf"{path}: has the values 0, 10, 11, 13, 255, which are train ids"):
        Cityscapes(city_root)[0]


@pytest.mark.fault(39)
def test_fault_39_train_ids_are_detected_where_nothing_is_ignored(city_root: Path) -> None:
    right = Cityscapes(city_root)[0].label
    Image.fromarray(np.where(right == 255, 0, right).astype(np.uint8)).save(labels_of(city_root, "aachen", "labelIds"))
    with pytest.raises(DataError, match="which are train ids where label ids are expected"):
        Cityscapes(city_root)[0]


@pytest.mark.fault(39)
def test_fault_39_labels_of_the_test_split_are_told_from_train_ids(city_root: Path) -> None:
    path = labels_of(city_root, "aachen", "labelIds")
    Image.fromarray(np.full_like(Cityscapes(city_root)[0].label, 3)).save(path)
    with pytest.raises(DataError, match="if they are of split=test, that has no public labels: predict.py writes what"):
        Cityscapes(city_root)[0]


@pytest.mark.fault(39)
def test_fault_39_label_ids_in_place_of_train_ids_are_detected(city_root: Path) -> None:
    for city in ("aachen", "bonn"):
        labels_of(city_root, city, "labelIds").rename(labels_of(city_root, city, "labelTrainIds"))
    with pytest.raises(DataError, match="has the values 1, 7, 23, 24, 26, which are label ids where train ids"):
        Cityscapes(city_root, labels="trainIds")[0]


def test_train_ids_alone_are_told_of_with_the_way_out(city_root: Path) -> None:
    for city in ("aachen", "bonn"):
        labels_of(city_root, city, "labelIds").rename(labels_of(city_root, city, "labelTrainIds"))
    with pytest.raises(DataError, match=r"_labelIds.png: no such file, .* \+data.evaluate.labels=trainIds"):
        Cityscapes(city_root)


def test_converted_files_give_the_same_samples(city_root: Path) -> None:
    before = Cityscapes(city_root)[0]
    for city in ("aachen", "bonn"):
        Image.fromarray(before.label).save(labels_of(city_root, city, "labelTrainIds"))
    after = Cityscapes(city_root, labels="trainIds")[0]
    np.testing.assert_array_equal(after.label, before.label)
    np.testing.assert_array_equal(after.objects, before.objects)


def test_a_street_without_anything_but_ids_below_19_is_still_label_ids(city_root: Path) -> None:
    ids = np.full((30, 40), 7, dtype=np.uint8)
    ids[:12] = 11
    Image.fromarray(ids).save(labels_of(city_root, "aachen", "labelIds"))
    assert np.unique(Cityscapes(city_root)[0].label).tolist() == [0, 2]


@pytest.mark.fault(37)
def test_fault_37_a_value_beyond_the_label_ids_is_refused_by_file_and_value(city_root: Path) -> None:
    path = labels_of(city_root, "aachen", "labelIds")
    Image.fromarray(np.full((30, 40), 40, dtype=np.uint8)).save(path)
    with pytest.raises(DataError, match=f"{path}: 1200 pixels have the value 40, expected one of 0, 1, 2"):
        Cityscapes(city_root)[0]


@pytest.mark.fault(40)
def test_fault_40_a_missing_root_or_split_is_refused_with_the_way_out(city_root: Path) -> None:
    with pytest.raises(DataError, match="there is no leftImg8bit in it; give the folder that holds leftImg8bit"):
        Cityscapes(city_root / "gtFine")
    with pytest.raises(DataError, match=r"split=val: no folder leftImg8bit/val .*there are train"):
        Cityscapes(city_root, "val")
    for path in city_root.rglob("*_leftImg8bit.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"there are no CITY/\*_leftImg8bit\.png files in it"):
        Cityscapes(city_root)


@pytest.mark.fault(41)
def test_fault_41_a_missing_label_is_refused_by_name(city_root: Path) -> None:
    path = labels_of(city_root, "bonn", "labelIds")
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: no such file"):
        Cityscapes(city_root)[1]


def test_an_unknown_kind_of_labels_is_refused(city_root: Path) -> None:
    with pytest.raises(ConfigError, match="labels='color': one of labelIds, trainIds"):
        Cityscapes(city_root, labels="color")
