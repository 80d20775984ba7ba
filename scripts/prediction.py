"""Labels of images that have no truth: the same path as in evaluation, ending in PNGs and in archives to hand in."""

import itertools
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from build import build
from examples import painted
from omegaconf import DictConfig
from PIL import Image
from run import make_folder, state_of, trained_model

from seg.counts import counted
from seg.data import Sample, one_batch
from seg.data.cityscapes import CITYSCAPES_CLASSES, to_label_ids
from seg.data.files import SUFFIXES, images_in, read_ids
from seg.data.images import read_image
from seg.data.voc import VOC_CLASSES
from seg.engine.checkpoint import replacing
from seg.engine.progress import Progress
from seg.errors import ConfigError, DataError

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
# what the two servers take: which classes, and where a file lies in the archive
ARCHIVED = {"voc": VOC_CLASSES, "cityscapes": tuple(one.name for one in CITYSCAPES_CLASSES)}
VOC_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


class Unlabelled:
    """Images alone, as a data set whose labels are all ignored."""

    name, split = "images", "predict"

    def __init__(self, paths: Sequence[Path], names: Sequence[str] | None = None) -> None:
        self.paths, self.names = paths, list(names or (path.stem for path in paths))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator["Unlabelled"]:
        return (Unlabelled([path], [name]) for path, name in zip(self.paths, self.names, strict=True))

    def __getitem__(self, index: int) -> Sample:
        image = self.read(index)
        return Sample(image, np.full(image.shape[:2], 255, np.uint8), None, self.names[index])

    def read(self, index: int) -> np.ndarray:
        return read_image(self.paths[index], upright=True)


class Frame(Unlabelled):
    """One image that is in memory already."""

    def __init__(self, name: str, image: np.ndarray) -> None:
        self.names, self.image = [name], image

    def read(self, index: int) -> np.ndarray:
        return self.image


class Video:
    """The frames of a video, one in memory at a time, named NAME_000000, NAME_000001, ...; raises DataError."""

    def __init__(self, path: Path) -> None:
        self.path, reader = path, cv2.VideoCapture(str(path))
        count = int(reader.get(cv2.CAP_PROP_FRAME_COUNT))
        if not reader.isOpened() or not reader.read()[0]:
            raise DataError(f"input={path}: no frame of it can be read as a video; give images, or convert it to mp4")
        self.names = [f"{path.stem}_{index:06d}" for index in range(max(count, 1))]  # a count is an estimate

    def __iter__(self) -> Iterator[Unlabelled]:
        reader = cv2.VideoCapture(str(self.path))
        for index in itertools.count():
            good, frame = reader.read()
            if not good:
                return
            yield Frame(f"{self.path.stem}_{index:06d}", cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def predict(config: DictConfig, source: Path, output: Path, opacity: float, archive: str | None = None) -> int:
    """Label every image of a file, folder or video; returns their number. Bad ones are passed over and named last.

    archive: "voc" or "cityscapes" for a file that the server of that name takes, beside the folders
    """
    _require_apart(source, output)
    runtime, state = build(config.runtime), state_of(config)
    _check_archive(archive, tuple(state["config"]["classes"]))
    model = runtime.place(trained_model(state, config)).eval()
    images, palette = open_source(source), np.array(state["config"]["palette"], dtype=np.uint8)
    pairs = tuple((left, right) for left, right in state["config"].get("flip_pairs", []))
    # the image's own size is wanted, whatever the truth was brought to in evaluation
    transform = build(config.data.evaluate_transform, truth="original")
    normalization = build(config.data.normalization)
    inference, bad, good = build(config.inference), [], []
    make_folder(output)  # once nothing else is wrong
    with Progress(len(images.names), what="labelling") as progress, torch.inference_mode():
        for image in images:
            try:
                batch = replace(one_batch(image, 0, transform, normalization=normalization), flip_pairs=pairs)
                label = inference.scores(model, batch, runtime).argmax(1)[0].cpu().numpy().astype(np.uint8)
                write(output, image.names[0], image[0].image, label, palette, opacity)
                good.append(image.names[0])
            except DataError as error:
                bad.append(str(error))
            progress.update(len(good) + len(bad))
    if (found := len(good) + len(bad)) < len(images.names):
        frames = counted(len(images.names), "frame")
        print(f"note: {source} says that it has {frames}; {found} could be read", file=sys.stderr)
    if bad:
        of_all = counted(len(images.names), "image")
        raise DataError("\n".join([f"{len(bad)} of {of_all} could not be labelled:", *bad]))
    if archive is not None:
        _require_unlike([Path(name).name for name in good], f"archive={archive}")
        write_archive(output, archive, good)
    return len(good)


def _require_apart(source: Path, output: Path) -> None:
    """Raises ConfigError for an output that is a file, where results would lie among the images, or among masks."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"output={output} is a file; give a folder, which is made where there is none")
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"output={output} lies in input={source}, among the images; give a folder elsewhere")
    if (output / "labels").exists() and not (output / "ids").exists():
        raise ConfigError(f"{output / 'labels'} is there already, and not of predict.py; give output=FOLDER elsewhere")


def open_source(source: Path) -> Unlabelled | Video:
    """The image itself, the frames of a video, the images of a list, or those in a folder and the folders in it."""
    if source.is_file() and source.suffix == ".txt":
        return Unlabelled(_listed(source))
    if source.is_file():
        return Video(source) if source.suffix.lower() in VIDEOS else Unlabelled([source])
    if not source.is_dir():
        raise DataError(f"input={source}: no such file or folder")
    found = images_in(source)
    if not found:
        raise DataError(f"input={source}: no image in it ({', '.join(SUFFIXES)})")
    return Unlabelled([*found.values()], [*found])


def _listed(source: Path) -> list[Path]:
    """The images of a list; results have their names alone. Paths are from here, or from the list's own folder."""
    lines = read_ids(source, of_files=True)
    places = [(Path(line), source.parent / line) for line in lines]
    paths = [beside if beside.is_file() and not here.is_file() else here for here, beside in places]
    if not any(path.is_file() for path in paths):
        raise DataError(
            f"input={source}: no line of it is a file; the first is {lines[0]!r}. A list has the paths of images, from "
            "here or from its folder; of ids, sed 's|.*|FOLDER/&.jpg|' IDS.txt makes one"
        )
    _require_unlike([path.stem for path in paths], f"input={source}")
    return paths


def _require_unlike(names: Sequence[str], where: str) -> None:
    """Raises DataError where two results would have one name."""
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise DataError(f"{where}: several images are called {repeated}; their results would collide")


def write(output: Path, name: str, image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float) -> None:
    """ids/NAME.png: class ids; labels/NAME.png: the same with the palette; overlays/NAME.png: colours on the image."""
    overlay = (1 - opacity) * image + opacity * palette[label]
    pictures = {
        "ids": Image.fromarray(label),
        "labels": painted(label, palette),
        "overlays": Image.fromarray(overlay.round().astype(np.uint8)),
    }
    for kind, picture in pictures.items():
        path = output / kind / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, "wb") as file:
            picture.save(file, "PNG")


def write_archive(output: Path, kind: str, names: list[str]) -> Path:
    """voc.tgz: palette PNGs under comp6_test_cls; cityscapes.zip: label ids. The same labels give the same content."""
    if kind == "voc":
        path = output / "voc.tgz"
        with replacing(path, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
            for name in names:
                tar.add(output / "labels" / f"{name}.png", f"{VOC_FOLDER}/{Path(name).name}.png")
        return path
    whole_path, folder = output / "cityscapes.zip", output / "label_ids"
    folder.mkdir(exist_ok=True)
    with replacing(whole_path, "wb") as whole, zipfile.ZipFile(whole, "w") as archive:
        for name in names:
            ids = to_label_ids(np.array(Image.open(output / "ids" / f"{name}.png")))
            path = folder / f"{Path(name).name}.png"
            with replacing(path, "wb") as file:
                Image.fromarray(ids).save(file, "PNG")
            archive.write(path, path.name)
    return whole_path


def _check_archive(archive: str | None, classes: tuple[str, ...]) -> None:
    if archive is None:
        return
    if archive not in ARCHIVED:
        raise ConfigError(f"archive is {archive!r}; choose from {', '.join(ARCHIVED)}")
    if classes != ARCHIVED[archive]:
        raise ConfigError(f"archive={archive} needs a net trained on that data set's classes; this one has {classes}")
