"""What is kept of finished runs: their results and studies without pictures, so small that they lie in the repository.

A kept run is a run folder like any other: `report.py runs=` reads it, and tables, intervals and charts are made from it
without its net. So nets that are trained elsewhere or later are added to those that are here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seg.errors import DataError
from seg.report import studies
from seg.report.fields import load, mapping
from seg.report.results import Run
from seg.report.variants import samples_fixed

LEFT_OUT = ("examples", "sampling", "effective_dilation_histogram")  # pictures, and what is drawn beside them
_ITEM = r"(?:-?[\d.eE+-]+|null|\[[^\[\]\n]*\])"  # a number, or a list that is on one line
_LIST = re.compile(rf"\[\s+({_ITEM}(?:,\s+{_ITEM})*)\s+\]")


def keep(sweeps: Mapping[str, Sequence[Run]], folder: Path) -> list[Path]:
    """Write SWEEP/RUN/result.json of every finished run, its studies and its loss, below a folder; their paths."""
    written = []
    for sweep, runs in sweeps.items():
        for run in (run for run in runs if run.result):
            result = mapping(load(run.folder / "result.json"), run.folder / "result.json", "the file")
            found = {"result": {key: value for key, value in result.items() if key not in LEFT_OUT}}
            found |= {f"{study['of']}/{study['study']}": _without_objects(study) for study in read_studies(run)}
            for name, document in found.items():
                written.append(folder / sweep / run.name / f"{name}.json")
                _write_lines(document, written[-1])
            if rows := losses(run):
                written.append(folder / sweep / run.name / "metrics.jsonl")
                written[-1].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return written


def losses(run: Run) -> list[dict[str, Any]]:
    """The mean loss in each tenth of a training, as rows of a metrics.jsonl with the tenth's last step.

    [] where the losses were not recorded, or not in every tenth.
    """
    rows = [row for row in run.training if row.get("kind") == "train" and isinstance(row.get("loss"), float)]
    rows = [row for row in rows if row["step"] > 0]
    tenths: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        tenths.setdefault(math.ceil(10 * row["step"] / rows[-1]["step"]), []).append(row)
    if len(tenths) < 10:
        return []
    means = [(part[-1]["step"], math.fsum(row["loss"] for row in part) / len(part)) for part in tenths.values()]
    return [{"kind": "train", "step": step, "loss": round(mean, 5)} for step, mean in means]


def read_studies(run: Run) -> list[dict[str, Any]]:
    """What scripts/study.py left in folders of a run: the folder's name says on which images."""
    found = []
    for path in sorted(run.folder.glob("*/*.json")):
        if path.stem not in studies.PANELS:
            continue
        document = dict(mapping(load(path), path, "the file"))
        if document.get("schema") != 1:
            raise DataError(f"{path}: schema is {document.get('schema')!r}, expected 1; study the run again")
        found.append({**document, "study": path.stem, "of": path.parent.name})
    return found


def _without_objects(study: Mapping[str, Any]) -> dict[str, Any]:
    """The points of the charts in place of the objects; none of a net whose dilation is the same everywhere."""
    document = {key: value for key, value in study.items() if key != "objects"}
    if "objects" in study and not samples_fixed(study):
        document["points"] = [[round(x, 3), round(y, 4)] for x, y in studies.points(study).tolist()]
    return document


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write a document with its lists of numbers, and of points, on one line each."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    for _ in ("numbers", "lists of numbers"):
        text = _LIST.sub(lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text)
    path.write_text(text + "\n", encoding="utf-8")


def _write_lines(document: Mapping[str, Any], path: Path) -> None:
    """Write a document with a line for each key."""
    text = {json.dumps(key): json.dumps(value, ensure_ascii=False, allow_nan=False) for key, value in document.items()}
    lines = (f"{key}: {value}" for key, value in text.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{" + ",\n ".join(lines) + "}\n", encoding="utf-8")
