"""Means over seeds, pooled moments, and the paired bootstrap over images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from seg.report.results import Dilation, Images

RESAMPLES = 2000


@dataclass(frozen=True)
class Mean:
    """A mean over seeds; std is the sample standard deviation, None for fewer than two values."""

    mean: float | None
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """mIoU of a variant minus the baseline's; low and high bound 95 % of the resamples of the images."""

    mean: float
    low: float | None = None
    high: float | None = None


def mean_std(values: Iterable[float | None]) -> Mean:
    """Mean and spread of the values that are there."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return Mean(None, None, 0)
    return Mean(float(known.mean()), float(known.std(ddof=1)) if len(known) > 1 else None, len(known))


def pool(cells: Iterable[Dilation]) -> Mean:
    """Mean and standard deviation over all filters of several runs, as if they had been counted together."""
    known = [(c.mean, c.std or 0.0, c.count) for c in cells if c.mean is not None and c.count]
    if not known:
        return Mean(None, None, 0)
    mean, std, count = np.array(known, dtype=np.float64).T
    total = float((mean * count).sum() / count.sum())
    variance = float(((std**2 + mean**2) * count).sum() / count.sum()) - total**2
    return Mean(total, max(variance, 0.0) ** 0.5, int(count.sum()))


def dataset_miou(intersection: np.ndarray, union: np.ndarray) -> np.ndarray:
    """mIoU of summed pixel counts [..., classes]; a class in neither truth nor prediction is left out."""
    present = union > 0
    iou = np.where(present, intersection / np.where(present, union, 1), 0.0)
    return iou.sum(-1) / np.maximum(present.sum(-1), 1)


def image_miou(images: Images) -> np.ndarray:
    """mIoU of each image by itself, over the classes that it shows or that were predicted; [images], NaN for none."""
    return np.where(images.union.any(-1), dataset_miou(images.intersection, images.union), np.nan)


def paired_bootstrap(
    ours: Sequence[Images], baseline: Sequence[Images], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float] | None:
    """95 % interval of the difference in mIoU when the images are drawn again, the same ones for both sides.

    ours, baseline: one entry for each seed; mIoU is averaged over the seeds of each resample
    returns:        None unless every entry counts the same images
    It covers the choice of images only, not the spread between seeds.
    """
    sets = {(entry.names, entry.union.shape) for entry in (*ours, *baseline)}
    if len(sets) != 1 or not ours or not baseline:
        return None
    images = len(ours[0].names)
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    difference = _resampled(ours, drawn) - _resampled(baseline, drawn)
    low, high = np.quantile(difference, (0.025, 0.975))
    return float(low), float(high)


def _resampled(seeds: Sequence[Images], drawn: np.ndarray) -> np.ndarray:
    # sums of at most 2 ** 53 pixels are exact in float64, and matrix products of floats are fast
    weights = drawn.astype(np.float64)
    counts = [(weights @ entry.intersection, weights @ entry.union) for entry in seeds]
    return np.mean([dataset_miou(intersection, union) for intersection, union in counts], axis=0)
