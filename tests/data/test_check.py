from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data import Creatures, Folder
from seg.data.check import check


def test_a_sound_data_set_is_counted(folder_root: Path, two_objects: np.ndarray) -> None:
    report = check(Folder(folder_root), thresholds=(10, 20))
    assert report.ok
    assert report.pixels.tolist() == [6 * int((two_objects == k).sum()) for k in range(3)]
    assert report.images_with.tolist() == [6, 6, 6]
    assert report.ignored == 6 * 40
    assert report.encodings == {"image: PNG RGB": 6, "label: PNG palette": 6}
    assert report.shapes == {(30, 40): 6}
    # boxes: 8x10 px (8.9) and 12x16 px (13.9)
    assert report.objects == {"small": 6, "medium": 6}


@pytest.mark.fault(32)
def test_fault_32_every_bad_file_is_named_and_the_walk_goes_on(
    folder_root: Path, save_mask: Callable[..., Path], picture: Callable[..., np.ndarray]
) -> None:
    images, labels = folder_root / "images" / "train", folder_root / "labels" / "train"
    (images / "train_0.png").write_bytes(b"")
    (labels / "train_1.png").unlink()
    save_mask(labels / "train_2.png", np.full((30, 40), 77))
    save_mask(labels / "train_3.png", np.zeros((30, 41)))
    Image.fromarray(picture()).save(labels / "train_4.png")
    report = check(Folder(folder_root))
    assert not report.ok
    starts = [images / "train_0.png", *(labels / f"train_{k}.png" for k in (1, 2, 3, 4))]
    assert len(report.problems) == 5
    for problem, start in zip(report.problems, starts, strict=True):
        assert problem.startswith(str(start))
    for word in ("empty", "no such file", "value 77", "41x30 px", "mode RGB"):
        assert any(word in problem for problem in report.problems)
    assert report.encodings["image: unreadable"] == 1
    assert report.shapes == {(30, 40): 1}
    assert all(problem in str(report) for problem in report.problems)
    assert "5 problems" in str(report)


def test_pictures_that_no_sample_is_made_of_are_named(folder_root: Path) -> None:
    images, labels = folder_root / "images" / "train", folder_root / "labels" / "train"
    (images / "train_0.png").unlink()
    (images / "train_1.png").rename(images / "train_1.heif")
    (images / "train_2.png").rename(images / "train_2.j2k")
    (images / "notes.txt").write_text("a note")
    problems = check(Folder(folder_root)).problems
    assert f"{labels / 'train_0.png'}: there is no image {images / 'train_0'} for this mask" in problems
    assert any(line.startswith(f"{images / 'train_2.j2k'}: images of this suffix are not read") for line in problems)
    assert not any("notes" in problem for problem in problems)
    (folder_root / "train.txt").write_text("train_4\n")
    assert check(Folder(folder_root)).ok, "a list leaves out what it likes"


def test_progress_is_told_after_every_image(folder_root: Path) -> None:
    told: list[int] = []
    check(Folder(folder_root), progress=told.append)
    assert told == [1, 2, 3, 4, 5, 6]


def test_the_table_has_every_class_and_names_absent_ones(folder_root: Path) -> None:
    (folder_root / "classes.txt").write_text("background\ncat\ndog\nunicorn\n")
    text = str(check(Folder(folder_root)))
    assert "own train: 6 images, 4 classes" in text
    assert all(name in text for name in ("background", "cat", "dog", "label: PNG palette: 6 files"))
    assert text.endswith("no problems\nclasses that don't occur: unicorn"), "a border is 255, and no hint is wanted"


def test_masks_of_0_and_255_are_a_problem_with_the_way_out(folder_root: Path, save_mask: Callable[..., Path]) -> None:
    ids = np.zeros((30, 40))
    ids[:3] = 255
    for number in range(6):
        save_mask(folder_root / "labels" / "train" / f"train_{number}.png", ids)
    (problem,) = check(Folder(folder_root)).problems
    assert "10.0% of the pixels are 255, and all others are background" in problem
    assert problem.endswith("a mask of 0 and 255 has to become one of 0 and 1")
    for number in range(6):
        save_mask(folder_root / "labels" / "train" / f"train_{number}.png", np.full((30, 40), 255))
    assert "100.0% of the pixels are 255, and there are no others" in str(check(Folder(folder_root)))


def test_a_class_that_may_be_written_as_255_is_told_beside_a_large_ignored_part(
    folder_root: Path, save_mask: Callable[..., Path], two_objects: np.ndarray
) -> None:
    for number in range(6):
        ids = np.where(two_objects == 0, 255, np.where(two_objects == 255, 0, two_objects - 1))
        save_mask(folder_root / "labels" / "train" / f"train_{number}.png", ids)
    report = check(Folder(folder_root))
    assert report.ok
    assert "classes that don't occur: dog (" in str(report)
    assert "% are ignored; 255 is not counted; where it stands for a class, write that class's id" in str(report)


def test_many_problems_of_one_kind_are_one_line_and_the_names(
    folder_root: Path, picture: Callable[..., np.ndarray]
) -> None:
    labels = folder_root / "labels" / "train"
    for number in range(5):
        Image.fromarray(picture()).save(labels / f"train_{number}.png")
    told = str(check(Folder(folder_root))).splitlines()
    assert told[-3] == "5 problems"
    assert f"{labels / 'train_0.png'}: a mask of mode RGB" in told[-2]
    assert told[-1] == "  and 4 more like it: train_1, train_2, train_3, train_4"
    Image.fromarray(picture()).save(labels / "train_5.png")
    assert str(check(Folder(folder_root))).endswith("  and 5 more like it: all of train")


def test_one_is_singular(folder_root: Path) -> None:
    (folder_root / "train.txt").write_text("train_4\n")
    (folder_root / "labels" / "train" / "train_4.png").unlink()
    text = str(check(Folder(folder_root)))
    assert all(words in text for words in ("own train: 1 image,", "label: missing: 1 file\n", "\n1 problem\n"))


def test_a_link_that_leads_nowhere_is_named(folder_root: Path) -> None:
    path = folder_root / "images" / "train" / "train_9.png"
    path.symlink_to("gone.png")
    assert list(check(Folder(folder_root)).problems) == [f"{path}: a link to a file that isn't there"]


def test_a_data_set_without_files_is_checked_too() -> None:
    report = check(Creatures("val", images=3), thresholds=(32, 64))
    assert report.ok
    assert sum(report.objects.values()) == sum(len(Creatures("val", images=3).lengths(k)) for k in range(3))
    assert not report.encodings
