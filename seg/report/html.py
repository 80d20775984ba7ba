"""The page: one HTML file that holds all its pictures, styles and drawings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from seg.errors import DataError
from seg.report import curves, panels, paper, pictures, tables, theme, units
from seg.report.figures import Panel, as_svg
from seg.report.headline import headline, lead, notes
from seg.report.results import Run
from seg.report.statistics import RESAMPLES
from seg.report.table import spans
from seg.report.variants import Variant, leader, unique

Drawn = list[tuple[Panel, Markup]]


def render(runs: Sequence[Run], variants: Sequence[Variant], baseline: Variant) -> str:
    """The whole page as text; every name that came from a file is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    photos = pictures.Photos()
    context = {
        **_opening(runs, variants),
        **_tables(runs, variants, baseline),
        **_charts(variants, baseline),
        **_pictures(variants, photos),
        **_provenance(runs),
        "light": theme.LIGHT,
        "dark": theme.DARK,
        "swatches": panels.roles(variants),
        "spans": spans,
        "points_path": units.points_path,
        "resamples": f"{RESAMPLES:,}",
        "photos": photos.uris,
    }
    context["sections"] = _sections(context)
    return environment.get_template("page.html.jinja").render(context)


def accuracy_panels(variants: Sequence[Variant], baseline: Variant) -> list[Panel]:
    """mIoU by seed, differences with their intervals, and the gain of the best net image by image."""
    best = leader(variants)
    found = [panels.seeds(variants), panels.differences(variants, baseline)]
    found += [panels.image_differences(best, baseline)] if best else []
    return [panel for panel in found if panel]


def size_panels(variants: Sequence[Variant]) -> list[Panel]:
    """Accuracy by object size, as IoU and as pixel accuracy."""
    pair = (("iou_by_size", "IoU"), ("accuracy_by_size", "Pixel accuracy"))
    return [panel for table, title in pair if (panel := panels.by_size(variants, table, title))]


def dilation_panels(variants: Sequence[Variant]) -> list[Panel]:
    """Effective dilation by size, a panel for each net that adapts."""
    return [panels.dilation(v, variants) for v in variants if v.adapts and v.layers]


def cost_panels(variants: Sequence[Variant]) -> list[Panel]:
    """mIoU against each cost that was measured."""
    axes = (("flops", 1e-9, "GFLOPs an image"), ("seconds_per_image", 1e3, "ms an image"))
    found = [panels.cost(variants, key, scale, label) for key, scale, label in axes]
    return [panel for panel in found if panel]


def training_panels(variants: Sequence[Variant]) -> list[Panel]:
    """Curves of all runs, and the offsets of the best adaptive net layer by layer."""
    best = leader(variants, adapts=True)
    return curves.training(variants) + (curves.offset_panels(best) if best else [])


def _opening(runs: Sequence[Run], variants: Sequence[Variant]) -> dict[str, Any]:
    results = [run.result for run in runs if run.result]
    data = results[0].data
    seeds = unique(str(run.seed) for run in runs if run.result and run.seed is not None)
    facts = [
        ("Variants", str(len(variants))),
        ("Runs", f"{len(results)} of {len(runs)}"),
        ("Seed" if len(seeds) == 1 else "Seeds", ", ".join(seeds) or "not stated"),
        ("Budget", _joined(result.facts.get("budget") for result in results)),
        ("Device", _joined(result.facts.get("device") for result in results)),
    ]
    return {
        "data": {key: data.get(key) for key in ("name", "split", "images")},
        "headline": headline(variants),
        "lead": lead(variants),
        "notes": notes(runs, variants),
        "facts": [(name, value) for name, value in facts if value],
        "budget": _joined(result.facts.get("budget") for result in results),
        "device": _joined(result.facts.get("device") for result in results) or "a device that the results don't name",
    }


def _tables(runs: Sequence[Run], variants: Sequence[Variant], baseline: Variant) -> dict[str, Any]:
    data = paper.subject(runs)
    dilations = [tables.dilation(v) for v in sorted(variants, key=lambda v: not v.adapts) if v.layers]
    values = [cell.value for table in dilations for _, cells in table.rows for cell in cells if cell.value is not None]
    return {
        "ablation": tables.ablation(variants, baseline, data),
        "by_size": tables.by_size(variants),
        "by_class": tables.by_class(variants),
        "cost": tables.cost(variants),
        "dilations": dilations,
        "without_dilation": tables.without_dilation(variants),
        "heat": max(values, default=1.0) or 1.0,
        "paper_dilation": tables.paper_dilation() if paper.column(data) else None,
        "reference": paper.column(data),
        "uncounted": tables.uncounted([run for run in runs if run.result is None]),
    }


def _charts(variants: Sequence[Variant], baseline: Variant) -> dict[str, Any]:
    spread = [(v.label, panels.distributions(v)) for v in variants if v.adapts]
    return {
        "accuracy_charts": _drawn("accuracy", accuracy_panels(variants, baseline)),
        "size_charts": _drawn("size", size_panels(variants)),
        "dilation_charts": _drawn("dilation", dilation_panels(variants)),
        "cost_charts": _drawn("cost", cost_panels(variants)),
        "training_charts": _drawn("training", training_panels(variants)),
        "distributions": [
            (label, _drawn(f"spread{index}", found)) for index, (label, found) in enumerate(spread) if found
        ],
    }


def _drawn(name: str, found: Sequence[Panel]) -> Drawn:
    return [(panel, Markup(as_svg(panel, f"{name}-{index}"))) for index, panel in enumerate(found)]


def _pictures(variants: Sequence[Variant], photos: pictures.Photos) -> dict[str, Any]:
    best = leader(variants)
    analysed, analysis = _analysis(variants, photos)
    return {
        "leader": best.label if best else "",
        "examples": pictures.side_by_side(variants, photos),
        "extremes": pictures.best_and_worst(best, variants, photos) if best else [],
        "ranked": pictures.ranks_all(best) if best else None,
        "analysed": analysed,
        "analysis": analysis,
        "sampling": units.sampling_rows(variants, photos),
        "class_colours": pictures.class_colours(variants),
    }


def _analysis(variants: Sequence[Variant], photos: pictures.Photos) -> tuple[str, list[pictures.Row]]:
    """The label and the pictures of the best variant of which a run was analysed."""
    for variant in sorted(variants, key=lambda v: -(v.miou.mean or 0.0)):
        for run in variant.runs:
            try:
                rows = units.analysis_rows(run.folder / "analysis", photos)
            except DataError as error:
                print(f"note: without the analysis of {run.name}: {error}", file=sys.stderr)
                continue
            if rows:
                return variant.label, rows
    return "", []


def _provenance(runs: Sequence[Run]) -> dict[str, Any]:
    results = [run.result for run in runs if run.result]
    versions = _joined(", ".join(f"{name} {version}" for name, version in r.versions.items()) for r in results)
    rows = [
        ("Protocol", _joined(result.protocol for result in results)),
        *((word.capitalize(), _joined(r.facts.get(word) for r in results)) for word in ("budget", "device", "backend")),
        ("Commit", _joined(result.facts.get("commit") for result in results)),
        ("Versions", versions),
    ]
    commands = [result.facts["command"] for result in results if "command" in result.facts]
    return {"about": [(name, value or "not stated") for name, value in rows], "commands": commands}


def _joined(values: Any) -> str:
    return "; ".join(unique(value for value in values if value))


def _sections(context: dict[str, Any]) -> list[tuple[str, str]]:
    known = [
        ("result", "Accuracy", True),
        ("sizes", "By object size", True),
        ("dilation", "Effective dilation", context["dilations"]),
        ("cost", "Cost", True),
        ("classes", "By class", True),
        ("images", "Images", context["examples"] or context["extremes"]),
        ("sampling", "Sampling points", context["sampling"]),
        ("units", "Units", context["analysis"]),
        ("training", "Training", context["training_charts"]),
        ("runs", "Runs", True),
    ]
    return [(identifier, name) for identifier, name, there in known if there]
