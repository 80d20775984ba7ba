"""Small run folders, written as training and evaluation write them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

CLASSES = ("background", "red", "green")
SIZES = ("small", "medium", "large", "background")
PALETTE = [0, 0, 0, 200, 60, 60, 60, 160, 90]


def dilation_rows(means: dict[str, float], std: float = 0.5, count: int = 100) -> list[dict[str, Any]]:
    return [
        {"layer": f"layer4.{layer}.conv2", "size": size, "mean": mean, "std": std, "count": count}
        for layer in range(2)
        for size, mean in means.items()
    ]


def result(variant: str, seed: int = 0, miou: float = 0.8, **changes: Any) -> dict[str, Any]:
    """The contents of a result.json; a change to None takes the key out."""
    fixed = variant.startswith("dilated")
    means = dict.fromkeys(SIZES, 2.0) if fixed else {"small": 1.5, "medium": 3.0, "large": 4.5, "background": 1.25}
    document = {
        "schema": 1,
        "config": {},
        "commit": "abc1234",
        "versions": {"torch": "2.11.0"},
        "backend": "compiled",
        "device": "CPU, 2 cores",
        "data": {"name": "creatures", "split": "val", "images": 4},
        "protocol": "mIoU over 3 classes, one confusion matrix",
        "miou": miou,
        "pixel_accuracy": 0.9,
        "iou": dict(zip(CLASSES, (0.9, 0.8, None), strict=True)),
        "iou_by_size": {"small": 0.5, "medium": 0.6, "large": 0.7, "background": 0.9},
        "accuracy_by_size": {"small": 0.55, "medium": 0.65, "large": 0.75, "background": 0.95},
        "effective_dilation": dilation_rows(means, std=0.0 if fixed else 0.5),
        "cost": {"parameters": 208000, "flops": 3.1e8, "seconds_per_image": 0.004, "memory_bytes": 2**20 * 400},
        "train_seconds": 41.0,
        "variant": variant,
        "seed": seed,
        "budget": "600 iterations of batch 16",
        "command": f"python scripts/train.py seed={seed}",
        "date": "2026-11-21T16:00:00+00:00",
        **changes,
    }
    return {key: value for key, value in document.items() if value is not None}


def per_image(shares: list[float], union: int = 1000) -> list[dict[str, Any]]:
    """One class, the same union everywhere: the dataset's IoU is then the mean of the shares."""
    return [
        {"name": f"image {index}", "intersection": [round(share * union)], "union": [union]}
        for index, share in enumerate(shares)
    ]


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, document: dict[str, Any] | str | None, **status: Any) -> Path:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "status.json").write_text(json.dumps({"state": "done", "error": None, **status}))
        if document is not None:
            text = document if isinstance(document, str) else json.dumps(document)
            (folder / "result.json").write_text(text)
        return folder

    return write


def add_pictures(folder: Path, document: dict[str, Any], names: list[str], seed: int = 0) -> dict[str, Any]:
    """The document with examples and sampling points, whose pictures are written below the run folder."""
    random = np.random.default_rng(seed)
    (folder / "examples").mkdir(parents=True, exist_ok=True)
    examples = []
    for index, name in enumerate(names):
        label = random.integers(0, 3, (12, 16)).astype(np.uint8)
        label[0, 0] = 255
        prediction = label.copy()
        prediction[:, :4] = 0
        Image.fromarray(random.integers(0, 255, (12, 16, 3)).astype(np.uint8)).save(
            folder / f"examples/{index}-image.png"
        )
        for kind, ids in (("label", label), ("prediction", prediction)):
            picture = Image.fromarray(ids)
            picture.putpalette(PALETTE)
            picture.save(folder / f"examples/{index}-{kind}.png")
        paths = {kind: f"examples/{index}-{kind}.png" for kind in ("image", "label", "prediction")}
        examples.append({"name": name, **paths, "miou": 0.5 + index / 20})
    points = {str(level): random.uniform(0, 12, (9**level, 2)).round(2).tolist() for level in (1, 2, 3)}
    unit = {"name": names[0], "length_px": 8.0, "unit": [6, 8], "points": points}
    sampling = [{**unit, "object_size": size} for size in ("small", "large")]
    return {**document, "examples": examples, "sampling": sampling}
