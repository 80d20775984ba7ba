"""Finished sweeps and what was studied of their runs, as one JSON document, and its charts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from seg.report import panels, studies
from seg.report.figures import Panel, save_png
from seg.report.keeping import losses, read_studies
from seg.report.reading import finished, read_runs
from seg.report.results import Result, Run
from seg.report.variants import Variant, find_baseline, gather, leader, natural, samples_fixed
from seg.report.write import summary

FACTS = ("commit", "date", "device", "backend", "budget", "command")

Sweeps = Mapping[str, Sequence[Variant]]


def read_sweeps(folder: Path | str, name: str) -> dict[str, list[Run]]:
    """The runs of every sweep in a folder that is called NAME or NAME_something and has a finished run; {} for none.

    raises: DataError where there are such sweeps, and no run in them is finished
    """
    folders = sorted(path for path in Path(folder).glob(f"{name}*") if path.is_dir())
    found = {path.name: read_runs(path) for path in folders if re.fullmatch(rf"{re.escape(name)}(_\w+)?", path.name)}
    if found:
        finished([run for runs in found.values() for run in runs])
    return {key: runs for key, runs in found.items() if any(run.result for run in runs)}


def evidence(sweeps: Mapping[str, Sequence[Run]], name: str, beside: str | None = None) -> dict[str, Any]:
    """All that is kept of the sweeps: the report's summary and each run's facts, the choice of the dilation, studies.

    The net of fixed sampling that the others are compared with is the best on the sweep NAME_val, where there is one.
    A sweep NAME_something of the same data and budget, such as one of controls, is compared with the net of NAME that
    is labelled `beside`, or else with the best adaptive one.
    """
    chosen = leader(gather(sweeps[f"{name}_val"]), adapts=False) if f"{name}_val" in sweeps else None
    trained = gather(sweeps.get(name, []))
    best = next((net for net in trained if net.label == beside), None) or leader(trained, adapts=True)
    baseline = chosen.label if chosen else None
    return {
        "schema": 1,
        "name": name,
        "chosen_on_val": baseline,
        "sweeps": {key: _sweep(runs, baseline, None if key == name else best) for key, runs in sweeps.items()},
        "studies": [
            {"sweep": key, **study} for key, runs in sweeps.items() for run in runs for study in read_studies(run)
        ],
    }


def draw(
    document: Mapping[str, Any], sweeps: Mapping[str, Sequence[Run]], wanted: Collection[str], folder: Path
) -> list[Path]:
    """Write the wanted charts that the document has something to show in, each light and dark; returns the light ones.

    wanted: names, as creatures_overview
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = document["name"]
    groups = {"overview": _overview(gather(sweeps[name]))} if name in sweeps else {}
    groups |= {key.removeprefix(f"{name}_"): _dilation(gather(runs)) for key, runs in sweeps.items() if key != name}
    groups |= _study_charts(document["studies"])
    written = []
    for key, found in groups.items():
        if found and f"{name}_{key}" in wanted:
            written.append(folder / f"{name}_{key}.png")
            save_png(found, written[-1])
    return written


def _sweep(runs: Sequence[Run], baseline: str | None, best: Variant | None) -> dict[str, Any]:
    """The report's summary of a sweep, beside `best` where that is another net under the same conditions."""
    compared = [*best.runs, *runs] if best and _lacks(runs, best) else runs
    variants = gather(compared)
    if best and compared is not runs:
        baseline = best.label
    known = {variant.label for variant in variants}
    document = summary(compared, variants, find_baseline(variants, baseline if baseline in known else None))
    document["protocol"] = next(run.result.protocol for run in runs if run.result)
    document["runs"] = [_run(run) for run in runs]
    return document


def _lacks(runs: Sequence[Run], best: Variant) -> bool:
    """Whether none of the runs is of that net, but all finished ones have its budget, test images and protocol."""
    if best.label in {run.variant for run in runs}:
        return False
    return len({_conditions(result) for result in (*best.results, *(run.result for run in runs if run.result))}) == 1


def _conditions(result: Result) -> tuple[object, ...]:
    """What has to be the same for two results to be compared; the precision that a processor is good at is not."""
    return result.facts.get("budget"), result.images.names if result.images else None, result.conditions


def _run(run: Run) -> dict[str, Any]:
    facts: dict[str, Any] = {key: run.result.facts.get(key) for key in FACTS} if run.result else {}
    if rows := losses(run):
        facts["loss_by_tenth"] = [row["loss"] for row in rows]
    return {
        "run": run.name,
        "variant": run.variant,
        "seed": run.seed,
        "state": run.state,
        "error": run.error,
        "miou": run.result.miou if run.result else None,
        **facts,
    }


def _overview(variants: Sequence[Variant]) -> list[Panel]:
    best = leader(variants, adapts=True)
    found = [panels.seeds(variants), panels.by_size(variants, "accuracy_by_size", "Pixel accuracy")]
    found += [panels.dilation(best, variants)] if best and best.layers else []
    return [panel for panel in found if panel]


def _dilation(variants: Sequence[Variant]) -> list[Panel]:
    best = leader(variants, adapts=True)
    return [panels.seeds(variants), *([panels.dilation(best, variants)] if best and best.layers else [])]


def _study_charts(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Panel]]:
    """A chart for each kind of study, of the first net that adapts; what is by length for all nets of one set."""
    charts: dict[str, list[Panel]] = {}
    for study in found:
        if "bins" not in study and study["study"] not in charts and not samples_fixed(study):
            charts[study["study"]] = studies.PANELS[study["study"]](study)
    for kind, of in dict.fromkeys((study["study"], study["of"]) for study in found if "bins" in study):
        same = [study for study in found if (study["study"], study["of"]) == (kind, of)]
        nets = {study["variant"]: study for study in reversed(same)}
        first = [
            nets[label] for label in sorted(nets, key=lambda label: (not samples_fixed(nets[label]), natural(label)))
        ]
        adapting = [study for study in first if not samples_fixed(study)]
        lines = studies.by_length(first, "accuracy" if kind == "objects" else kind)
        charts[f"{kind}_{of}"] = [*map(studies.scatter, adapting[:1]), lines]
    return charts
