"""What the records of a run show to be wrong, said while it runs and by its report: offsets that explode, samples that
were passed over, classes that its mIoU is not over."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

# our choice: half of a map of 512 px at stride 16, and what trainings that were lost had (mean > 100, largest 10^3)
MEAN, LARGEST = 16.0, 100.0


def exploded(training: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """For each layer whose offsets grew out of bounds a sentence, with the first step at which they did.

    training: rows of metrics.jsonl; out of bounds is a mean |offset| above 16 cells, a largest one above 100, or one
              that is not finite
    """
    found: dict[str, str] = {}
    for row in training:
        layers = row.get("offset")
        for name, values in layers.items() if isinstance(layers, dict) else ():
            if name not in found and isinstance(values, dict) and _beyond(values):
                numbers = f"mean {_text(values.get('mean'))}, largest {_text(values.get('max'))} cells"
                found[name] = f"the offsets of {name} explode: {numbers} at step {row.get('step')}"
    return found


def bad_samples(training: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was wrong with the samples that were passed over, each once; training: rows of metrics.jsonl."""
    return list(dict.fromkeys(str(row.get("problem")) for row in training if row.get("kind") == "bad_sample"))


def absent_classes(iou: Mapping[str, float | None]) -> str | None:
    """What to say beside an mIoU that some classes are not in; None where all are."""
    absent = [name for name, value in iou.items() if value is None]
    if not absent:
        return None
    counted = len(iou) - len(absent)
    alone = " (of one class alone it says nothing; look at the data with check_data.py)" if counted == 1 else ""
    return f"mIoU is over {counted} of {len(iou)} classes; neither labelled nor predicted: {', '.join(absent)}{alone}"


def _beyond(values: Mapping[str, Any]) -> bool:
    limits = {"mean": MEAN, "max": LARGEST}
    known = [(values.get(key), limit) for key, limit in limits.items()]
    return any(isinstance(v, int | float) and not (math.isfinite(v) and v <= limit) for v, limit in known)


def _text(value: Any) -> str:
    if not isinstance(value, int | float):
        return "unknown"
    return f"{value:.1f}" if value < 1e6 else f"{value:.3g}"
