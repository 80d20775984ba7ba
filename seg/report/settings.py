"""Runs of one label that were made with different settings are no seeds of one net: each gets a label of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from seg.report.results import Result, Run
from seg.report.variants import unique

# what may differ between seeds of one net, and what repeats another key
PASSED_OVER = (
    "seed", "runtime", "download", "data.on_bad_sample", "data.evaluate_batch_size",
    "model", "trunk.conv", "schedule.iterations",
)  # fmt: skip
_CHECKPOINT = re.compile(r"/checkpoints/step_\d+\.pt$")  # every run has one of that name


def tell_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs; to a label whose runs differ in a setting, that setting is added: "deformable, optimizer.lr=0.001"."""
    labels: dict[int, str] = {}
    for label in unique(run.variant for run in runs):
        known = [(index, run.result) for index, run in enumerate(runs) if run.variant == label and run.result]
        settings = _differing([result for _, result in known])
        labels |= {index: ", ".join([label, *said]) for (index, _), said in zip(known, settings, strict=True)}
    return [replace(run, variant=labels.get(index, run.variant)) for index, run in enumerate(runs)]


def _differing(results: Sequence[Result]) -> list[list[str]]:
    """Of each result, KEY=VALUE of the settings in which it is not like all others; of several that vary together the
    first. A key that some results lack, written before there was such a setting, tells nothing."""
    found: dict[tuple[int, ...], list[str]] = {}
    for key in results[0].config if results else ():
        if all(key in result.config and _counts(key, result) for result in results):
            said = [_said(key, result.config[key]) for result in results]
            found.setdefault(tuple(map(said.index, said)), said)
    measured = _measured(results)
    found.setdefault(tuple(map(measured.index, measured)), measured)
    found.pop((0,) * len(results), None)
    return [[said[index] for said in found.values() if said[index]] for index in range(len(results))]


def _measured(results: Sequence[Result]) -> list[str]:
    """Of each result, what its protocol has and not all others have."""
    return [
        ", ".join(part for part in one.conditions if not all(part in other.conditions for other in results))
        for one in results
    ]


def _counts(key: str, result: Result) -> bool:
    """Whether a setting makes another net, or another measurement, of this one."""
    if key == "optimizer.offset_lr" and str(result.config.get("conv._target_")).endswith(".Dilated"):
        return False  # it has no offsets to learn
    return not any(key == name or key.startswith(f"{name}.") for name in PASSED_OVER)


def _said(key: str, value: Any) -> str:
    """A setting as a command would have it; of a folder or a module its last name, of a checkpoint its run's too."""
    if key.endswith("._target_"):
        return f"{key.removesuffix('._target_')}={str(value).rpartition('.')[2]}"
    if not isinstance(value, str):
        return f"{key}={value}"
    parts = 3 if _CHECKPOINT.search(value) else 1
    return f"{key}={'/'.join(value.split('/')[-parts:])}"
