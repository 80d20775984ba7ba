"""Means over seeds, pooled moments, and the paired bootstrap over images and seeds."""

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
    """mIoU of a variant minus the baseline's; low and high bound 95 % of the resamples of images and seeds."""

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
    """95 % interval of the difference in mIoU when images, the same ones for both sides, and seeds are drawn again.

    ours, baseline: one entry for each seed; mIoU is averaged over the seeds that a resample draws
    returns:        None unless every entry counts the same images, two or more
    A side of n seeds draws n - 1 of them, so that their mean varies as the mean of n does (Rao and Wu, JASA 83, 1988);
    with one seed the interval covers the choice of images alone. It is centred on the difference itself: a resample
    that lost a rare class has another mean.
    """
    sets = {(entry.names, entry.union.shape) for entry in (*ours, *baseline)}
    if len(sets) != 1 or not ours or not baseline or len(ours[0].names) < 2:
        return None
    images = len(ours[0].names)
    random = np.random.default_rng(seed)
    drawn = random.multinomial(images, np.full(images, 1 / images), size=resamples)
    whole = np.ones((1, images))
    sides = [_resampled(side, drawn, _draw_seeds(len(side), resamples, random)) for side in (ours, baseline)]
    found = [_resampled(side, whole, np.full((1, len(side)), 1 / len(side))) for side in (ours, baseline)]
    resampled = sides[0] - sides[1]
    low, high = np.quantile(resampled - resampled.mean(), (0.025, 0.975)) + (found[0] - found[1])
    return float(low), float(high)


def _draw_seeds(seeds: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Weights [resamples, seeds] that sum to 1."""
    if seeds == 1:
        return np.ones((resamples, 1))
    return random.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=resamples) / (seeds - 1)


def _resampled(seeds: Sequence[Images], drawn: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean mIoU of each resample [resamples]; drawn: how often each image, weights: of each seed."""
    # sums of at most 2 ** 53 pixels are exact in float64, and matrix products of floats are fast
    times = drawn.astype(np.float64)
    miou = [dataset_miou(times @ entry.intersection, times @ entry.union) for entry in seeds]
    return (np.stack(miou, axis=1) * weights).sum(1)
