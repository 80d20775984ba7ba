import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data import Folder, training_transform
from seg.errors import DataError


def test_a_folder_gives_images_labels_and_components(folder_root: Path, two_objects: np.ndarray) -> None:
    data = Folder(folder_root)
    assert (data.name, data.split, len(data)) == ("own", "train", 6)
    assert data.classes == ("background", "cat", "dog")
    assert data.object_source == "components"
    sample = data[2]
    assert sample.name == "train_2"
    np.testing.assert_array_equal(sample.image, np.array(Image.open(folder_root / "images/train/train_2.png")))
    np.testing.assert_array_equal(sample.label, two_objects)
    np.testing.assert_array_equal(sample.objects, np.where(two_objects == 255, -1, two_objects.astype(int)))


def test_training_sees_the_same_pictures_without_objects(folder_root: Path) -> None:
    data = Folder(folder_root)
    alone = data.without_objects()
    transform = training_transform(crop=(20, 24), scale=(0.5, 2.0), color=0.5)
    whole, bare = (transform(one[2], 7) for one in (data, alone))
    np.testing.assert_array_equal(whole.image, bare.image)
    np.testing.assert_array_equal(whole.label, bare.label)
    assert bare.objects is None
    assert data[2].objects is not None


def test_object_masks_are_read_where_there_are_some(folder_root: Path, save_mask: Callable[..., Path]) -> None:
    objects = np.zeros((30, 40), dtype=np.uint8)
    objects[3:6, 3:6], objects[10:20, 25:30], objects[0] = 4, 9, 255
    for number in range(2):
        save_mask(folder_root / "objects" / "val" / f"val_{number}.png", objects)
    data = Folder(folder_root, "val")
    assert data.object_source == "masks"
    expected = np.where(objects == 255, -1, objects.astype(int))
    expected[29] = -1  # ignored, and of no object
    np.testing.assert_array_equal(data[0].objects, expected)


def test_id_255_is_an_object_in_a_sixteen_bit_mask(folder_root: Path) -> None:
    (folder_root / "objects" / "val").mkdir(parents=True)
    objects = np.zeros((30, 40), dtype=np.uint16)
    objects[0, :3] = 255, 300, 65_535
    for number in range(2):
        Image.fromarray(objects).save(folder_root / "objects" / "val" / f"val_{number}.png")
    read = Folder(folder_root, "val")[0].objects
    assert read is not None
    assert read[0, :3].tolist() == [255, 300, -1]


def test_suffixes_may_have_capitals(folder_root: Path) -> None:
    for kind, suffix in (("images", ".Png"), ("labels", ".PNG")):
        for path in sorted((folder_root / kind / "val").iterdir()):
            path.rename(path.with_suffix(suffix))
    names = [entry.name for entry in Folder(folder_root, "val").entries]
    listed = [sample.name for sample in map(Folder(folder_root, "val").__getitem__, range(len(names)))]
    assert names == listed
    (folder_root / "val.txt").write_text(names[1])
    assert Folder(folder_root, "val")[0].name == names[1]


def test_a_list_of_ids_picks_and_orders_images(folder_root: Path) -> None:
    (folder_root / "train.txt").write_text("train_4\ntrain_1\n")
    assert Folder(folder_root).names == ["train_4", "train_1"]


def test_images_need_no_folder_of_their_split_where_there_is_a_list(folder_root: Path) -> None:
    for part in ("images", "labels"):
        for file in (folder_root / part / "train").iterdir():
            file.rename(folder_root / part / file.name)
        (folder_root / part / "train").rmdir()
    (folder_root / "train.txt").write_text("train_0\ntrain_5\n")
    assert [Folder(folder_root)[k].name for k in range(2)] == ["train_0", "train_5"]


def test_ids_may_contain_folders(folder_root: Path) -> None:
    for part in ("images", "labels"):
        (folder_root / part / "val" / "monday").mkdir()
        shutil.move(folder_root / part / "val" / "val_0.png", folder_root / part / "val" / "monday" / "val_0.png")
    data = Folder(folder_root, "val")
    assert data.names == ["monday/val_0", "val_1"]
    assert data[0].image.shape == (30, 40, 3)


@pytest.mark.fault(37)
def test_fault_37_a_mask_value_without_a_class_is_refused_by_file(
    folder_root: Path, save_mask: Callable[..., Path]
) -> None:
    path = save_mask(folder_root / "labels" / "train" / "train_1.png", np.full((30, 40), 3))
    with pytest.raises(DataError, match=f"{path}: 1200 pixels have the value 3, expected 0 to 2"):
        Folder(folder_root)[1]


@pytest.mark.fault(38)
def test_fault_38_a_mask_of_another_size_is_refused_with_both_sizes(
    folder_root: Path, save_mask: Callable[..., Path]
) -> None:
    save_mask(folder_root / "labels" / "train" / "train_1.png", np.zeros((40, 30)))
    with pytest.raises(
        DataError, match=r"labels/train/train_1\.png is 30x40 px but .*images/train/train_1\.png is 40x30"
    ):
        Folder(folder_root)[1]


@pytest.mark.fault(38)
def test_fault_38_an_object_mask_of_another_size_is_refused(folder_root: Path, save_mask: Callable[..., Path]) -> None:
    for number in range(2):
        save_mask(folder_root / "objects" / "val" / f"val_{number}.png", np.zeros((30, 39)))
    with pytest.raises(DataError, match=r"objects/val/val_0\.png is 39x30 px but"):
        Folder(folder_root, "val")[0]


@pytest.mark.fault(35)
def test_fault_35_an_image_that_its_viewer_turns_is_refused_even_if_the_sizes_agree(
    folder_root: Path, picture: Callable[..., np.ndarray]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(picture()).save(folder_root / "images" / "train" / "train_0.png", exif=exif)
    with pytest.raises(DataError, match=r"train_0\.png: EXIF orientation 3"):
        Folder(folder_root)[0]


@pytest.mark.fault(40)
def test_fault_40_a_missing_root_part_split_or_list_is_refused_with_the_way_out(folder_root: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder; give the folder that holds images"):
        Folder(folder_root / "nowhere")
    with pytest.raises(DataError, match="there is no images in it; give the folder"):
        Folder(folder_root / "labels")
    with pytest.raises(DataError, match=r"split=test: no folder images/test .*there are train, val"):
        Folder(folder_root, "test")
    (folder_root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"no classes\.txt or classes\.json"):
        Folder(folder_root)


@pytest.mark.fault(40)
def test_fault_40_an_empty_split_is_refused(folder_root: Path) -> None:
    (folder_root / "train.txt").write_text(" \r\n\n")
    with pytest.raises(DataError, match=r"train\.txt: the list of ids is empty"):
        Folder(folder_root)
    (folder_root / "images" / "none").mkdir()
    (folder_root / "labels" / "none").mkdir()
    with pytest.raises(DataError, match="images/none: there are no images in it"):
        Folder(folder_root, "none")


@pytest.mark.fault(40)
def test_fault_40_line_ends_blank_lines_and_spaces_in_a_list_do_not_matter(folder_root: Path) -> None:
    (folder_root / "train.txt").write_bytes(b"\xef\xbb\xbftrain_0\r\n\r\n train_2 \t\r\n\n")
    data = Folder(folder_root)
    assert data.names == ["train_0", "train_2"]
    assert data[1].name == "train_2"


@pytest.mark.fault(41)
def test_fault_41_a_missing_mask_is_refused_by_name(folder_root: Path) -> None:
    path = folder_root / "labels" / "train" / "train_1.png"
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: no such file"):
        Folder(folder_root)[1]


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_0", "the id 'train_0' stands there twice"),
        ("../val/val_0", "the id '../val/val_0' leads out of"),
        ("a/../../b", "leads out of"),
        ("/etc/passwd", "leads out of"),
        ("..\\val", "leads out of"),
    ],
)
def test_fault_41_doubled_ids_and_ids_that_leave_the_folder_are_refused(
    folder_root: Path, line: str, message: str
) -> None:
    (folder_root / "train.txt").write_text(f"train_0\n{line}\n")
    with pytest.raises(DataError, match=message):
        Folder(folder_root)


def test_two_images_with_one_id_are_refused(folder_root: Path) -> None:
    shutil.copy(folder_root / "images/train/train_0.png", folder_root / "images/train/train_0.jpg")
    with pytest.raises(DataError, match="have the same id 'train_0'"):
        Folder(folder_root)


@pytest.mark.fault(47)
def test_fault_47_unicode_spaces_and_symlink_loops_in_paths_change_nothing(folder_root: Path, tmp_path: Path) -> None:
    expected = [Folder(folder_root)[k].image.tobytes() for k in range(6)]
    moved = tmp_path / "Größe × 大小 data"
    folder_root.rename(moved)
    for part in ("images", "labels"):
        (moved / part / "train" / "train_5.png").rename(moved / part / "train" / "zwei Wörter 5.png")
    (moved / "images" / "train" / "loop").symlink_to(moved / "images", target_is_directory=True)
    (moved / "images" / "train" / "self.png").symlink_to("self.png")
    data = Folder(moved)
    assert data.names[-1] == "zwei Wörter 5"
    assert [data[k].image.tobytes() for k in range(6)] == expected


@pytest.mark.fault(47)
def test_fault_47_reading_writes_nothing_into_the_data_folder(folder_root: Path) -> None:
    def state() -> list[tuple[str, int]]:
        return sorted((str(path), path.stat().st_mtime_ns) for path in folder_root.rglob("*"))

    folders = [folder_root, *(path for path in folder_root.rglob("*") if path.is_dir())]
    for folder in folders:
        os.chmod(folder, 0o555)
    before = state()
    data = Folder(folder_root)
    assert len([data[k] for k in range(6)]) == 6
    assert state() == before
    for folder in folders:
        os.chmod(folder, 0o755)


def in_colours(root: Path, colours: dict[int, tuple[int, int, int]], mode: str = "RGB") -> None:
    """Writes the masks of a folder anew, in colours, pixel by pixel."""
    for path in sorted((root / "labels").rglob("*.png")):
        ids = np.array(Image.open(path))
        picture = Image.new("RGB", (ids.shape[1], ids.shape[0]))
        picture.putdata([colours[value] for value in ids.ravel().tolist()])
        picture.convert(mode).save(path)


@pytest.mark.fault(36)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_fault_36_masks_in_the_colours_of_the_list_of_classes_are_read(
    folder_root: Path, two_objects: np.ndarray, mode: str
) -> None:
    in_colours(folder_root, {0: (0, 0, 0), 1: (255, 0, 1), 2: (1, 0, 255), 255: (224, 224, 192)}, mode)
    with pytest.raises(DataError, match=r"mode RGBA?, .*each class's colour into classes\.txt \(NAME R G B\)"):
        Folder(folder_root)[0]
    (folder_root / "classes.txt").write_text("background 0 0 0\ncat 255 0 1\ndog 1 0 255\nignored 224 224 192\n")
    data = Folder(folder_root)
    assert (data.classes, data.palette.tolist()) == (
        ("background", "cat", "dog"),
        [[0, 0, 0], [255, 0, 1], [1, 0, 255]],
    )
    np.testing.assert_array_equal(data[0].label, two_objects)


@pytest.mark.fault(36)
def test_fault_36_a_colour_of_no_class_is_refused_by_file_colour_and_count(folder_root: Path) -> None:
    in_colours(folder_root, {0: (0, 0, 0), 1: (255, 0, 0), 2: (0, 0, 255), 255: (9, 8, 7)})
    (folder_root / "classes.txt").write_text("background 0 0 0\ncat 255 0 0\ndog 0 0 255\n")
    with pytest.raises(
        DataError, match=r"train_0\.png: 40 pixels have the colour 9 8 7, expected one of the 3 colours"
    ):
        Folder(folder_root)[0]


@pytest.mark.fault(41)
@pytest.mark.parametrize("other", ["train_1_mask.png", "gt_train_1.png", "city/train_1.png"])
def test_fault_41_a_mask_of_another_name_is_told_beside_the_one_that_is_expected(folder_root: Path, other: str) -> None:
    labels = folder_root / "labels" / "train"
    (labels / other).parent.mkdir(exist_ok=True)
    (labels / "train_1.png").rename(labels / other)
    data = Folder(folder_root)
    with pytest.raises(
        DataError, match=rf"train_1\.png: no such file, but there is {other}; a mask has the name of its"
    ):
        data[1]
    assert not data.left_out()


@pytest.mark.parametrize("suffix", [".tif", ".BMP"])
def test_masks_may_have_any_format_that_keeps_values(folder_root: Path, two_objects: np.ndarray, suffix: str) -> None:
    path = folder_root / "labels" / "train" / "train_1.png"
    path.unlink()
    Image.fromarray(two_objects).save(path.with_suffix(suffix))
    np.testing.assert_array_equal(Folder(folder_root)[1].label, two_objects)


@pytest.mark.fault(36)
def test_fault_36_a_mask_as_jpeg_is_refused_for_what_it_is(folder_root: Path, two_objects: np.ndarray) -> None:
    path = folder_root / "labels" / "train" / "train_1.png"
    path.unlink()
    Image.fromarray(two_objects).convert("RGB").save(path.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"train_1\.jpg: a mask in JPEG, which may change values; save masks as PNG"):
        Folder(folder_root)[1]


def test_hidden_files_and_folders_are_no_images(folder_root: Path) -> None:
    train = folder_root / "images" / "train"
    (train / ".ipynb_checkpoints").mkdir()
    shutil.copy(train / "train_0.png", train / ".ipynb_checkpoints" / "train_0-checkpoint.png")
    for folder in (train, folder_root / "labels" / "train"):
        (folder / "._train_0.png").write_bytes(b"\0\5\26\7")
    data = Folder(folder_root)
    assert len(data) == 6
    assert not data.left_out()


@pytest.mark.fault(47)
def test_fault_47_names_that_macos_wrote_fit_those_of_others(folder_root: Path) -> None:
    (folder_root / "images/train/train_0.png").rename(folder_root / "images/train/gr\u00fcn.png")
    (folder_root / "labels/train/train_0.png").rename(folder_root / "labels/train/gru\u0308n.png")
    data = Folder(folder_root)
    assert data[data.names.index("gr\u00fcn")].label.shape == (30, 40)


@pytest.mark.fault(41)
def test_fault_41_a_list_of_file_names_is_refused_with_the_id(folder_root: Path) -> None:
    (folder_root / "train.txt").write_text("train_0.png\ntrain_1.png\n")
    with pytest.raises(DataError, match=r"train\.txt: 'train_0\.png' is the name of a file; .* such as train_0"):
        Folder(folder_root)


@pytest.mark.fault(40)
def test_fault_40_masks_under_another_name_than_labels_are_told_with_what_is_there(folder_root: Path) -> None:
    (folder_root / "labels").rename(folder_root / "masks")
    with pytest.raises(DataError, match=r"no folder labels/train in .*; there are images, masks in .*train\.txt"):
        Folder(folder_root)
