"""Labels of images that have no truth: the same path as in evaluation, ending in PNGs."""

import itertools
from pathlib import Path

import numpy as np
import torch
from build import build
from examples import painted
from omegaconf import DictConfig
from PIL import Image
from run import newest_state, trained_model

from seg.data import Sample, one_batch
from seg.data.files import SUFFIXES
from seg.data.images import read_image
from seg.engine import RunFolder
from seg.engine.inference import forward
from seg.engine.progress import Progress
from seg.errors import DataError


class Unlabelled:
    """Images alone, as a data set whose labels are all ignored."""

    name, split = "images", "predict"

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.names = [path.stem for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.paths[index], upright=True)
        return Sample(image, np.full(image.shape[:2], 255, np.uint8), None, self.names[index])


def predict(config: DictConfig, source: Path, output: Path, opacity: float) -> int:
    """Label every image of a file or folder; returns their number. A bad one is passed over and named at the end."""
    runtime, state = build(config.runtime), newest_state(RunFolder(config.run))
    model = runtime.place(trained_model(state, config)).eval()
    images, palette = Unlabelled(find_images(source)), np.array(state["config"]["palette"], dtype=np.uint8)
    transform, normalization = build(config.data.evaluate_transform), build(config.data.normalization)
    bad = []
    with Progress(len(images), what="labelling") as progress, torch.inference_mode():
        for index, name in enumerate(images.names):
            try:
                batch = one_batch(images, index, transform, normalization=normalization)
                label = forward(model, batch, runtime).argmax(1)[0].cpu().numpy().astype(np.uint8)
                write(output, name, images[index].image, label, palette, opacity)
            except DataError as error:
                bad.append(str(error))
            progress.update(index + 1)
    if bad:
        raise DataError("\n".join([f"{len(bad)} of {len(images)} images could not be labelled:", *bad]))
    return len(images)


def find_images(source: Path) -> list[Path]:
    """The image itself, or the images directly in a folder, sorted."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise DataError(f"input={source}: no such file or folder")
    found = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"input={source}: no image in it ({', '.join(SUFFIXES)})")
    twice = [path for path, after in itertools.pairwise(found) if path.stem == after.stem]
    if twice:
        raise DataError(f"input={source}: several images are called {twice[0].stem}; their results would collide")
    return found


def write(output: Path, name: str, image: np.ndarray, label: np.ndarray, palette: np.ndarray, opacity: float) -> None:
    """labels/NAME.png: class ids with the palette; overlays/NAME.png: the classes' colours over the image."""
    overlay = (1 - opacity) * image + opacity * palette[label]
    pictures = {"labels": painted(label, palette), "overlays": Image.fromarray(overlay.round().astype(np.uint8))}
    for kind, picture in pictures.items():
        (output / kind).mkdir(parents=True, exist_ok=True)
        picture.save(output / kind / f"{name}.png")
