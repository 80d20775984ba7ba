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
    assert f"{labels / 'train_0.png'}: there is no image for this mask" in problems
    assert f"{images / 'train_2.j2k'}: images of this suffix are not read" in problems
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
    assert (
        "classes that don't occur: unicorn; 255 is not counted: where it stands for a class, as in masks of 0" in text
    )
    assert "no problems" in text


def test_a_data_set_without_files_is_checked_too() -> None:
    report = check(Creatures("val", images=3), thresholds=(32, 64))
    assert report.ok
    assert sum(report.objects.values()) == sum(len(Creatures("val", images=3).lengths(k)) for k in range(3))
    assert not report.encodings
