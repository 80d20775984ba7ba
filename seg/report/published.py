"""Tables of a Markdown page, made from the JSON files of benchmarks/results, so that no number is copied by hand.

A table stands between two comments, and is written anew from what the first one says:

    <!-- table: creatures | comparison | creatures_control -->
    <!-- end -->

is the comparison of the sweep creatures_control in creatures.json. Where that file, sweep, study or chart is missing,
or no run of the net is finished, the page says that it was not measured.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seg.errors import DataError
from seg.report.fields import load, mapping
from seg.report.results import SIZES
from seg.report.studies import with_interval
from seg.report.table import Cell, Table, as_markdown, best_of, mark_best
from seg.report.variants import is_fixed, natural, samples_fixed, unique

MARKED = re.compile(r"(<!-- table: (.*?) -->\n).*?(<!-- end -->)", re.DOTALL)
MISSING = "–"
NOTHING = "Not measured."

Document = Mapping[str, Any]


class _Absent(Exception):
    """There is no such result yet."""


def fill(page: str, folder: Path, charts: str = "results") -> str:
    """The page with every table made anew from the JSON files in a folder; raises DataError for one that can't be.

    charts: the folder of the charts, as seen from the page
    """

    documents = _documents(folder)

    def table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{_made(found[2], documents, charts) or NOTHING}\n\n{found[3]}"

    return MARKED.sub(table, page)


def absent(page: str, folder: Path) -> list[str]:
    """The tables of a page that there are no results for, as their comments call them."""
    documents = _documents(folder)
    return [found[2] for found in MARKED.finditer(page) if _made(found[2], documents) is None]


def charts(page: str) -> set[str]:
    """The names of the charts that a page shows, drawn or not."""
    found = [_words(match[2]) for match in MARKED.finditer(page)]
    return {name for _, kind, arguments in found if kind == "chart" for name in arguments[:1]}


def _words(words: str) -> tuple[str, str, list[str]]:
    """The file's name, the kind of table and its arguments; raises DataError for a kind that there is none of."""
    name, *rest = (word.strip() for word in words.split("|"))
    if not rest or rest[0] not in TABLES:
        raise DataError(f"table: {words}: there are {', '.join(TABLES)}")
    return name, rest[0], rest[1:]


def _documents(folder: Path) -> Callable[[str], Document | None]:
    """NAME.json of a folder by its name, None where it is missing; each is read once."""

    @functools.cache
    def document(name: str) -> Document | None:
        path = folder / f"{name}.json"
        return mapping(load(path), path, "the file") if path.exists() else None

    return document


def _made(words: str, documents: Callable[[str], Document | None], charts: str = "") -> str | None:
    name, kind, arguments = _words(words)
    document = documents(name)
    if document is None:
        return None
    try:
        return TABLES[kind](document, *arguments, **({"folder": charts} if kind == "chart" else {}))
    except _Absent:
        return None
    except DataError as error:
        raise DataError(f"table: {words}: {error}") from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(f"table: {words}: can't be made of {name}.json ({error!r})") from error


def chart(document: Document, name: str, says: str, *, folder: str) -> str:
    """The chart of that name in a folder, light or dark as the reader's page is."""
    if name not in document["charts"]:
        raise _Absent
    path = name if folder == "." else f"{folder}/{name}"
    dark = f'<source media="(prefers-color-scheme: dark)" srcset="{path}-dark.png">'
    return f'<picture>\n  {dark}\n  <img src="{path}.png" alt="{says}">\n</picture>'


def comparison(document: Document, sweep: str) -> str:
    """mIoU over seeds, the difference to the baseline with its interval, accuracy by size, and the parameters."""
    found = _sweep(document, sweep)
    columns = [("", "seeds"), ("", "mIoU"), ("", f"vs {found['baseline']}"), ("", "95 % interval")]
    columns += [("accuracy", size) for size in SIZES] + [("", "parameters")]
    rows = []
    for variant in _counted(found):
        sizes = [_mean(variant["accuracy_by_size"].get(size), spread=False) for size in SIZES]
        cells = [Cell(str(variant["miou"]["n"])), _mean(variant["miou"]), *_difference(variant["difference"]), *sizes]
        cells.append(
            Cell(f"{variant['cost']['parameters']['mean']:,.0f}" if "parameters" in variant["cost"] else MISSING)
        )
        rows.append((variant["variant"], tuple(cells)))
    return as_markdown(mark_best(Table(sweep, tuple(columns), tuple(rows)), [1, 4, 5, 6, 7]))


def iou(document: Document, sweep: str) -> str:
    """IoU of every class over seeds: a row for each class, a column for each net."""
    nets = _counted(_sweep(document, sweep))
    kinds = unique(kind for net in nets for kind in net["iou"])
    rows = [(kind, best_of([_mean(net["iou"].get(kind)) for net in nets])) for kind in kinds]
    return as_markdown(Table(sweep, tuple(("", net["variant"]) for net in nets), tuple(rows), corner="class"))


def iou_by_size(document: Document, sweep: str) -> str:
    """Mean IoU of the classes over the pixels of small, medium and large objects, and of the background."""
    nets = _counted(_sweep(document, sweep))
    rows = [(net["variant"], tuple(_mean(net["iou_by_size"].get(size)) for size in SIZES)) for net in nets]
    found = Table(sweep, tuple(("IoU", size) for size in SIZES), tuple(rows))
    return as_markdown(mark_best(found, range(len(SIZES))))


def budgets(document: Document, *sweeps: str) -> str:
    """mIoU of the nets that were trained with more than one budget, a row for each of the sweeps."""
    found = []
    for sweep in (document["sweeps"][name] for name in sweeps if name in document["sweeps"]):
        budget = _all(run["budget"] for run in sweep["runs"] if run["state"] == "done")
        found.append((budget, {net["variant"]: _mean(net["miou"]) for net in _counted(sweep)}))
    counts = Counter(label for _, nets in found for label in nets)
    labels = [label for label, count in counts.items() if count > 1]
    if not labels:
        raise _Absent
    rows = [(budget, tuple(nets.get(label, Cell(MISSING)) for label in labels)) for budget, nets in found]
    return as_markdown(Table("budgets", tuple(("mIoU", label) for label in labels), tuple(rows), corner="budget"))


def losses(document: Document, sweep: str) -> str:
    """The mean training loss in each tenth of the steps, over seeds: has it flattened?"""
    found: dict[str, list[list[float]]] = {}
    for run in _sweep(document, sweep)["runs"]:
        if "loss_by_tenth" in run:
            found.setdefault(run["variant"], []).append(run["loss_by_tenth"])
    if not found:
        raise _Absent
    means = {label: [sum(tenth) / len(tenth) for tenth in zip(*runs, strict=True)] for label, runs in found.items()}
    labels = sorted(means, key=lambda label: (not is_fixed(label), natural(label)))
    rows = [(label, tuple(Cell(f"{mean:.3f}") for mean in means[label])) for label in labels]
    columns = [("", f"to {10 * tenth} %") for tenth in range(1, 11)]
    return as_markdown(Table("losses", tuple(columns), tuple(rows), corner="loss in a tenth of the steps"))


def dilation(document: Document, sweep: str, variant: str) -> str:
    """Effective dilation of a variant: a row for each layer, a column for each size, mean ± standard deviation."""
    nets = {net["variant"]: net for net in _sweep(document, sweep)["variants"]}
    if variant not in nets:
        raise DataError(f"{sweep} has no net {variant}; it has {'; '.join(nets)}")
    cells = {(row["layer"], row["size"]): row for row in nets[variant]["effective_dilation"]}
    if not cells:
        raise _Absent
    rows = []
    for layer in dict.fromkeys(layer for layer, _ in cells):
        means = [cells[layer, size] for size in SIZES]
        texts = [MISSING if one["mean"] is None else f"{one['mean']:.2f} ± {one['std']:.2f}" for one in means]
        rows.append((layer, tuple(map(Cell, texts))))
    return as_markdown(Table(variant, tuple(("", size) for size in SIZES), tuple(rows), corner="layer"))


def correlations(document: Document, of: str) -> str:
    """Rank correlation of effective dilation with length or size, with its interval, for each run studied on `of`."""
    studies = [study for study in _studies(document, "objects", of) if study["correlation"]["all layers"]["rho"]]
    if not studies:
        raise _Absent
    layers = unique(layer for study in studies for layer in study["correlation"])
    rows = []
    for study in studies:
        cells = [Cell(str(study["correlation"]["all layers"]["objects"]))]
        cells += [Cell(_interval(study["correlation"].get(layer), "rho")) for layer in layers]
        rows.append((f"{study['variant']}, seed {study['seed']}", tuple(cells)))
    columns = [("", "objects"), *(("", layer) for layer in layers)]
    return as_markdown(Table(of, tuple(columns), tuple(rows), corner="net"))


def lengths(document: Document, of: str) -> str:
    """Mean accuracy of the objects in bins of length or size, with its interval over images, for each run."""
    studies = _studies(document, "objects", of)
    rows = []
    for study in studies:
        cells = [Cell(_interval(one, "accuracy"), one["accuracy"]) for one in study["bins"]]
        rows.append((f"{study['variant']}, seed {study['seed']}", tuple(cells)))
    columns = [("", name) for name in _bins(studies)]
    return as_markdown(Table(of, tuple(columns), tuple(rows), corner=f"{studies[0]['by']} (objects)"))


def reach(document: Document, of: str) -> str:
    """The receptive field without offsets, mean reach in bins of length or size, and its rank correlation with it."""
    studies = _studies(document, "reach", of)
    rows = []
    for study in studies:
        cells = [str(study["receptive_field"])]
        cells += [with_interval(one, "reach", digits=0) or MISSING for one in study["bins"]]
        cells.append(_interval(study["correlation"]["reach"], "rho"))
        rows.append((f"{study['variant']}, seed {study['seed']}", tuple(map(Cell, cells))))
    columns = [("", name) for name in ("receptive field", *_bins(studies), "rank correlation")]
    return as_markdown(Table(of, tuple(columns), tuple(rows), corner=f"{studies[0]['by']} (objects)"))


def classes(document: Document, of: str) -> str:
    """Effective dilation of the filters on each class by layer, mean ± standard deviation, and their number."""
    study = _adaptive(document, "classes", of)
    cells = {(row["class"], row["layer"]): row for row in study["rows"] if row["count"]}
    layers = list(dict.fromkeys(layer for _, layer in cells))
    rows = []
    for kind in dict.fromkeys(kind for kind, _ in cells):
        found = [cells.get((kind, layer)) for layer in layers]
        means = [Cell(f"{one['mean']:.2f} ± {one['std']:.2f}" if one else MISSING) for one in found]
        rows.append((kind, (*means, Cell(f"{found[-1]['count'] if found[-1] else 0:,}"))))
    columns = [*(("", layer) for layer in layers), ("", "filters")]
    return as_markdown(Table(of, tuple(columns), tuple(rows), corner="class"))


def object_classes(document: Document, of: str) -> str:
    """Of each class: objects, mean size, accuracy, effective dilation by layer, and its own rank correlation."""
    study = _adaptive(document, "objects", of)
    layers = unique(layer for one in study["classes"] for layer in one["dilation"])
    rows = []
    for one in sorted(study["classes"], key=lambda one: one[study["by"]]):
        cells = [str(one["objects"]), f"{one[study['by']]:.0f}", _two(one["accuracy"])]
        cells += [_two(one["dilation"].get(layer)) for layer in layers] + [_interval(one["correlation"], "rho")]
        rows.append((one["class"], tuple(map(Cell, cells))))
    columns = ("objects", f"{study['by']}, px", "accuracy", *layers, "rank correlation within")
    return as_markdown(Table(of, tuple(("", name) for name in columns), tuple(rows), corner="class"))


def coverage(document: Document, of: str) -> str:
    """Share of the cells to which no tap is nearest, and that are not read at all, by layer and size."""
    study = _adaptive(document, "coverage", of)
    cells = {(row["layer"], row["size"]): row for row in study["rows"]}
    sizes = (*SIZES, "all")
    rows = []
    for layer in dict.fromkeys(layer for layer, _ in cells):
        shares = [Cell(_percent(cells[layer, size]["share_without_tap"])) for size in sizes]
        rows.append((layer, (*shares, Cell(_percent(cells[layer, "all"]["share_not_read"])))))
    columns = [("no tap within half a cell", size) for size in sizes] + [("", "not read at all")]
    return as_markdown(Table(of, tuple(columns), tuple(rows), corner="layer"))


def content(document: Document, of: str) -> str:
    """What of the offsets is constant, position and content, and how they correlate with a shifted image's."""
    study = _adaptive(document, "content", of)
    shifted = {row["layer"]: row for row in study["shifted"]}
    rows = []
    for row in study["rows"]:
        shares = [Cell(_percent(row[part])) for part in ("constant", "position", "content")]
        follow = [_two(shifted[row["layer"]][key]) for key in ("follows", "stays")]
        rows.append((row["layer"], (Cell(f"{row['rms']:.2f}"), *shares, *map(Cell, follow))))
    columns = [("", "rms, cells"), ("", "constant"), ("", "position"), ("", "content")]
    columns += [("image shifted, correlation", name) for name in ("same content", "same place")]
    return as_markdown(Table(of, tuple(columns), tuple(rows), corner="layer"))


def movement(document: Document, of: str) -> str:
    """How far one training step moves taps: over all steps measured, and over the first and the last tenth of them."""
    study = _adaptive(document, "movement", of)
    steps = sorted({row["step"] for row in study["steps"]})
    tenth = max(len(steps) // 10, 1)
    rows = []
    for layer in study["counts"]:
        mine = [row for row in study["steps"] if row["layer"] == layer]
        for name, part in (("all", mine), ("first tenth", mine[:tenth]), ("last tenth", mine[-tenth:])):
            n = len(part)
            means = [sum(row[key] for row in part) / n for key in ("median", "q999")]
            cells = [f"{value:.2g}" for value in means] + [f"{max(row['longest'] for row in part):.2g}"]
            cells += [
                _percent(sum(row[key] for row in part) / n) for key in ("longer_than_a_cell", "into_another_cell")
            ]
            rows.append((f"{layer}, {name}", tuple(map(Cell, cells))))
    columns = ("median", "99.9 %", "longest", "longer than a cell", "into another cell")
    return as_markdown(Table(of, tuple(("", name) for name in columns), tuple(rows), corner="move in one step, cells"))


def provenance(document: Document) -> str:
    """Commits, devices, dates and budgets of the runs of each sweep."""
    rows = []
    for name, sweep in document["sweeps"].items():
        done = [run for run in sweep["runs"] if run["state"] == "done"]
        dates = sorted(run["date"][:10] for run in done)
        facts = [_all(run[key] for run in done) for key in ("commit", "device", "budget")]
        cells = [str(len(done)), f"{sweep['data']['split']}, {sweep['data']['images']} images", *facts]
        cells.append(" to ".join(dict.fromkeys((dates[0], dates[-1]))))
        rows.append((name, tuple(map(Cell, cells))))
    columns = ("runs", "evaluated on", "commit", "device", "budget", "date")
    return as_markdown(Table("runs", tuple(("", name) for name in columns), tuple(rows), corner="sweep"))


TABLES: Mapping[str, Callable[..., str]] = {
    "budgets": budgets,
    "chart": chart,
    "classes": classes,
    "comparison": comparison,
    "content": content,
    "correlations": correlations,
    "coverage": coverage,
    "dilation": dilation,
    "iou": iou,
    "iou_by_size": iou_by_size,
    "lengths": lengths,
    "losses": losses,
    "movement": movement,
    "object_classes": object_classes,
    "provenance": provenance,
    "reach": reach,
}


def _sweep(document: Document, name: str) -> Mapping[str, Any]:
    """A sweep by its name; _Absent where there is none."""
    if name not in document["sweeps"]:
        raise _Absent
    return document["sweeps"][name]


def _counted(sweep: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The nets of a sweep that have a number."""
    return [net for net in sweep["variants"] if net["miou"]["n"]]


def _studies(document: Document, kind: str, of: str) -> list[Document]:
    """The studies of a kind in folders called `of`; _Absent where there is none."""
    found = [study for study in document["studies"] if study["study"] == kind and study["of"] == of]
    if not found:
        raise _Absent
    return sorted(found, key=lambda study: not samples_fixed(study))


def _bins(studies: Sequence[Document]) -> list[str]:
    """The names of the studies' bins, with how many objects of the first are in each; raises DataError where the bins
    differ."""
    first, *others = studies
    for study in others:
        if _edges(study) != _edges(first):
            nets = " and ".join(f"{one['variant']}, seed {one['seed']}" for one in (first, study))
            raise DataError(f"the bins of {nets} differ; study both with the same by= and bins=")
    return [f"{one['from']:.0f} to {one['to']:.0f} px ({one['objects']})" for one in first["bins"]]


def _edges(study: Document) -> tuple[str, list[tuple[float, float]]]:
    return study["by"], [(one["from"], one["to"]) for one in study["bins"]]


def _adaptive(document: Document, kind: str, of: str) -> Document:
    """The first of the studies that is of no dilated net; _Absent where there is none."""
    found = [study for study in _studies(document, kind, of) if not samples_fixed(study)]
    if not found:
        raise _Absent
    return found[0]


def _mean(found: Mapping[str, Any] | None, *, spread: bool = True) -> Cell:
    if not found or found["mean"] is None:
        return Cell(MISSING)
    std = f" ± {found['std']:.3f}" if spread and found["std"] is not None else ""
    return Cell(f"{found['mean']:.3f}{std}", found["mean"])


def _difference(found: Mapping[str, Any] | None) -> list[Cell]:
    if found is None:
        return [Cell("baseline"), Cell("")]
    interval = MISSING if found["low"] is None else f"{found['low']:+.3f} to {found['high']:+.3f}"
    return [Cell(f"{found['mean']:+.3f}".replace("-", "−")), Cell(interval.replace("-", "−"))]


def _interval(found: Mapping[str, Any] | None, key: str) -> str:
    return (found and with_interval(found, key)) or MISSING


def _two(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}".replace("-", "−")


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{100 * value:.1f} %"


def _all(values: Sequence[str] | Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))
