"""Runs gathered into variants: one row of the ablation each."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seg.errors import ConfigError
from seg.report.results import Images, Result, Run
from seg.report.statistics import Difference, Mean, mean_std, paired_bootstrap, pool

FIXED = {"Dilated", "Active", "Modulation"}  # layers whose sampling is the same everywhere


@dataclass(frozen=True)
class Variant:
    """All runs that bear one label; runs without a result are kept, so that they are shown."""

    label: str
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[Result]:
        return [run.result for run in self.runs if run.result is not None]

    @property
    def miou(self) -> Mean:
        return self.over_seeds(lambda result: result.miou)

    @property
    def adapts(self) -> bool:
        """Whether the sampling differs between positions, told by the spread of the effective dilation."""
        kinds = {str(r.config["conv._target_"]).rpartition(".")[2] for r in self.results if "conv._target_" in r.config}
        if kinds & {"Deform", "Modulated"}:
            return True
        if (kinds and kinds <= FIXED) or (not kinds and is_fixed(self.label)):
            return False
        spreads = [row.std for result in self.results for row in result.effective_dilation if row.std is not None]
        return any(spread > 1e-3 for spread in spreads) if spreads else True

    @property
    def layers(self) -> list[str]:
        """The layers with an effective dilation, in the order of the net."""
        return unique(row.layer for result in self.results for row in result.effective_dilation)

    def over_seeds(self, read: Callable[[Result], float | None]) -> Mean:
        return mean_std(read(result) for result in self.results)

    def entry(self, table: str, key: str) -> Mean:
        """One number of a table of the results, such as "iou" and a class, over seeds."""
        return self.over_seeds(lambda result: getattr(result, table).get(key))

    def dilation(self, size: str, layer: str) -> Mean:
        """Effective dilation of a layer on objects of a size, pooled over seeds."""
        rows = (row for result in self.results for row in result.effective_dilation)
        return pool(row for row in rows if row.layer == layer and row.size == size)

    def mean_dilation(self, size: str, layers: Sequence[str]) -> Mean:
        """Effective dilation on objects of a size, of the layers alike; no mean where one of them has none."""
        found = [self.dilation(size, layer) for layer in layers]
        known = all(one.mean is not None for one in found)
        return Mean(mean_std(one.mean for one in found).mean if known else None, None, sum(one.n for one in found))


def gather(runs: Sequence[Run]) -> list[Variant]:
    """One variant for each label: those that can't adapt first, then by label with numbers by value."""
    labels = unique(run.variant for run in runs)
    variants = [Variant(label, tuple(run for run in runs if run.variant == label)) for label in labels]
    return sorted(variants, key=lambda v: (not v.results, v.adapts, natural(v.label)))


def shared_layers(variants: Sequence[Variant]) -> list[str]:
    """The layers that all variants have which have any: means over other layers can't be compared."""
    found = [variant.layers for variant in variants if variant.layers]
    return [layer for layer in found[0] if all(layer in layers for layers in found)] if found else []


def find_baseline(variants: Sequence[Variant], label: str | None = None) -> Variant:
    """The variant that the others are compared with: the one named, else the first that has a number."""
    known = [variant for variant in variants if variant.miou.n]
    if label is None:
        return known[0] if known else variants[0]
    for variant in known:
        if variant.label == label:
            return variant
    raise ConfigError(f"baseline={label}: no variant with a number; choose from {', '.join(v.label for v in known)}")


def leader(variants: Sequence[Variant], *, adapts: bool | None = None) -> Variant | None:
    """The variant of the highest mean mIoU, of one kind if asked."""
    known = [v for v in variants if v.miou.n and adapts in (None, v.adapts)]
    return max(known, key=lambda v: v.miou.mean or 0.0) if known else None


def difference(variant: Variant, baseline: Variant) -> Difference | None:
    """How far a variant's mIoU lies above the baseline's, None for the baseline and where a number is missing."""
    ours, theirs = variant.miou.mean, baseline.miou.mean
    if ours is None or theirs is None or variant is baseline:
        return None
    images = [[result.images for result in side.results if result.images] for side in (variant, baseline)]
    # an interval of fewer seeds than the means would be of another difference
    complete = all(len(counts) == len(side.results) for counts, side in zip(images, (variant, baseline), strict=True))
    interval = _interval(*map(tuple, images)) if complete else None
    return Difference(ours - theirs, *(interval or (None, None)))


@functools.lru_cache(maxsize=1024)
def _interval(ours: tuple[Images, ...], baseline: tuple[Images, ...]) -> tuple[float, float] | None:
    """As several tables and charts of a report need it."""
    return paired_bootstrap(ours, baseline)


def is_fixed(label: str) -> bool:
    """Whether a label is that of a net of fixed sampling; offsets that are parameters differ by their groups alone."""
    return re.match(r"(dilated|active|modulation)\b", label) is not None


def samples_fixed(study: Mapping[str, Any]) -> bool:
    """Whether a study is of a net of fixed sampling; older ones don't say their layers, and their label has to tell."""
    return study["conv"] in FIXED if "conv" in study else is_fixed(str(study["variant"]))


def unique(items: Iterable[str]) -> list[str]:
    """The items in the order of their first appearance."""
    return list(dict.fromkeys(items))


def natural(label: str) -> list[tuple[int, float, str]]:
    """A key that sorts labels with the numbers in them by value."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)", label)
    return [(0, float(part), "") if index % 2 else (1, 0.0, part) for index, part in enumerate(parts)]
