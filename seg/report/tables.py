"""What each table of the report holds, computed from variants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from seg.alarms import absent_classes
from seg.report import paper
from seg.report.results import SIZES, Run
from seg.report.statistics import Difference, Mean
from seg.report.table import Cell, Table, as_text, best_of, mark_best
from seg.report.variants import Variant, difference, find_baseline, gather, shared_layers, unique

MISSING = "–"


def comparison(variants: Sequence[Variant], baseline: Variant) -> Table:
    """mIoU beside IoU and effective dilation by object size, and what they cost."""
    layers = shared_layers(variants)
    heading = "effective dilation (cells)"
    if any(v.layers and v.layers != layers for v in variants):
        shared = f"{len(layers)} shared layers" if len(layers) > 3 else ", ".join(layers)
        heading += f" in {shared or 'no shared layer'}"
    columns = [("", "seeds"), ("", "mIoU"), ("", _against(baseline))]
    columns += [("IoU by object size", size) for size in SIZES[:3]]
    columns += [(heading, size) for size in SIZES]
    columns += [("", "parameters"), ("", "train s")]
    rows = [(v.label, tuple(_comparison_cells(v, baseline, layers))) for v in variants]
    return mark_best(Table("Comparison", tuple(columns), tuple(rows)), [1, 3, 4, 5])


def comparison_table(runs: Sequence[Run], baseline: str | None = None) -> str:
    """The comparison as plain text for a terminal, with one line for each run that isn't counted."""
    variants = gather(runs)
    lines = [as_text(comparison(variants, find_baseline(variants, baseline))), *without_dilation(variants)]
    lines += [f"not counted: {run.name}: {state_line(run)}" for run in runs if run.result is None]
    return "\n".join(lines)


def evaluation_table(run: Run) -> str:
    """What one evaluation says, for a terminal: the comparison's row, IoU by class, effective dilation by layer."""
    parts = [comparison_table([run])]
    for variant in gather([run]) if run.result else ():
        classes = by_class([variant])
        if absent := absent_classes({name: cell.value for name, (cell,) in classes.rows}):
            parts.append(absent)
        parts.append(as_text(classes))
        if variant.layers:
            parts.append("effective dilation (cells)\n" + as_text(dilation(variant)))
    return "\n\n".join(parts)


def ablation(variants: Sequence[Variant], baseline: Variant, data: str) -> Table:
    """Accuracy over seeds, the difference to the baseline with its interval, and the paper's own value."""
    columns = [("", "mIoU"), ("", _against(baseline)), ("", "95 % interval"), ("", "pixel accuracy"), ("", "runs")]
    reference = paper.column(data)
    columns += [(paper.HEADING, reference)] if reference else []
    rows = []
    for v in variants:
        cells = [_fraction(v.miou), *_difference_cells(difference(v, baseline), is_baseline=v is baseline)]
        cells += [_fraction(v.over_seeds(lambda r: r.pixel_accuracy)), runs_cell(v)]
        cells += [_paper_cell(paper.miou(data, v))] if reference else []
        rows.append((v.label, tuple(cells)))
    return mark_best(Table("Ablation", tuple(columns), tuple(rows)), [0, 3])


def cost(variants: Sequence[Variant]) -> Table:
    """What each variant costs, beside its accuracy."""
    columns = ("mIoU", "parameters", "GFLOPs", "ms an image", "memory", "training")
    rows = [(v.label, (_fraction(v.miou), *cost_cells(v))) for v in variants]
    return mark_best(Table("Cost", tuple(("", name) for name in columns), tuple(rows)), [0])


def by_class(variants: Sequence[Variant]) -> Table:
    """IoU of every class, a row each: there may be many, and a page grows downwards."""
    classes = unique(name for v in variants for result in v.results for name in result.iou)
    shown = [v for v in variants if v.results]
    rows = [(name, best_of([_fraction(v.entry("iou", name)) for v in shown])) for name in classes]
    return Table("IoU by class", tuple(("", v.label) for v in shown), tuple(rows), corner="class")


def by_size(variants: Sequence[Variant]) -> Table:
    """IoU and pixel accuracy on small, medium and large objects and on the background."""
    columns = [("IoU", size) for size in SIZES] + [("pixel accuracy", size) for size in SIZES]
    rows = []
    for v in variants:
        iou = [_fraction(v.entry("iou_by_size", s)) for s in SIZES]
        accuracy = [_fraction(v.entry("accuracy_by_size", s)) for s in SIZES]
        rows.append((v.label, (*iou, *accuracy)))
    return mark_best(Table("By object size", tuple(columns), tuple(rows)), range(len(columns)))


def dilation(variant: Variant) -> Table:
    """Effective dilation of one variant: a row for each layer, a column for each size, as in the paper's table 2."""
    rows = [(layer, tuple(dilation_cell(variant.dilation(s, layer)) for s in SIZES)) for layer in variant.layers]
    return Table(variant.label, tuple(("", size) for size in SIZES), tuple(rows), corner="layer")


def without_dilation(variants: Sequence[Variant]) -> list[str]:
    """One sentence that says why effective dilation is missing, and how to get it, where nets with a result lack it."""
    if all(v.layers for v in variants if v.results):
        return []
    return [
        f"Effective dilation is missing ({MISSING}) where images are read several times, in parts or at another "
        "stride, or where there are predictions alone: evaluate.py run=FOLDER without inference.scales, flip, window "
        "and output_stride gives it."
    ]


def paper_dilation() -> Table:
    """The paper's own table 2, to be set beside ours."""
    rows = tuple((layer, tuple(Cell(text) for text in cells)) for layer, cells in paper.TABLE_2)
    return Table(f"{paper.HEADING}: {paper.TABLE_2_NET}", tuple(("", size) for size in SIZES), rows, corner="layer")


def uncounted(runs: Sequence[Run]) -> Table:
    """The runs that aren't in the numbers, and why."""
    rows = [(run.name, (Cell(run.variant), Cell(run.state), Cell(run.error or MISSING))) for run in runs]
    return Table("Runs without a number", (("", "variant"), ("", "state"), ("", "why")), tuple(rows), corner="run")


def dilation_cell(pooled: Mean) -> Cell:
    """mean ± std, with the count as its title; n=0 where no filter lay on such an object."""
    if pooled.mean is None:
        return Cell("n=0", None, "no filter of this layer lies on such an object")
    spread = "" if pooled.std is None else f" ± {pooled.std:.2f}"
    return Cell(f"{pooled.mean:.2f}{spread}", pooled.mean, f"{pooled.n:,} filters")


def runs_cell(variant: Variant) -> Cell:
    """How many runs are counted, and how many are not for which reason: "2", "1, 1 failed", "failed"."""
    states = [run.state for run in variant.runs if run.result is None]
    if not variant.results and len(states) == 1:
        return Cell(states[0])
    rest = [f"{states.count(state)} {state}" for state in unique(states)]
    return Cell(", ".join([str(len(variant.results))] * bool(variant.results) + rest), float(len(variant.results)))


def cost_cells(variant: Variant) -> list[Cell]:
    """Parameters, GFLOPs, milliseconds an image, memory and training time, averaged over seeds."""
    parameters, flops, seconds, memory = (
        variant.entry("cost", key).mean for key in ("parameters", "flops", "seconds_per_image", "memory_bytes")
    )
    training = variant.over_seeds(lambda r: r.train_seconds).mean
    return [
        _cell(parameters, lambda n: f"{n:,.0f}" if n < 1e6 else f"{n / 1e6:.2f} M"),
        _cell(flops, lambda n: f"{n / 1e9:.3g}"),
        _cell(seconds, lambda n: f"{n * 1e3:.3g}"),
        _cell(memory, lambda n: f"{n / 2**20:,.0f} MiB"),
        _cell(training, duration),
    ]


def duration(seconds: float) -> str:
    """Seconds as a person says them: 41 s, 3 min 20 s, 5 h 02 min."""
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def state_line(run: Run) -> str:
    """How a run without a number ended."""
    return run.state + (f" ({run.error})" if run.error else "")


def _comparison_cells(variant: Variant, baseline: Variant, layers: Sequence[str]) -> list[Cell]:
    sizes = [_cell(variant.entry("iou_by_size", s).mean, _three) for s in SIZES[:3]]
    cells = [runs_cell(variant), _fraction(variant.miou)]
    cells += _difference_cells(difference(variant, baseline), is_baseline=variant is baseline)[:1]
    cells += [*sizes, *(_dilation_mean(variant, size, layers) for size in SIZES)]
    return [*cells, cost_cells(variant)[0], _cell(variant.over_seeds(lambda r: r.train_seconds).mean, "{:.0f}".format)]


def _dilation_mean(variant: Variant, size: str, layers: Sequence[str]) -> Cell:
    found = variant.mean_dilation(size, layers)
    if not layers or not variant.layers or (found.mean is None and found.n):  # n filters, but none in one of the layers
        return Cell(MISSING)
    return dilation_cell(found)


def _difference_cells(found: Difference | None, *, is_baseline: bool) -> list[Cell]:
    if found is None:
        return [Cell("baseline" if is_baseline else MISSING), Cell("" if is_baseline else MISSING)]
    interval = MISSING if found.low is None or found.high is None else f"{found.low:+.3f} to {found.high:+.3f}"
    title = "" if interval != MISSING else "needs the counts of every image, of the same images on both sides"
    return [Cell(_minus(f"{found.mean:+.3f}"), found.mean), Cell(_minus(interval), None, title)]


def _fraction(values: Mean) -> Cell:
    if values.mean is None:
        return Cell(MISSING)
    spread = "" if values.std is None else f" ± {values.std:.3f}"
    return Cell(f"{values.mean:.3f}{spread}", values.mean, f"n = {values.n}")


def _cell(value: float | None, show: Callable[[float], str]) -> Cell:
    return Cell(MISSING) if value is None else Cell(show(value), value)


def _paper_cell(value: float | None) -> Cell:
    return _cell(value, _three)


def _three(value: float) -> str:
    return f"{value:.3f}"


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _against(baseline: Variant) -> str:
    """What heads the differences; a long label, of settings, stands in its row alone."""
    return f"vs {baseline.label}" if len(baseline.label) <= 28 else "vs baseline"
