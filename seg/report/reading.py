"""Runs as they lie on disk: result.json, status.json and metrics.jsonl, read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from seg.errors import ConfigError, DataError
from seg.report.fields import inside, lines, list_of_numbers, load, mapping, number, numbers, plain, rows_of, word
from seg.report.results import Dilation, Example, Histogram, Images, Result, Run, Sampling
from seg.report.settings import tell_apart

SCHEMA = 1


def read_runs(folder: Path | str, exclude: Sequence[str] = ()) -> list[Run]:
    """Every run below a folder, sorted by path; a run that failed or can't be read is kept and says why.

    Runs of one label that differ in their settings get labels that say so.

    exclude: patterns, as a shell has them, of the paths below `folder` of runs, or of folders of runs, to leave out
    raises:  ConfigError if the folder is missing or holds no run, or a pattern is of none
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ConfigError(f"runs={folder}: no such folder; give the folder of a run or of a sweep")
    runs = [_counted(_read_or_mark(path, folder)) for path in sorted(_run_folders(folder))]
    if not runs:
        raise ConfigError(
            f"runs={folder}: no run in it (a run folder holds status.json or result.json); train one first"
        )
    return tell_apart(_mark_other_data(_without(runs, exclude)))


def read_run(folder: Path) -> Run:
    """The run in a folder, without those below it, with its result even if the training goes on; one that failed or
    can't be read says why."""
    return _read_or_mark(folder, folder)


def read_result(path: Path) -> tuple[Result, str | None, int | None]:
    """A result.json with its variant's label and seed, if it names them.

    raises: DataError that names the file and the key if it is broken, of another schema or of wrong types
    """
    document = mapping(load(path), path, "the file")
    if document.get("schema") != SCHEMA:
        raise DataError(
            f"{path}: schema is {document.get('schema')!r}, this report reads {SCHEMA}; evaluate the run again"
        )
    variant = document.get("variant")
    seed = number(document, "seed", path)
    return (
        _result(document, path),
        None if variant is None else plain(str(variant)),
        None if seed is None else int(seed),
    )


def finished(runs: Sequence[Run]) -> list[Run]:
    """The runs whose result counts.

    raises: DataError that lists every run and its state if none does
    """
    done = [run for run in runs if run.result is not None]
    if not done:
        states = "; ".join(f"{run.name}: {run.state}" + (f" ({run.error})" if run.error else "") for run in runs)
        raise DataError(f"no run with a result among {len(runs)}: {states}")
    return done


def _without(runs: Sequence[Run], exclude: Sequence[str]) -> list[Run]:
    left_out: set[str] = set()
    for pattern in exclude:
        found = {run.name for run in runs if fnmatchcase(f"{run.name}/", f"{pattern}/*")}
        if not found:
            raise ConfigError(f"exclude={pattern}: no run is called so; one is called {runs[0].name}")
        left_out |= found
    if len(left_out) == len(runs):
        raise ConfigError(f"exclude={', '.join(exclude)}: no run is left of {len(runs)}; leave fewer out")
    return [run for run in runs if run.name not in left_out]


def _run_folders(folder: Path) -> set[Path]:
    marks = ("status.json", "result.json", "checkpoints")  # Hydra's folder alone is of a command that was refused
    return {path.parent for mark in marks for path in folder.rglob(mark)}


def _read_or_mark(folder: Path, root: Path) -> Run:
    name = plain(folder.name if folder == root else folder.relative_to(root).as_posix())
    try:
        return _read_run(folder, name)
    except DataError as error:
        return Run(folder, name, name, None, "unreadable", str(error))


def _read_run(folder: Path, name: str) -> Run:
    status_path, result_path = folder / "status.json", folder / "result.json"
    status = mapping(load(status_path), status_path, "the file") if status_path.exists() else {}
    state = str(status.get("state", "done" if result_path.exists() else "not evaluated"))
    training = tuple(lines(folder / "metrics.jsonl"))
    error = status.get("error")
    seed = number(status, "seed", status_path)
    run = Run(
        folder=folder,
        name=name,
        variant=plain(str(status.get("variant") or name)),
        seed=None if seed is None else int(seed),
        state=state,
        error=str(error) if error else _advice(state, _last_step(training)),
        training=training,
        config=mapping(status.get("config") or {}, status_path, "config"),
    )
    if not result_path.exists():
        trained = replace(run, state="not evaluated", error="trained, but there is no result.json; evaluate it")
        return trained if state == "done" else run
    try:
        result, variant, result_seed = read_result(result_path)
    except DataError as broken:
        return replace(run, state="unreadable", error=str(broken))
    seed = run.seed if result_seed is None else result_seed
    return replace(run, variant=variant or run.variant, seed=seed, result=result, config=result.config)


def _counted(run: Run) -> Run:
    """The run without a result that is of an older or a half-trained checkpoint, as it is beside a training that isn't
    finished."""
    if run.result is None or run.state == "done":
        return run
    return replace(run, result=None, error=f"{run.error or run.state}; its result.json isn't counted")


def _last_step(training: Sequence[Mapping[str, Any]]) -> Any:
    """The last step that was recorded; 0 where none was."""
    return training[-1].get("step") if training else 0


def _advice(state: str, step: Any) -> str | None:
    advice = {
        "running": f"at step {step}: still running, or killed; run it again to resume",
        "preempted": f"stopped at step {step}; run it again to resume",
        "not evaluated": "neither status.json nor result.json; train and evaluate it",
        "failed": "status.json gives no reason",
    }
    return advice.get(state)


def _mark_other_data(runs: list[Run]) -> list[Run]:
    """Keep the results of the data set that most runs were evaluated on; mark the rest as other data."""
    results = [run.result for run in runs if run.result]
    named = all(result.images for result in results)
    keys = [_data_key(result, named) for result in results]
    if len(set(keys)) < 2:
        return runs
    kept = max(keys, key=keys.count)
    return [_mark(run, kept) if run.result and _data_key(run.result, named) != kept else run for run in runs]


def _mark(run: Run, kept: tuple[str, ...]) -> Run:
    assert run.result is not None
    data = _said_of_data(run.result)
    reason = f"evaluated on {data}, the others on {kept[0]}"
    if data == kept[0]:
        reason = f"evaluated on other images or classes than the others, though both are called {data}"
    return replace(run, state="other data", error=reason, result=None, config={})


def _data_key(result: Result, named: bool) -> tuple[str, ...]:
    """What is the same of runs on the same data: name, classes and, where all know them, the names of the images."""
    return (_said_of_data(result), *result.iou, *(result.images.names if named and result.images else ()))


def _said_of_data(result: Result) -> str:
    data = result.data
    return f"{data['name']} {data.get('split', '')} ({data.get('images', '?')} images)"


def _result(document: Mapping[str, Any], path: Path) -> Result:
    data = mapping(document.get("data"), path, "data")
    if "name" not in data:
        raise DataError(f"{path}: data has no name; expected {{'name': ..., 'split': ..., 'images': ...}}")
    facts = ("commit", "date", "backend", "device", "budget", "command", "object_sizes")
    return Result(
        data=data,
        protocol=str(document.get("protocol") or ""),
        miou=number(document, "miou", path),
        pixel_accuracy=number(document, "pixel_accuracy", path),
        iou=numbers(document, "iou", path),
        iou_by_size=numbers(document, "iou_by_size", path),
        accuracy_by_size=numbers(document, "accuracy_by_size", path),
        effective_dilation=tuple(_dilation(row, path) for row in rows_of(document, "effective_dilation", path)),
        histograms=tuple(_histogram(row, path) for row in rows_of(document, "effective_dilation_histogram", path)),
        cost=numbers(document, "cost", path),
        train_seconds=number(document, "train_seconds", path),
        images=_images(rows_of(document, "per_image", path), path),
        examples=tuple(_example(row, path) for row in rows_of(document, "examples", path)),
        sampling=tuple(_sampling(row, path) for row in rows_of(document, "sampling", path)),
        facts={key: str(document[key]) for key in facts if document.get(key) is not None},
        versions={str(key): str(value) for key, value in mapping(document.get("versions") or {}, path, "v").items()},
        config=mapping(document.get("config") or {}, path, "config"),
    )


def _dilation(row: Mapping[str, Any], path: Path) -> Dilation:
    count = int(number(row, "count", path) or 0)
    mean, std = number(row, "mean", path), number(row, "std", path)
    # a mean over no filter isn't 0
    return Dilation(word(row, "layer", path), word(row, "size", path), *((mean, std) if count else (None, None)), count)


def _histogram(row: Mapping[str, Any], path: Path) -> Histogram:
    edges, counts = list_of_numbers(row, "edges", path), list_of_numbers(row, "counts", path)
    if len(edges) != len(counts) + 1:
        raise DataError(f"{path}: a histogram has {len(edges)} edges and {len(counts)} counts; expected one edge more")
    return Histogram(word(row, "layer", path), word(row, "size", path), edges, counts)


def _images(rows: Sequence[Mapping[str, Any]], path: Path) -> Images | None:
    if not rows:
        return None
    counts = [[list_of_numbers(row, key, path) for row in rows] for key in ("intersection", "union")]
    lengths = {len(values) for table in counts for values in table}
    if len(lengths) != 1:
        raise DataError(f"{path}: per_image has rows of {sorted(lengths)} classes; expected one number for each class")
    names = [word(row, "name", path) for row in rows]
    order = sorted(range(len(names)), key=names.__getitem__)  # so that runs pair up whatever their loader's order
    intersection, union = (np.array(table, dtype=np.int64)[order] for table in counts)
    return Images(tuple(names[index] for index in order), intersection, union)


def _example(row: Mapping[str, Any], path: Path) -> Example:
    image, label, prediction = (inside(word(row, key, path), path) for key in ("image", "label", "prediction"))
    return Example(word(row, "name", path), image, label, prediction, number(row, "miou", path))


def _level(word: str, path: Path) -> int:
    if not str(word).isdecimal():
        raise DataError(f"{path}: a sampling level is {word!r}; expected a number of layers")
    return int(word)


def _sampling(row: Mapping[str, Any], path: Path) -> Sampling:
    unit = list_of_numbers(row, "unit", path)
    if len(unit) != 2:
        raise DataError(f"{path}: a sampling unit is {unit}; expected [y, x] in px")
    points = mapping(row.get("points"), path, "points")
    image = row.get("image")
    return Sampling(
        name=word(row, "name", path),
        object_size=word(row, "object_size", path),
        length=number(row, "length_px", path),
        unit=(unit[0], unit[1]),
        points={_level(level, path): _points(values, path) for level, values in points.items()},
        image=None if image is None else inside(plain(str(image)), path),
    )


def _points(values: Any, path: Path) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise DataError(f"{path}: sampling points aren't a list of [y, x]") from None
