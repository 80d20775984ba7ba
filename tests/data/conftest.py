"""Small data sets that the tests write, in the layouts that the code reads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Writer = Callable[..., Path]


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """A smooth random picture, uint8 [h, w, 3]: smooth, so that JPEG keeps it nearly as it is."""

    def make(height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        return np.array(small.resize((width, height), Image.Resampling.BICUBIC))

    return make


@pytest.fixture
def save_mask() -> Writer:
    """Writes class ids as a palette PNG whose colours are unlike its ids, as VOC's are."""

    def save(path: Path, ids: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(ids.astype(np.uint8), mode="P")
        image.putpalette([(7 * i + 11 * c) % 256 for i in range(256) for c in range(3)])
        image.save(path)
        return path

    return save


@pytest.fixture
def two_objects() -> np.ndarray:
    """Class ids [30, 40]: a block of class 1, a block of class 2, a rim of ignored pixels at the bottom."""
    ids = np.zeros((30, 40), dtype=np.uint8)
    ids[2:10, 3:13] = 1
    ids[12:24, 20:36] = 2
    ids[29] = 255
    return ids


@pytest.fixture
def folder_root(tmp_path: Path, picture: Callable[..., np.ndarray], save_mask: Writer, two_objects: np.ndarray) -> Path:
    """A data set in the layout of Folder: train with six images, val with two; three classes."""
    root = tmp_path / "own"
    for split, count in (("train", 6), ("val", 2)):
        for number in range(count):
            image = root / "images" / split / f"{split}_{number}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(seed=number)).save(image)
            save_mask(root / "labels" / split / f"{split}_{number}.png", two_objects)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    return root


@pytest.fixture
def voc_root(tmp_path: Path, picture: Callable[..., np.ndarray], save_mask: Writer, two_objects: np.ndarray) -> Path:
    """VOCdevkit/VOC2012 with two train images and one val image; returns the folder that holds VOCdevkit."""
    voc = tmp_path / "voc" / "VOCdevkit" / "VOC2012"
    lists = {"train": ["2007_000001", "2007_000002"], "val": ["2007_000003"]}
    (voc / "JPEGImages").mkdir(parents=True)
    (voc / "ImageSets" / "Segmentation").mkdir(parents=True)
    objects = np.where(two_objects == 255, 255, two_objects)
    for split, names in lists.items():
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n")
        for number, name in enumerate(names):
            Image.fromarray(picture(seed=number)).save(voc / "JPEGImages" / f"{name}.jpg", quality=95)
            save_mask(voc / "SegmentationClass" / f"{name}.png", two_objects)
            save_mask(voc / "SegmentationObject" / f"{name}.png", objects)
    return tmp_path / "voc"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real pictures beside the repository, where there is one."""
    folder = Path(__file__).parents[2].parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no real pictures beside the repository (../shared/data)")
    return folder
