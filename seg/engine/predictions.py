"""Evaluation of anybody's predictions: a folder of label images, one for each image of a split."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from seg.data.images import read_mask
from seg.data.object_size import object_size
from seg.engine.evaluate import Evaluation
from seg.engine.progress import Progress
from seg.errors import DataError


def evaluate_predictions(
    folder: Path, data: Any, *, classes: int, thresholds: tuple[float, float], size_by: str = "object"
) -> Evaluation:
    """Count the label PNGs of a folder against the truth of `data`.

    A file is named as its image, with or without something behind an underscore: ID.png, ID_leftImg8bit.png. Its
    values are class ids (Cityscapes: labelIds); a value that is no class counts as a false negative of the truth.
    raises: DataError for a file that is missing, there twice, of another size, or no 8-bit single-channel image
    """
    files = find_predictions(folder, data.names)
    result = Evaluation(classes)
    with Progress(len(data), what="evaluating") as progress:
        for index, name in enumerate(data.names):
            sample = data[index]
            prediction = read_mask(files[name])
            if prediction.shape != sample.label.shape:
                raise DataError(
                    f"{files[name]} is {_size(prediction)} but the label of {name} is {_size(sample.label)}; "
                    "write predictions at the label's resolution"
                )
            prediction = data.classes_of(prediction)
            objects = sample.objects if sample.objects is not None else np.full(sample.label.shape, -1, np.int32)
            size = torch.from_numpy(object_size(objects, size_by))
            label = torch.from_numpy(sample.label).long()
            result.add(name, torch.from_numpy(prediction), label, size, thresholds)
            progress.update(index + 1)
    return result


def find_predictions(folder: Path, names: list[str]) -> dict[str, Path]:
    """The prediction of each image. Raises DataError naming those that are missing or there twice."""
    if not folder.is_dir():
        raise DataError(f"predictions={folder}: no such folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        found.setdefault(path.stem, []).append(path)
    files, missing = {}, []
    for name in names:
        stem = Path(name).name
        fitting = found.get(stem) or [p for key in found if key.startswith(stem + "_") for p in found[key]]
        if len(fitting) > 1:
            raise DataError(f"two predictions for {name}: {fitting[0]} and {fitting[1]}; remove one")
        if fitting:
            files[name] = fitting[0]
        else:
            missing.append(name)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"predictions={folder}: no prediction for {', '.join(missing[:3])}{more}")
    return files


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]} px"
