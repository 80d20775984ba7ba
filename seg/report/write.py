"""A report on disk: summary files, figures and the page."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seg.errors import ConfigError
from seg.report import html, panels, paper, tables
from seg.report.figures import Panel, save_png
from seg.report.headline import headline, lead, notes
from seg.report.mosaics import save_images, save_sampling
from seg.report.reading import finished, read_runs
from seg.report.results import SIZES, Run
from seg.report.statistics import Mean
from seg.report.table import as_markdown, escape
from seg.report.variants import Variant, difference, find_baseline, gather, leader


def write_report(
    runs_folder: Path | str,
    output: Path | str | None = None,
    baseline: str | None = None,
    exclude: Sequence[str] = (),
) -> Path:
    """Write index.html, summary.json, summary.csv, summary.md and figures/; the path of the page.

    output:   folder to write to, "report" in the runs' folder if not given
    baseline: label of the variant to compare with, the first of fixed sampling if not given
    exclude:  patterns of the runs to leave out, as of read_runs
    raises:   ConfigError for a wrong folder, baseline or pattern, DataError if no run has a result
    """
    runs = read_runs(runs_folder, exclude)
    finished(runs)
    variants = gather(runs)
    compared = find_baseline(variants, baseline)
    folder = Path(runs_folder) / "report" if output is None else Path(output)
    page = html.render(runs, variants, compared)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        (folder / "index.html").write_text(page, encoding="utf-8")
        _write_json(folder / "summary.json", summary(runs, variants, compared))
        _write_csv(folder / "summary.csv", runs)
        (folder / "summary.md").write_text(markdown(runs, variants, compared), encoding="utf-8")
        _save_figures(folder / "figures", variants, compared)
    except OSError as error:
        raise ConfigError(f"output={folder}: can't be written ({error.strerror}); give another folder") from None
    return folder / "index.html"


def summary(runs: Sequence[Run], variants: Sequence[Variant], baseline: Variant) -> dict[str, Any]:
    """All numbers of the page as one JSON document; what is missing is null."""
    data = next(run.result.data for run in runs if run.result)
    return {
        "schema": 1,
        "headline": headline(variants),
        "notes": notes(runs, variants),
        "data": dict(data),
        "baseline": baseline.label,
        "variants": [_variant(variant, baseline) for variant in variants],
        "runs": [
            {"run": r.name, "variant": r.variant, "seed": r.seed, "state": r.state, "error": r.error} for r in runs
        ],
    }


def markdown(runs: Sequence[Run], variants: Sequence[Variant], baseline: Variant) -> str:
    """The headline and the tables, for a README or a note."""
    parts = [f"**{escape(headline(variants))}** {escape(' '.join(lead(variants)))}"]
    parts += [f"> {escape(note)}" for note in notes(runs, variants)]
    parts += [as_markdown(tables.comparison(variants, baseline)), *map(escape, tables.without_dilation(variants))]
    for table in (
        tables.ablation(variants, baseline, paper.subject(runs)),
        tables.cost(variants),
        tables.by_class(variants),
    ):
        parts += [f"### {escape(table.title)}", as_markdown(table)]
    for variant in variants:
        if variant.layers:
            table = tables.dilation(variant)
            parts += [f"### Effective dilation: {escape(table.title)}", as_markdown(table)]
    left_out = [run for run in runs if run.result is None]
    if left_out:
        parts += ["### Runs without a number", as_markdown(tables.uncounted(left_out))]
    return "\n\n".join(parts) + "\n"


def _variant(variant: Variant, baseline: Variant) -> dict[str, Any]:
    found = difference(variant, baseline)
    names = {key: dict.fromkeys(k for r in variant.results for k in getattr(r, key)) for key in _TABLES}
    return {
        "variant": variant.label,
        "adapts": variant.adapts,
        "miou": _mean(variant.miou),
        "difference": None if found is None else {"mean": found.mean, "low": found.low, "high": found.high},
        "pixel_accuracy": _mean(variant.over_seeds(lambda result: result.pixel_accuracy)),
        "train_seconds": _mean(variant.over_seeds(lambda result: result.train_seconds)),
        **{key: {name: _mean(variant.entry(key, name)) for name in names[key]} for key in _TABLES},
        "effective_dilation": [
            {"layer": layer, "size": size, "mean": cell.mean, "std": cell.std, "count": cell.n}
            for layer in variant.layers
            for size in SIZES
            for cell in [variant.dilation(size, layer)]
        ],
    }


_RUN = ("variant", "seed", "state", "error")
_TABLES = ("iou", "iou_by_size", "accuracy_by_size", "cost")


def _mean(values: Mean) -> dict[str, float | int | None]:
    return {"mean": values.mean, "std": values.std, "n": values.n}


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _write_csv(path: Path, runs: Sequence[Run]) -> None:
    """One line for each run, whether it finished or not; a number that is missing is an empty field."""
    rows = [_csv_row(run) for run in runs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _csv_row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.name, "variant": run.variant, "seed": run.seed, "state": run.state}
    row["error"] = run.error
    if run.result:
        row |= {"miou": run.result.miou, "pixel_accuracy": run.result.pixel_accuracy}
        row |= {f"{key}: {name}": value for key in _TABLES for name, value in getattr(run.result, key).items()}
        row["train_seconds"] = run.result.train_seconds
    return row


def _save_figures(folder: Path, variants: Sequence[Variant], baseline: Variant) -> None:
    """Each figure as PNG, light and dark, and an overview of the three that tell the most."""
    accuracy, sizes = html.accuracy_panels(variants, baseline), html.size_panels(variants)
    dilation = html.dilation_panels(variants)
    groups: dict[str, Sequence[Panel]] = {
        "overview": [*accuracy[:1], *sizes[-1:], *_leaders_dilation(variants)],
        "accuracy": accuracy,
        "sizes": sizes,
        "dilation": dilation,
        "cost": html.cost_panels(variants),
        "training": html.training_panels(variants),
    }
    best = leader(variants, adapts=True)
    groups["distributions"] = panels.distributions(best) if best else []
    for name, found in groups.items():
        if found:
            save_png(found, folder / f"{name}.png")
    save_images(variants, folder / "images.png")
    save_sampling(variants, folder / "sampling.png")


def _leaders_dilation(variants: Sequence[Variant]) -> list[Panel]:
    best = leader(variants, adapts=True)
    return [panels.dilation(best, variants)] if best and best.layers else []
