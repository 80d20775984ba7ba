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
    raises: DataError for a file that is missing, there twice, of another size, or no 8-bit single-channel image, and
            for values that are another numbering of the classes
    """
    files = find_predictions(folder, data.names)
    result, values = Evaluation(classes), np.zeros(256, dtype=np.int64)
    with Progress(len(data), what="evaluating") as progress:
        for index, name in enumerate(data.names):
            sample = data[index]
            prediction = read_mask(files[name])
            if prediction.shape != sample.label.shape:
                raise DataError(
                    f"{files[name]} is {_size(prediction)} but the label of {name} is {_size(sample.label)}; "
                    "write predictions at the label's resolution"
                )
            values += np.bincount(prediction.ravel(), minlength=256)
            prediction = data.classes_of(prediction)
            objects = sample.objects if sample.objects is not None else np.full(sample.label.shape, -1, np.int32)
            size = torch.from_numpy(object_size(objects, size_by))
            label = torch.from_numpy(sample.label).long()
            result.add(name, torch.from_numpy(prediction), label, size, thresholds)
            progress.update(index + 1)
    if problem := data.other_numbering(values):
        raise DataError(f"predictions={folder}: {problem}")
    return result


def find_predictions(folder: Path, names: list[str]) -> dict[str, Path]:
    """The prediction of each image: a file of its name anywhere in the folder, or one with something behind an
    underscore; of a name with folders the file at that place. Raises DataError naming images without a prediction or
    with two, and a file that fits two images."""
    if not folder.is_dir():
        raise DataError(f"predictions={folder}: no such folder")
    stems = {Path(name).name for name in names}
    exact: dict[str, list[Path]] = {}
    longer: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.png")):
        owner = _owner(path.stem, stems)
        (exact if owner == path.stem else longer).setdefault(owner, []).append(path)
    files, missing = {}, []
    taken: dict[Path, str] = {}
    for name in names:
        stem, own = Path(name).name, folder / f"{name}.png"
        fitting = [own] if stem != name and own.is_file() else exact.get(stem) or longer.get(stem, [])
        if len(fitting) > 1:
            raise DataError(
                f"two predictions for {name}: {fitting[0]} and {fitting[1]}; remove one, or name one kind's folder "
                "(of predict.py: OUTPUT/ids, or OUTPUT/label_ids for Cityscapes)"
            )
        if not fitting:
            missing.append(name)
            continue
        files[name] = path = fitting[0]
        if taken.setdefault(path, name) != name:
            raise DataError(f"{path} fits both {taken[path]} and {name}; give each a file {folder}/NAME.png of its own")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise DataError(f"predictions={folder}: no prediction for {', '.join(missing[:3])}{more}")
    return files


def _owner(stem: str, stems: set[str]) -> str:
    """The longest of the stems that a file's begins with, up to an underscore; "" for none."""
    while stem and stem not in stems:
        stem = stem.rpartition("_")[0]
    return stem


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]} px"
