"""Images, folders and videos without labels: what predict writes, and the archives for the servers."""

import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from seg.data.cityscapes import CITYSCAPES_CLASSES, to_label_ids
from seg.engine import RunFolder, checkpoint
from seg.errors import ConfigError, DataError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from build import build  # noqa: E402
from prediction import Video, open_source, predict  # noqa: E402
from run import load_config, names_of, save_config  # noqa: E402

PALETTE = np.array([one.colour for one in CITYSCAPES_CLASSES], dtype=np.uint8)


def configuration(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, list(overrides))


class Names:
    classes = tuple(one.name for one in CITYSCAPES_CLASSES)
    palette = PALETTE
    flip_pairs = ()
    names = ("a",)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """A run of a net for Cityscapes' classes that was never trained."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    given = configuration(
        "train", "data=cityscapes", "data.root=unused", "trunk=tiny", "head.hidden=16", "runtime.threads=1",
        "runtime.precision=fp32",
        f"run={folder.path}",
    )  # fmt: skip
    torch.manual_seed(0)
    state = {"step": 0, "model": build(given.model, classes=19).state_dict(), "config": names_of(Names)}
    save_config(folder, given)
    checkpoint.save(folder.checkpoints, 0, state)
    asked = configuration("predict")
    loaded = load_config(str(folder.path), asked)
    loaded.inference = asked.inference
    return loaded


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for shade in (30, 120, 210):
        writer.write(np.full((48, 64, 3), (shade, 0, 255 - shade), dtype=np.uint8))  # blue, green, red
    writer.release()
    return path


def test_a_video_gives_its_frames_in_order_as_rgb(video: Path) -> None:
    source = open_source(video)
    assert isinstance(source, Video)
    frames = [(one.names[0], one[0].image.mean((0, 1))) for one in source]
    assert [name for name, _ in frames] == ["drive_000000", "drive_000001", "drive_000002"] == source.names
    for (_, colour), shade in zip(frames, (30, 120, 210), strict=True):
        assert np.abs(colour - (255 - shade, 0, shade)).max() < 6


def test_a_video_that_ends_early_is_said(
    config: DictConfig, video: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = video.read_bytes()
    video.write_bytes(content[: content.rindex(b"00dc", 0, content.index(b"idx1"))])  # as if the last frame were lost
    assert predict(config, video, tmp_path / "out", 0.5) == 2
    assert "drive.avi says that it has 3 frames; 2 could be read" in capsys.readouterr().err


def test_every_frame_is_labelled_and_twice_is_the_same(config: DictConfig, video: Path, tmp_path: Path) -> None:
    assert predict(config, video, tmp_path / "a", 0.5) == 3
    assert predict(config, video, tmp_path / "b", 0.5) == 3
    written = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.png"))
    assert len(written) == 9
    for path in written:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    ids, labels = (Image.open(tmp_path / "a" / kind / "drive_000001.png") for kind in ("ids", "labels"))
    assert (ids.mode, labels.mode, ids.size) == ("L", "P", (64, 48))
    assert np.array_equal(np.array(ids), np.array(labels))
    assert np.array_equal(np.array(labels.convert("RGB")), PALETTE[np.array(ids)])


def test_left_and_right_classes_change_places_in_the_mirror_image(
    config: DictConfig, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A net that says 2 everywhere, 9 a little less, and never 5: its mirror image says 5, 9, and never 2."""
    monkeypatch.setattr(Names, "flip_pairs", ((2, 5),))
    run = RunFolder(tmp_path / "run")
    state, _ = checkpoint.newest(RunFolder(config.run).checkpoints)
    state["model"]["head.score.weight"].zero_()
    state["model"]["head.score.bias"].zero_()[[2, 9]] = torch.tensor([8.0, 7.9])
    checkpoint.save(run.checkpoints, 0, {**state, "config": names_of(Names)})
    for flip, expected in ((False, 2), (True, 9)):
        given = OmegaConf.merge(config, {"run": str(run.path), "inference": {"flip": flip}})
        predict(given, video, tmp_path / str(flip), 0.5)
        assert (np.array(Image.open(tmp_path / str(flip) / "ids" / "drive_000001.png")) == expected).all()


def test_the_cityscapes_archive_holds_label_ids(config: DictConfig, tmp_path: Path) -> None:
    image = tmp_path / "berlin_000000_000019_leftImg8bit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)).save(image)
    predict(config, image, tmp_path / "out", 0.5, "cityscapes")
    with zipfile.ZipFile(tmp_path / "out" / "cityscapes.zip") as archive:
        assert archive.namelist() == [image.name]
        with archive.open(image.name) as file:
            found = np.array(Image.open(file))
    ids = np.array(Image.open(tmp_path / "out" / "ids" / image.name))
    assert np.array_equal(found, to_label_ids(ids))
    assert set(np.unique(found)) <= {one.label_id for one in CITYSCAPES_CLASSES}


def test_the_voc_archive_has_the_servers_folders(tmp_path: Path) -> None:
    from prediction import write_archive

    (tmp_path / "labels").mkdir()
    Image.fromarray(np.full((4, 5), 7, np.uint8)).save(tmp_path / "labels" / "2008_000006.png")
    with tarfile.open(write_archive(tmp_path, "voc", ["2008_000006"])) as archive:
        assert archive.getnames() == ["results/VOC2012/Segmentation/comp6_test_cls/2008_000006.png"]


def test_an_archive_for_other_classes_is_refused(config: DictConfig, tmp_path: Path) -> None:
    for archive, words in (("voc", "needs a net trained on that data set's classes"), ("zip", "choose from voc, city")):
        with pytest.raises(ConfigError, match=words):
            predict(config, tmp_path / "in", tmp_path / "out", 0.5, archive)


def test_a_file_in_the_place_of_the_output_folder_is_named(config: DictConfig, video: Path) -> None:
    with pytest.raises(ConfigError, match=r"drive.avi is a file; give a folder"):
        predict(config, video, video, 0.5)
    with pytest.raises(ConfigError, match=r"the folder .*drive.avi/below can't be made \(Not a directory\)"):
        predict(config, video, video / "below", 0.5)


def test_a_list_names_the_images_that_are_labelled(
    config: DictConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As VOC's test images, which lie among all others."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "test.txt").write_text(f"c.png\n{tmp_path}/a.png\n")
    assert predict(config, Path("test.txt"), tmp_path / "out", 0.5) == 2
    assert {path.stem for path in (tmp_path / "out" / "ids").iterdir()} == {"a", "c"}
    (tmp_path / "test.txt").write_text("a.png\nd.png\n")
    with pytest.raises(DataError, match=r"1 of 2 images could not be labelled:\nd.png: no such file"):
        predict(config, Path("test.txt"), tmp_path / "out", 0.5)
    (tmp_path / "test.txt").write_text("a.png\nother/a.png\n")
    with pytest.raises(DataError, match="several images are called a; their results would collide"):
        open_source(Path("test.txt"))


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"not a video")
    with pytest.raises(DataError, match=r"bad.mp4: no frame of it can be read as a video"):
        open_source(tmp_path / "bad.mp4")


def images_at(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(folder / name)
    return folder


def test_a_folder_is_walked_with_its_folders_and_results_lie_as_the_images(config: DictConfig, tmp_path: Path) -> None:
    photos = images_at(tmp_path / "photos", "a.png", "monday/a.jpg", "monday/early/b.png", ".cache/c.png")
    assert predict(config, photos, tmp_path / "out", 0.5) == 3
    for kind in ("ids", "labels", "overlays"):
        folder = tmp_path / "out" / kind
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == {
            "a.png",
            "monday/a.png",
            "monday/early/b.png",
        }


def test_results_never_lie_among_the_images(config: DictConfig, tmp_path: Path) -> None:
    photos = images_at(tmp_path / "photos", "a.png")
    for output in (photos, photos / "out"):
        with pytest.raises(ConfigError, match=r"lies in input=.*, among the images; give a folder elsewhere"):
            predict(config, photos, output, 0.5)
    assert [path.name for path in photos.rglob("*")] == ["a.png"]


def test_masks_of_ones_own_are_never_overwritten(config: DictConfig, tmp_path: Path) -> None:
    images_at(tmp_path, "images/a.png", "labels/a.png")
    before = (tmp_path / "labels" / "a.png").read_bytes()
    with pytest.raises(ConfigError, match=r"labels is there already, and not of predict\.py"):
        predict(config, tmp_path / "images", tmp_path, 0.5)
    assert (tmp_path / "labels" / "a.png").read_bytes() == before
    assert predict(config, tmp_path / "images", tmp_path / "out", 0.5) == 1
    assert predict(config, tmp_path / "images", tmp_path / "out", 0.5) == 1, "its own results may be written again"


def test_the_paths_of_a_list_may_begin_at_its_folder(config: DictConfig, tmp_path: Path) -> None:
    images_at(tmp_path, "images/a.png")
    (tmp_path / "list.txt").write_text("images/a.png\n")
    assert predict(config, tmp_path / "list.txt", tmp_path / "out", 0.5) == 1


def test_a_list_of_ids_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("2007_000033\n2007_000042\n")
    with pytest.raises(DataError, match=r"no line of it is a file; the first is '2007_000033'\. .* sed "):
        open_source(tmp_path / "val.txt")
