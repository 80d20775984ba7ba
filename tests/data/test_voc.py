import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from seg.data import VOC, evaluate_loader, evaluation_transform
from seg.data.voc import augmented_ids
from seg.errors import ConfigError, DataError


def voc2012(voc_root: Path) -> Path:
    return voc_root / "VOCdevkit" / "VOC2012"


@pytest.mark.parametrize("start", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_the_root_may_be_any_folder_down_to_voc2012(voc_root: Path, start: str) -> None:
    data = VOC(voc_root / start, "val")
    assert (data.names, data.object_source, len(data.classes)) == (["2007_000003"], "masks", 21)


def test_only_vocs_classes_and_ids_go_by_its_name(voc_root: Path) -> None:
    assert VOC(voc_root, "val").name == VOC(voc_root / "VOCdevkit" / "VOC2012", "val").name == "PASCAL VOC"
    (voc2012(voc_root) / "ImageSets" / "Segmentation" / "val.txt").write_text("000000000139\n")
    assert VOC(voc_root, "val").name == VOC(voc_root / "VOCdevkit" / "VOC2012", "val").name == "voc"
    (voc_root / "classes.json").write_text(json.dumps({"classes": [{"name": name} for name in ("a", "b", "c")]}))
    assert VOC(voc_root, "train").name == "voc"


def test_objects_are_unknown_on_contours_and_where_the_label_is_ignored(
    voc_root: Path, save_mask: Callable[..., Path]
) -> None:
    label = np.zeros((30, 40), dtype=np.uint8)
    objects = label.copy()
    label[0, :5] = 0, 1, 255, 255, 255
    objects[0, :5] = 0, 7, 255, 0, 7
    save_mask(voc2012(voc_root) / "SegmentationClass" / "2007_000003.png", label)
    save_mask(voc2012(voc_root) / "SegmentationObject" / "2007_000003.png", objects)
    sample = VOC(voc_root, "val")[0]
    assert sample.objects is not None
    assert sample.objects[0, :5].tolist() == [0, 7, -1, -1, 7]
    assert sample.label[0, :5].tolist() == [0, 1, 255, 255, 255]


def test_without_object_masks_objects_are_components(voc_root: Path, two_objects: np.ndarray) -> None:
    folder = voc2012(voc_root) / "SegmentationObject"
    folder.rename(folder.with_name("elsewhere"))
    data = VOC(voc_root, "val")
    assert data.object_source == "components"
    np.testing.assert_array_equal(data[0].objects, np.where(two_objects == 255, -1, two_objects.astype(int)))
    assert set(np.unique(VOC(voc_root, "val", things=["bicycle"])[0].objects)) == {-1, 0, 1}


@pytest.mark.parametrize("place", [".", "VOCdevkit/VOC2012"])
def test_a_list_of_classes_beside_the_images_names_other_classes(voc_root: Path, place: str) -> None:
    entries = [{"name": name} for name in ("background", "left", "right")]
    content = {"classes": entries, "background": 0, "left_right_pairs": [[1, 2]]}
    (voc_root / place / "classes.json").write_text(json.dumps(content))
    data = VOC(voc_root, "val")
    assert data.classes == ("background", "left", "right")
    assert data.flip_pairs == data[0].flip_pairs == ((1, 2),)
    assert next(iter(evaluate_loader(data, evaluation_transform()))).to("cpu").flip_pairs == ((1, 2),)


def test_a_root_in_the_home_folder_has_its_classes_too(voc_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(voc_root))
    (voc_root / "classes.json").write_text('{"classes": [{"name": "ground"}, {"name": "bird"}, {"name": "sky"}]}')
    assert VOC("~").classes == ("ground", "bird", "sky")


def test_the_augmented_list_is_train_and_sbd_without_val() -> None:
    train, val = ["b", "a", "v2"], ["v1", "v2", "v3"]
    assert augmented_ids(train, ["c", "a", "v1", "d", "v3"], val) == ["b", "a", "c", "d"]


def test_the_augmented_list_has_the_papers_10582_images_for_the_original_lists_sizes() -> None:
    """VOC: 1,464 train and 1,449 val images. SBD has 11,355, of which 1,103 + 1,134 are in VOC's two lists if the
    union is to have 10,582 (arXiv:1703.06211, section 4.1): 1,464 + (11,355 - 1,103 - 1,134)."""
    train, val = [f"t{i}" for i in range(1464)], [f"v{i}" for i in range(1449)]
    sbd = train[:1103] + val[:1134] + [f"s{i}" for i in range(11_355 - 1103 - 1134)]
    assert len(augmented_ids(train, sbd, val)) == 10_582


@pytest.fixture
def sbd_root(voc_root: Path, tmp_path: Path, picture: Callable[..., np.ndarray], two_objects: np.ndarray) -> Path:
    """SBD as it unpacks, with one VOC train, one VOC val and two further images, one of which VOC lacks."""
    sbd = tmp_path / "sbd" / "benchmark_RELEASE" / "dataset"
    for part in ("img", "cls", "inst"):
        (sbd / part).mkdir(parents=True)
    names = ["2007_000001", "2007_000003", "2008_000009", "2008_000004"]
    for name in names:
        clear = np.where(two_objects == 255, 0, two_objects)
        scipy.io.savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": clear + (clear > 0)}})
        scipy.io.savemat(sbd / "inst" / f"{name}.mat", {"GTinst": {"Segmentation": clear}})
        Image.fromarray(picture()).save(sbd / "img" / f"{name}.jpg")
    Image.fromarray(picture(seed=5)).save(voc2012(voc_root) / "JPEGImages" / "2008_000009.jpg")
    (sbd / "train.txt").write_text("2007_000003\n2008_000009\n")
    (sbd / "val.txt").write_text("2007_000001\n2008_000004\n")
    return tmp_path / "sbd"


def test_train_aug_takes_vocs_masks_first_and_sbds_for_the_rest(
    voc_root: Path, sbd_root: Path, two_objects: np.ndarray
) -> None:
    data = VOC(voc_root, "train_aug", sbd_root=sbd_root)
    assert data.names == ["2007_000001", "2007_000002", "2008_000004", "2008_000009"]
    clear = np.where(two_objects == 255, 0, two_objects)
    np.testing.assert_array_equal(data[0].label, two_objects)
    np.testing.assert_array_equal(data[3].label, clear + (clear > 0))
    np.testing.assert_array_equal(data[3].objects, clear)
    assert data[2].image.shape == (30, 40, 3)


def test_masks_of_another_folder_need_a_list_and_no_sbd(
    voc_root: Path, two_objects: np.ndarray, save_mask: Callable[..., Path]
) -> None:
    folder = voc2012(voc_root)
    (folder / "ImageSets" / "Segmentation" / "train_aug.txt").write_text("2007_000003\n2007_000001\n")
    for name in ("2007_000001", "2007_000003"):
        save_mask(folder / "SegmentationClassAug" / f"{name}.png", 3 * (two_objects > 0).astype(np.uint8))
    data = VOC(voc_root, "train_aug", labels="SegmentationClassAug")
    assert (data.names, data.object_source) == (["2007_000003", "2007_000001"], "components")
    assert data.name == "PASCAL VOC with SegmentationClassAug", "another truth than VOC's"
    assert set(np.unique(data[0].label)) == {0, 3}
    with pytest.raises(DataError, match="labels=Aug: there is no such folder in"):
        VOC(voc_root, "train_aug", labels="Aug")
    with pytest.raises(ConfigError, match="two sources of the same labels"):
        VOC(voc_root, "train_aug", labels="SegmentationClassAug", sbd_root=voc_root)


def test_a_list_of_files_is_refused_with_what_a_list_has(voc_root: Path) -> None:
    pair = "/JPEGImages/2007_000003.jpg /SegmentationClassAug/2007_000003.png"
    (voc2012(voc_root) / "ImageSets" / "Segmentation" / "aug.txt").write_text(pair)
    with pytest.raises(DataError, match="a list has one id a line, such as 2007_000032, not the paths of files"):
        VOC(voc_root, "aug")


def test_train_aug_without_sbd_is_refused_with_the_way_out(voc_root: Path) -> None:
    with pytest.raises(ConfigError, match="split=train_aug needs SBD's images, .*give the folder that holds SBD's img"):
        VOC(voc_root, "train_aug")


def test_train_aug_with_a_wrong_sbd_folder_is_refused_by_name(voc_root: Path) -> None:
    with pytest.raises(DataError, match="there is no cls in it"):
        VOC(voc_root, "train_aug", sbd_root=voc_root)


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_broken_mat_file_is_refused_by_name(voc_root: Path, sbd_root: Path, content: bytes) -> None:
    path = sbd_root / "benchmark_RELEASE" / "dataset" / "cls" / "2008_000004.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: no GTcls.Segmentation can be read"):
        VOC(voc_root, "train_aug", sbd_root=sbd_root)[2]


def test_a_mat_file_cut_off_half_way_is_refused_by_name(voc_root: Path, sbd_root: Path) -> None:
    path = sbd_root / "benchmark_RELEASE" / "dataset" / "inst" / "2008_000004.mat"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match=str(path)):
        VOC(voc_root, "train_aug", sbd_root=sbd_root)[2]


@pytest.mark.fault(40)
def test_fault_40_a_missing_list_is_refused_with_the_lists_there_are(voc_root: Path) -> None:
    with pytest.raises(DataError, match=r"trainval\.txt: no such list of ids; there are lists for train, val"):
        VOC(voc_root, "trainval")
    with pytest.raises(DataError, match="there is no ImageSets/Segmentation in it; give the folder that holds JPEG"):
        VOC(voc2012(voc_root) / "JPEGImages")


@pytest.mark.fault(37)
def test_fault_37_class_21_is_refused_by_file_and_value(voc_root: Path, save_mask: Callable[..., Path]) -> None:
    path = save_mask(voc2012(voc_root) / "SegmentationClass" / "2007_000003.png", np.full((30, 40), 21))
    with pytest.raises(DataError, match=f"{path}: 1200 pixels have the value 21, expected 0 to 20"):
        VOC(voc_root, "val")[0]
