import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data import CamVid
from seg.data.camvid import CAMVID_CLASSES
from seg.errors import DataError


@pytest.fixture
def street() -> np.ndarray:
    """CamVid's ids: road with two cars; void (11) at the top."""
    ids = np.full((30, 40), 3, dtype=np.uint8)
    ids[:4], ids[10:15, 3:9], ids[20:24, 20:35] = 11, 8, 8
    return ids


@pytest.fixture
def camvid_root(
    tmp_path: Path, picture: Callable[..., np.ndarray], save_mask: Callable[..., Path], street: np.ndarray
) -> Path:
    (tmp_path / "images" / "test").mkdir(parents=True)
    for name in ("Seq05VD_f02370", "0001TP_008550"):
        Image.fromarray(picture()).save(tmp_path / "images" / "test" / f"{name}.jpg")
        save_mask(tmp_path / "labels" / "test" / f"{name}.png", street)
    (tmp_path / "test.txt").write_text("Seq05VD_f02370\n0001TP_008550\n")
    return tmp_path


def test_void_is_ignored_and_cars_are_objects(camvid_root: Path, street: np.ndarray) -> None:
    data = CamVid(camvid_root, "test")
    assert data.names == ["Seq05VD_f02370", "0001TP_008550"]
    assert (len(data.classes), data.classes[8], data.object_source) == (11, "car", "components")
    np.testing.assert_array_equal(data[0].label, np.where(street == 11, 255, street))
    expected = np.zeros((30, 40))
    expected[:4], expected[10:15, 3:9], expected[20:24, 20:35] = -1, 1, 2
    np.testing.assert_array_equal(data[0].objects, expected)


def test_without_a_list_all_images_of_the_split_are_read(camvid_root: Path) -> None:
    (camvid_root / "test.txt").unlink()
    assert CamVid(camvid_root, "test").names == ["0001TP_008550", "Seq05VD_f02370"]


def test_the_segnet_tutorials_folders_are_read(
    tmp_path: Path, picture: Callable[..., np.ndarray], save_mask: Callable[..., Path], street: np.ndarray
) -> None:
    (tmp_path / "val").mkdir()
    Image.fromarray(picture()).save(tmp_path / "val" / "0016E5_07959.png")
    save_mask(tmp_path / "valannot" / "0016E5_07959.png", street)
    data = CamVid(tmp_path, "val")
    assert data.names == ["0016E5_07959"]
    np.testing.assert_array_equal(data[0].image, picture())
    assert set(np.unique(data[0].label)) == {3, 8, 255}


def test_which_classes_are_things_can_be_chosen(camvid_root: Path) -> None:
    assert set(np.unique(CamVid(camvid_root, "test", things=["road"])[0].objects)) == {-1, 0, 1}


def test_things_are_those_of_classes_json_where_it_names_any(camvid_root: Path) -> None:
    names = [{"name": name} for name in CAMVID_CLASSES]
    content: dict[str, object] = {"classes": names, "ignore_index": 11}
    for things, objects in ((None, 2), ([0, 3], 1)):
        if things:
            content["things"] = things
        (camvid_root / "classes.json").write_text(json.dumps(content))
        assert CamVid(camvid_root, "test")[0].objects.max() == objects  # cars, or the road around them
    (camvid_root / "classes.json").write_text('{"classes": [{"name": "a"}, {"name": "b"}]}')
    assert CamVid(camvid_root, "test").classes == ("a", "b")


@pytest.mark.fault(37)
def test_fault_37_id_12_is_refused_by_file_and_value(camvid_root: Path, save_mask: Callable[..., Path]) -> None:
    path = save_mask(camvid_root / "labels" / "test" / "0001TP_008550.png", np.full((30, 40), 12))
    with pytest.raises(DataError, match=f"{path}: 1200 pixels have the value 12, expected one of 0, 1, 2"):
        CamVid(camvid_root, "test")[1]


@pytest.mark.fault(40)
def test_fault_40_a_missing_root_or_list_is_refused_with_the_way_out(camvid_root: Path) -> None:
    with pytest.raises(DataError, match="there is no labels in it; give the folder that holds images/SPLIT"):
        CamVid(camvid_root / "images")
    with pytest.raises(DataError, match="split=val: no folder images/val in .*; there are test"):
        CamVid(camvid_root, "val")
