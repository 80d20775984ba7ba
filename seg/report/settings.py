"""Runs of one label that were made with different settings are no seeds of one net: each gets a label of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from seg.report.results import Result, Run
from seg.report.variants import unique

# what may differ between seeds of one net, and what repeats another key, or the protocol
PASSED_OVER = (
    "seed", "runtime", "download", "data.on_bad_sample", "data.evaluate_batch_size",
    "model", "trunk.conv", "schedule.iterations", "inference",
)  # fmt: skip
_CHECKPOINT = re.compile(r"/checkpoints/step_\d+\.pt$")  # every run has one of that name


def tell_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs; to a label whose runs differ in a setting, that setting is added: "deformable, optimizer.lr=0.001"."""
    labels: dict[int, str] = {}
    for label in unique(run.variant for run in runs):
        known = [(i, run) for i, run in enumerate(runs) if run.variant == label and (run.result or run.config)]
        settings = _differing([run for _, run in known])
        if len(known) > 1 and not any(run.config or run.seed is not None for _, run in known):
            settings = [[run.name] for _, run in known]  # labels of anybody's nets, which tell nothing more
        labels |= {index: ", ".join([label, *said]) for (index, _), said in zip(known, settings, strict=True)}
    return [replace(run, variant=labels.get(index, run.variant)) for index, run in enumerate(runs)]


def _differing(runs: Sequence[Run]) -> list[list[str]]:
    """Of each run, KEY=VALUE of the settings in which it is not like all others; of several that vary together the
    first. A run that lacks a key, written before there was such a setting, tells nothing of it."""
    found: dict[tuple[int, ...], list[str]] = {}
    for key in unique(key for run in runs for key in run.config):
        if all(_counts(key, run) for run in runs):
            of_each = [said(key, run.config[key]) if key in run.config else "" for run in runs]
            if len({*of_each} - {""}) > 1:
                found.setdefault(tuple(map(of_each.index, of_each)), of_each)
    measured = _measured([run.result for run in runs])
    found.setdefault(tuple(map(measured.index, measured)), measured)
    found.pop((0,) * len(runs), None)
    return [[values[index] for values in found.values() if values[index]] for index in range(len(runs))]


def some_lack(results: Sequence[Result]) -> list[str]:
    """KEY=VALUE of the settings that some results have and others lack, less those that are null."""
    keys = unique(key for result in results for key in result.config)
    lacked = [key for key in keys if not passed_over(key) and not all(key in r.config for r in results if r.config)]
    pairs = ((key, next(r.config[key] for r in results if key in r.config)) for key in lacked)
    return [said(key, value) for key, value in pairs if value is not None]


def _measured(results: Sequence[Result | None]) -> list[str]:
    """Of each result, what its protocol has and not all others have; nothing of a run without one."""
    conditions = [result.conditions for result in results if result]
    return [
        ", ".join(part for part in one.conditions if not all(part in other for other in conditions)) if one else ""
        for one in results
    ]


def _counts(key: str, run: Run) -> bool:
    """Whether a setting makes another net, or another measurement, of this one."""
    if key == "optimizer.offset_lr" and str(run.config.get("conv._target_")).endswith(".Dilated"):
        return False  # it has no offsets to learn
    return not passed_over(key)


def passed_over(key: str) -> bool:
    """Whether a setting may differ between seeds of one net, or repeats another."""
    return any(key == name or key.startswith(f"{name}.") for name in PASSED_OVER)


def said(key: str, value: Any) -> str:
    """A setting as a command would have it; of a folder or a module its last name, of a checkpoint its run's too."""
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
    if not isinstance(value, str):
        return f"{key}={value}"
    parts = 3 if _CHECKPOINT.search(value) else 1
    return f"{key}={'/'.join(value.split('/')[-parts:])}"
