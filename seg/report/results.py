"""What a report knows of a run: the contents of its files, checked, with None for what they lack."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SIZES = ("small", "medium", "large", "background")

Numbers = Mapping[str, float | None]


@dataclass(frozen=True)
class Dilation:
    """Effective dilation, in cells, of the filters of one layer whose centre lies on objects of one size."""

    layer: str
    size: str
    mean: float | None
    std: float | None
    count: int


@dataclass(frozen=True)
class Histogram:
    """How the effective dilations of one layer and size are distributed; edges [n + 1], counts [n]."""

    layer: str
    size: str
    edges: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Images:
    """Pixel counts of every evaluated image: intersection and union, int64 [images, classes]; equal if the same."""

    names: tuple[str, ...]
    intersection: np.ndarray
    union: np.ndarray


@dataclass(frozen=True)
class Example:
    """One image with its ground truth and this run's prediction; the paths are absolute."""

    name: str
    image: Path
    label: Path
    prediction: Path
    miou: float | None


@dataclass(frozen=True)
class Sampling:
    """Where one unit looks through 1, 2 and 3 layers; points[level] is [9 ** level, 2], (y, x) in image px."""

    name: str
    object_size: str
    length: float | None
    unit: tuple[float, float]
    points: Mapping[int, np.ndarray]
    image: Path | None


@dataclass(frozen=True)
class Result:
    """One result.json. A number that the file lacks is None, never 0.

    config: the settings of training and evaluation, flat, by keys as `optimizer.lr`
    """

    data: Mapping[str, Any]
    protocol: str
    miou: float | None
    pixel_accuracy: float | None
    iou: Numbers
    iou_by_size: Numbers
    accuracy_by_size: Numbers
    effective_dilation: tuple[Dilation, ...]
    histograms: tuple[Histogram, ...]
    cost: Numbers
    train_seconds: float | None
    images: Images | None
    examples: tuple[Example, ...]
    sampling: tuple[Sampling, ...]
    facts: Mapping[str, str]
    versions: Mapping[str, str]
    config: Mapping[str, Any]

    @property
    def conditions(self) -> tuple[str, ...]:
        """How it was measured, as the protocol says, less the data, the number type, which follows the machine, and how
        many classes were found, which follows what the net predicts."""
        said = re.split(r"[,;] ", self.protocol.partition(": ")[2] or self.protocol)
        said = [re.sub(r"(?<=over )\d+ of (?=\d+ classes)", "", part) for part in said]
        return tuple(part for part in said if not part.startswith("computed in "))


@dataclass(frozen=True)
class Run:
    """One run folder: what it is called, how it ended, and its result if it has one to be counted.

    state:  done | failed | preempted | running | not evaluated | unreadable | other data
    config: its settings, of its result, or of its status where it has no result to be counted
    """

    folder: Path
    name: str
    variant: str
    seed: int | None
    state: str
    error: str | None = None
    result: Result | None = None
    training: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
