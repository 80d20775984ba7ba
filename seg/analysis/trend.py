"""How what was measured on objects follows their size. Intervals are over images: an image's objects go together."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 1000
LEAST = 3  # objects below which there is no correlation

Row = Mapping[str, Any]
Array = NDArray[np.float64]


def mean_dilation(row: Row, layer: str | None = None) -> float | None:
    """An object's effective dilation in one layer, or averaged over all of them; None where one has no filter on it.

    An average over some would be of other layers for small objects than for large ones.
    """
    if layer is not None:
        return row["dilation"].get(layer)
    values = list(row["dilation"].values())
    return sum(values) / len(values) if values and None not in values else None


def rank_correlation(
    rows: Sequence[Row],
    key: str,
    read: Callable[[Row], float | None] = mean_dilation,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, float | int | None]:
    """Spearman's correlation of what is read of each row and row[key], with a 95 % interval over resampled images.

    read:    None for a row that is left out
    returns: rho, low, high (None below 3 objects, or where one of the two is constant), objects, images
    """
    known = [(row["image"], row[key], value) for row in rows if (value := read(row)) is not None]
    images = [image for image, _, _ in known]
    x, y = (np.array([row[i] for row in known], dtype=np.float64) for i in (1, 2))
    rho = _spearman(x, y)
    low, high = _interval(images, lambda chosen: _spearman(x[chosen], y[chosen]), resamples, seed)
    return {"rho": rho, "low": low, "high": high, "objects": len(known), "images": len(set(images))}


def means_by_bins(
    rows: Sequence[Row], key: str, edges: Sequence[float], what: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Any]]:
    """For each of the bins of row[key], edges[i] <= value < edges[i + 1] (the last one with its upper edge): how many
    objects, and the mean of row[what] with a 95 % interval over images. None where there is nothing to average."""
    bins = zip(itertools.pairwise(edges), _binned(rows, key, edges), strict=True)
    return [
        {"from": float(start), "to": float(stop), **_average(inside, what, resamples, seed)}
        for (start, stop), inside in bins
    ]


def by_bins(
    rows: Sequence[Row], key: str, edges: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[dict[str, Any]]:
    """`means_by_bins` of accuracy; the share of pixels that are right, and each layer's mean effective dilation."""
    found = means_by_bins(rows, key, edges, "accuracy", resamples=resamples, seed=seed)
    for one, inside in zip(found, _binned(rows, key, edges), strict=True):
        pixels = sum(row["pixels"] for row in inside)
        right = sum(row["accuracy"] * row["pixels"] for row in inside)
        one["pixel_accuracy"] = right / pixels if inside else None
        one["dilation"] = {layer: _mean(mean_dilation(row, layer) for row in inside) for layer in _layers(rows)}
    return found


def _binned(rows: Sequence[Row], key: str, edges: Sequence[float]) -> list[list[Row]]:
    last = edges[-1] if edges else None
    return [
        [row for row in rows if start <= row[key] < stop or row[key] == stop == last]
        for start, stop in itertools.pairwise(edges)
    ]


def _average(rows: Sequence[Row], what: str, resamples: int, seed: int) -> dict[str, Any]:
    values = np.array([row[what] for row in rows], dtype=np.float64)

    def mean(chosen: NDArray[np.int64]) -> float:
        return float(values[chosen].mean())

    low, high = _interval([row["image"] for row in rows], mean, resamples, seed)
    return {"objects": len(rows), what: float(values.mean()) if rows else None, "low": low, "high": high}


def by_class(rows: Sequence[Row], key: str) -> list[dict[str, Any]]:
    """For each class: objects, mean of row[key], mean accuracy, mean effective dilation, and its own correlation."""
    found = []
    for kind in sorted({row["class"] for row in rows}, key=str):
        inside = [row for row in rows if row["class"] == kind]
        found.append(
            {
                "class": kind,
                "objects": len(inside),
                key: _mean(row[key] for row in inside),
                "accuracy": _mean(row["accuracy"] for row in inside),
                "dilation": {layer: _mean(mean_dilation(row, layer) for row in inside) for layer in _layers(rows)},
                "correlation": rank_correlation(inside, key),
            }
        )
    return found


def fifths(rows: Sequence[Row], key: str) -> list[float]:
    """Edges of five bins of equally many objects; fewer where many objects are of one size, one bin where all are."""
    values = [row[key] for row in rows]
    edges = sorted({float(edge) for edge in np.quantile(values, np.linspace(0, 1, 6))}) if values else []
    return edges * 2 if len(edges) == 1 else edges


def _layers(rows: Sequence[Row]) -> list[str]:
    return list(rows[0]["dilation"]) if rows else []


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _spearman(x: Array, y: Array) -> float | None:
    """None where there is no order to speak of."""
    if len(x) < LEAST or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def _interval(
    images: Sequence[str], statistic: Callable[[NDArray[np.int64]], float | None], resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """95 % of the statistic over resamples of the images; it is called with the numbers of the objects drawn."""
    names = sorted(set(images))
    if len(names) < 2:
        return None, None
    members = [np.flatnonzero(np.array(images) == name) for name in names]
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(len(names), size=len(names))
        found.append(statistic(np.concatenate([members[i] for i in drawn])))
    known = [value for value in found if value is not None]
    if len(known) < resamples / 2:
        return None, None
    low, high = np.quantile(known, (0.025, 0.975))
    return float(low), float(high)
