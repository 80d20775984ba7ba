"""The pictures of a run: chosen images with their labels and predictions, and where a unit's samples lie."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from seg.analysis import record_offsets, sampling_points
from seg.data import SIZES, one_batch, size_class
from seg.data.sample import Batch
from seg.engine import Evaluation, Inference, Runtime
from seg.engine.checkpoint import replacing

LEVELS = 3  # 9, 81, 729 points


def write_examples(
    folder: Path,
    model: nn.Module,
    data: Any,
    transform: Any,
    evaluation: Evaluation,
    runtime: Runtime,
    *,
    count: int,
    thresholds: tuple[float, float],
    inference: Inference | None = None,
    **loading: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Write images, labels and predictions below folder/examples; returns the entries of result.json about them."""
    examples, sampling, inference = [], [], inference or Inference()
    scores = _scores(evaluation)
    # the first ones, so that all variants of a comparison show the same images, and this run's best and worst of all:
    # twice as many as a page shows, as another net's best and worst are mostly among them
    for index in list(dict.fromkeys([*range(min(count, len(scores))), *extremes(scores, count)])):
        batch = one_batch(data, index, transform, **loading)
        with torch.inference_mode(), record_offsets(model) as recorded:
            prediction = inference.scores(model, batch, runtime).argmax(1)[0].cpu()
        image = data[index].image
        names = _write_pictures(folder, data, index, image, batch, prediction)
        examples.append({"name": batch.names[0], **names, "miou": scores[index]})
        if index >= count or not inference.plain:  # what was recorded is of the last scale or window alone
            continue
        for entry in _sampling(recorded, batch, image.shape[:2], thresholds):
            sampling.append({"name": batch.names[0], "image": names["image"], **entry})
    return {"examples": examples, "sampling": sampling}


def extremes(scores: Sequence[float | None], each: int) -> list[int]:
    """The images of highest mIoU and of lowest, best first; of equal ones the first. An image without a mIoU is out."""
    ranked = sorted((k for k, score in enumerate(scores) if score is not None), key=lambda k: -(scores[k] or 0.0))
    each = min(each, len(ranked) // 2)
    return ranked[:each] + ranked[len(ranked) - each :]


def _scores(evaluation: Evaluation) -> list[float | None]:
    """mIoU of each image by itself."""
    counts = torch.stack(evaluation.per_image).double()  # [images, 2, C]
    return [None if score != score else score for score in (counts[:, 0] / counts[:, 1]).nanmean(1).tolist()]


def _write_pictures(
    folder: Path, data: Any, index: int, image: np.ndarray, batch: Batch, prediction: Tensor
) -> dict[str, str]:
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    pictures = {
        "image": Image.fromarray(image),
        "label": painted(batch.label[0].numpy(), data.palette),
        "prediction": painted(prediction.numpy(), data.palette),
    }
    names = {}
    for kind, picture in pictures.items():
        names[kind] = f"examples/{index:05d}_{kind}.png"
        with replacing(folder / names[kind], "wb") as file:
            picture.save(file, "PNG")
    return names


def painted(label: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Class ids as a palette image; 255, the ignored, is black."""
    colours = np.zeros((256, 3), dtype=np.uint8)
    colours[: len(palette)] = palette
    picture = Image.fromarray(label.astype(np.uint8))
    picture.putpalette(colours.flatten().tolist())
    return picture


def _sampling(
    recorded: Any, batch: Batch, shown: Sequence[int], thresholds: tuple[float, float]
) -> Iterator[dict[str, Any]]:
    """One unit for each object size in the image: the last layer's unit nearest to the middle of such a region.

    shown: height and width of the picture that the places are given in; the net may read it at another size, and the
           truth have a third
    """
    names = list(recorded)
    if not names:
        return
    sizes = size_class(batch.size, thresholds)[0]
    ratio = [of_picture / given for of_picture, given in zip(shown, batch.image.shape[-2:], strict=True)]
    of_label = [of_picture / have for of_picture, have in zip(shown, sizes.shape, strict=True)]
    for number, size in enumerate(SIZES):
        pixel = middle_unit(sizes == number, batch.size[0])
        if pixel is None:
            continue
        unit = [value * r for value, r in zip(pixel, of_label, strict=True)]
        read = [value / r for value, r in zip(unit, ratio, strict=True)]
        points = sampling_points([recorded[name] for name in names[-LEVELS:]], read)
        yield {
            "object_size": size,
            "length_px": float(batch.size[0][pixel]),
            "unit": unit,
            "points": {str(k): (p.reshape(-1, 2) * torch.tensor(ratio)).tolist() for k, p in points.items()},
        }


def middle_unit(region: Tensor, size: Tensor) -> tuple[int, int] | None:
    """The pixel of the region's commonest object that is nearest to its middle; None for an empty region."""
    if not region.any():
        return None
    lengths = size[region]
    region = region & (size == lengths.mode().values)
    pixels = torch.nonzero(region)
    row, column = pixels[(pixels - pixels.double().mean(0)).pow(2).sum(1).argmin()].tolist()
    return row, column
