"""What the numbers say, in words, and what a reader should know before trusting them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from seg.alarms import bad_samples, exploded
from seg.counts import counted
from seg.report.results import SIZES, Run
from seg.report.settings import passed_over, said, some_lack
from seg.report.statistics import Difference
from seg.report.variants import Variant, difference, leader, unique

ENOUGH = 5  # seeds; intervals of fewer are too short where seeds, not images, make the difference


def headline(variants: Sequence[Variant]) -> str:
    """One sentence: the best adaptive net against the best of fixed sampling, whichever way it went."""
    ours, theirs = leader(variants, adapts=True), leader(variants, adapts=False)
    if ours is None or theirs is None:
        best = ours or theirs
        return "No variant has a mIoU." if best is None else f"{_first(best.label)} reaches {_value(best)} mIoU."
    found = difference(ours, theirs)
    assert found is not None
    if abs(found.mean) < 0.0005:
        return f"{_first(ours.label)} and {theirs.label} are level at {_value(ours)} mIoU."
    other = f"the best {_kind(variants)} net"
    if found.mean < 0:
        return f"{_first(ours.label)} stays {-found.mean:.3f} mIoU below {theirs.label}, {other}."
    return f"{_first(ours.label)} reaches {ours.miou.mean:.3f} mIoU, {found.mean:.3f} above {other}."


def lead(variants: Sequence[Variant]) -> list[str]:
    """The sentences below the headline: with which certainty, and what the filters do."""
    ours, theirs = leader(variants, adapts=True), leader(variants, adapts=False)
    sentences = []
    if ours and theirs:
        sentences.append(f"It has {_value(ours)}; {theirs.label}, the best {_kind(variants)} net, {_value(theirs)}.")
        sentences += _chosen(variants)
        sentences += _certainty(ours, theirs, difference(ours, theirs))
    if ours:
        sentences += _growth(ours)
    return sentences


def _chosen(variants: Sequence[Variant]) -> list[str]:
    """The best of several is partly the luckiest."""
    known = [variant for variant in variants if variant.miou.n]
    ours = sum(variant.adapts for variant in known)
    counts = (ours, len(known) - ours)
    if max(counts) == 1:
        return []
    return [f"The two were chosen by these numbers, of {counts[0]} adaptive and {counts[1]} fixed."]


def notes(runs: Sequence[Run], variants: Sequence[Variant]) -> list[str]:
    """What differs between the runs though a comparison needs it equal, and what is missing."""
    results = [run.result for run in runs if run.result]
    found = []
    for word, values in (
        ("evaluation protocol", [result.protocol for result in results]),
        ("training budget", [result.facts.get("budget", "") for result in results]),
        ("commit", [result.facts.get("commit", "") for result in results]),
        ("device", [result.facts.get("device", "") for result in results]),
    ):
        different = [value or "not stated" for value in unique(values)]
        if len(different) > 1:
            found.append(f"The runs differ in their {word}: {'; '.join(different)}.")
    counts = {v.label: v.miou.n for v in variants if v.results}
    if len(set(counts.values())) > 1:
        found.append(
            "The variants differ in their seeds: " + ", ".join(f"{n} of {label}" for label, n in counts.items()) + "."
        )
    for variant in variants:
        if lacked := some_lack(variant.results):
            found.append(f"Some runs of {variant.label} say {', '.join(lacked[:6])}, and others don't say.")
        seeds = [run.seed for run in variant.runs if run.result and run.seed is not None]
        if repeated := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            which = ", ".join(map(str, repeated))
            found.append(f"{variant.label} has several runs of seed {which}: its ± is not that of as many seeds.")
    if counts and max(counts.values()) == 1:
        found.append("One seed each: a difference between single seeds includes the luck of the draw.")
    left_out = [run for run in runs if run.result is None]
    if left_out:
        found.append(f"No number that counts: {len(left_out)} of {counted(len(runs), 'run')}, listed under Runs.")
    found += [*_other_settings(variants), *_other_weights(variants)]
    for run in runs:
        alarms = list(exploded(run.training).values())
        more = f" (and of {counted(len(alarms) - 1, 'more layer')})" if len(alarms) > 1 else ""
        found += [f"{run.variant}, seed {run.seed}: {alarm}{more}." for alarm in alarms[:1]]
        if bad := bad_samples(run.training):
            first = min(bad) + (f" (and {len(bad) - 1} more)" if len(bad) > 1 else "")
            found.append(f"{run.variant}, seed {run.seed}: training passed over bad samples: {first}.")
    return found


def _other_settings(variants: Sequence[Variant]) -> list[str]:
    """What nets differ in beside their convolutions, or their labels would say it."""
    configs = {v.label: v.results[0].config for v in variants if v.results and v.results[0].config}
    keys = [key for key in unique(key for config in configs.values() for key in config) if not _is_the_variants(key)]
    told = []
    for key in keys:
        labels = [label for label, config in configs.items() if key in config and f", {key}=" not in label]
        values = unique(said(key, configs[label][key]) for label in labels)
        told += [" or ".join(values)] if len(values) > 1 else []
    if not told:
        return []
    more = f" and {len(told) - 6} more" if len(told) > 6 else ""
    return [f"The variants differ in more than their convolutions: {'; '.join(told[:6])}{more}."]


def _is_the_variants(key: str) -> bool:
    return passed_over(key) or key.startswith("conv.") or key in ("trunk.replaced", "label", "optimizer.offset_lr")


def _other_weights(variants: Sequence[Variant]) -> list[str]:
    """Files of one name in several folders are taken for one file, which may have moved, and may be another."""
    paths = unique(str(r.config["weights"]) for v in variants for r in v.results if r.config.get("weights"))
    names = [path.rpartition("/")[2] for path in paths]
    return [
        f"Weights called {name} come from {', '.join(p for p, n in zip(paths, names, strict=True) if n == name)}; they "
        "are taken for one file."
        for name in unique(names)
        if names.count(name) > 1
    ]


def _certainty(ours: Variant, theirs: Variant, found: Difference | None) -> list[str]:
    sentences = []
    if found and found.low is not None and found.high is not None:
        interval = f"{found.low:+.3f} to {found.high:+.3f}".replace("-", "−")
        said = f"the 95 % interval of the difference is {interval}"
        if (least := min(ours.miou.n, theirs.miou.n)) > 1:
            verdict = "includes zero" if found.low <= 0 <= found.high else "excludes zero"
            if verdict == "excludes zero" and least < ENOUGH:
                verdict += f", though {least} seeds tell little of how far seeds lie apart"
            sentences.append(f"Over the choice of images and seeds, {said}: it {verdict}.")
        else:
            sentences.append(f"Over the choice of images, {said}; of other seeds it says nothing.")
    if min(ours.miou.n, theirs.miou.n) > 1:
        seeds = [[r.miou for r in v.results if r.miou is not None] for v in (ours, theirs)]
        if min(seeds[0]) > max(seeds[1]):
            sentences.append(
                f"Every seed of {ours.label} (from {min(seeds[0]):.3f}) is above every seed of {theirs.label} "
                f"(up to {max(seeds[1]):.3f})."
            )
        sentences += _seed_by_seed(ours, theirs)
    return sentences


def _seed_by_seed(ours: Variant, theirs: Variant) -> list[str]:
    """Runs of one seed see the same images in the same order, so that their difference has less of the seed's luck."""
    by_seed = [
        {r.seed: r.result.miou for r in v.runs if r.result and r.result.miou is not None} for v in (ours, theirs)
    ]
    common = [seed for seed in by_seed[0] if seed is not None and seed in by_seed[1]]
    if len(common) < 2:
        return []
    differences = [by_seed[0][seed] - by_seed[1][seed] for seed in common]
    low, high = (f"{end(differences):+.3f}".replace("-", "−") for end in (min, max))
    above = sum(difference > 0 for difference in differences)
    return [f"Seed by seed it is above in {above} of {len(common)} ({low} to {high})."]


def _growth(variant: Variant) -> list[str]:
    """Of the layers that have filters on objects of all three sizes."""
    means = [[variant.dilation(size, layer).mean for size in SIZES[:3]] for layer in variant.layers]
    known = np.array([row for row in means if None not in row], dtype=np.float64)
    if not len(known):
        return []
    growing = (np.diff(known) > 0).all(1).sum()
    shown = " / ".join(f"{value:.2f}" for value in known.mean(0))
    return [
        f"The effective dilation of {variant.label} grows from small to medium to large objects in {growing} of "
        f"{len(known)} layers; on average {shown} cells."
    ]


def _kind(variants: Sequence[Variant]) -> str:
    return "dilated" if all(v.label.startswith("dilated") for v in variants if not v.adapts) else "fixed"


def _value(variant: Variant) -> str:
    mean = variant.miou
    return f"{mean.mean:.3f}" + ("" if mean.std is None else f" ± {mean.std:.3f}")


def _first(text: str) -> str:
    return text[:1].upper() + text[1:]
