"""What deformable convolution costs: python scripts/benchmark.py ops|model|metrics|run|scaling [key=value ...]

All contenders of a case take turns in one process; the figures are medians. With output=FILE.json the result is kept,
with the machine it was measured on, and a picture beside it.
"""

import sys

from command import command
from omegaconf import DictConfig, OmegaConf

CHOICES = ("ops", "model", "metrics", "run", "scaling")
TAKEN_BY = {"measures": ("ops", "model"), "shapes": ("ops",), "dataset": ("model",), "sides": ("scaling",)}


@command("benchmark")
def main(config: DictConfig) -> None:
    import json
    from pathlib import Path

    import torch

    from seg.report.benchmark import benchmark_tables, save_benchmark
    from seg.report.table import as_text

    check(config)
    torch.set_num_threads(config.threads)
    settings = OmegaConf.to_container(config)
    result = {"schema": 1, "settings": settings, "machine": machine(config.device), "rows": measured(config)}
    result |= counted(config)
    for table in benchmark_tables(result):
        print(f"\n{table.title}\n{as_text(table)}")
    if config.output:
        path = Path(config.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")
        save_benchmark(result, path.with_suffix(".png"))
        print(f"\nkept in {path} and {path.with_suffix('.png')}")


def check(config: DictConfig) -> None:
    """Raises ConfigError for what can't be measured."""
    import build
    import torch

    from seg.errors import ConfigError
    from seg.ops import backend

    build.check(config)
    if config.get("output") and not str(config.output).endswith(".json"):
        raise ConfigError(f"output={config.output}: a file that ends in .json is written; a picture is put beside it")
    if config.what not in CHOICES:
        raise ConfigError(f"what is {config.what!r}; choose from {', '.join(CHOICES)}")
    for key, takers in TAKEN_BY.items():
        if config.get(key) is not None and config.what not in takers:
            raise ConfigError(f"{key}={config[key]} is for {' and '.join(takers)}; benchmark.py {config.what} has none")
    if config.device not in ("cpu", "cuda") or (config.device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"device={config.device} is not here; choose cpu, or cuda where there is a GPU")
    if layers_on_gpu(config) and backend("cuda") != "compiled":
        raise ConfigError("the CUDA kernels are not here, so there is nothing to measure; scripts/doctor.py says why")


def layers_on_gpu(config: DictConfig) -> bool:
    """Whether single layers are asked for on a GPU: they have contenders and a clock of their own."""
    return bool(config.what == "ops" and config.device == "cuda")


def measured(config: DictConfig) -> list[dict[str, object]]:
    """One row for each measure and case."""
    import torch

    from seg.analysis.timing import EventClock, Rotation, WallClock, extra_memory, medians

    if config.what in ("run", "scaling"):
        import whole_runs

        return list(whole_runs.rows(config))
    rows = []
    clock = EventClock() if layers_on_gpu(config) else WallClock(config.device)
    for measure, case, contenders in cases(config):
        print(f"{measure} {case} ...", file=sys.stderr, flush=True)
        with torch.no_grad():
            times = medians(contenders, rounds=config.rounds, seconds=config.seconds, clock=clock)
            # ONNX Runtime keeps what it once took, so that a second run seems to need nothing
            asked = {name: run for name, run in contenders.items() if name != "onnxruntime"}
            memory = {name: extra_memory(run, config.device) for name, run in asked.items()}
        rows.append(
            {
                "measure": measure,
                "case": case,
                "milliseconds": {name: 1000 * seconds for name, seconds in times.items()},
                "ratios": ratios(times),
                "mebibytes": {name: size / 2**20 for name, size in memory.items() if size is not None},
                "sets": {name: len(run.runs) for name, run in contenders.items() if isinstance(run, Rotation)},
            }
        )
    return rows


def cases(config: DictConfig):  # type: ignore[no-untyped-def]
    """The cases of the benchmark that was asked for."""
    import contenders
    import costs
    import torch
    from build import listed

    measures, shapes = listed(config.measures), listed(config.shapes)
    if layers_on_gpu(config):
        import gpu_contenders

        cache = torch.cuda.get_device_properties().L2_cache_size
        return gpu_contenders.cases(shapes, measures, config.device, cache)
    if config.what == "ops":
        return contenders.operator_cases(shapes, measures, config.threads)
    if config.what == "model" and config.dataset is not None:
        return costs.cost_cases(config.dataset, measures, config.device)
    if config.what == "model":
        return contenders.model_cases(list(config.size), measures, config.device)
    return contenders.metric_cases()


def counted(config: DictConfig) -> dict[str, object]:
    """What is not timed, of the nets of a data set."""
    from costs import sizes_and_operations

    asked = config.what == "model" and config.dataset is not None
    return {"counts": sizes_and_operations(config.dataset)} if asked else {}


def ratios(times: dict[str, float]) -> dict[str, float]:
    """How often the plain way's time ours takes, and how often ours the others take. The first contender is ours."""
    for base in ("dense", "plain"):
        if base in times:
            return {f"{name} / {base}": time / times[base] for name, time in times.items() if name != base}
    ours = next(iter(times))
    plain = {f"{ours} / conv2d": times[ours] / times["conv2d"]} if "conv2d" in times else {}
    others = [name for name in times if name not in (ours, "conv2d")]
    return plain | {f"{name} / {ours}": times[name] / times[ours] for name in others}


def machine(device: str) -> dict[str, object]:
    """What the figures depend on: processor or GPU, versions, date, commit."""
    import datetime
    import importlib.metadata
    import os
    import platform

    import torch

    from seg.engine.runtime import commit
    from seg.ops import backend, recipe

    named = [line.split(":", 1)[1].strip() for line in recipe.processor().splitlines() if line.startswith("model name")]
    told: dict[str, object] = {
        "processor": named[0] if named else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "backend": backend(device),
    }
    for package in ("torch", "torchvision", "onnxruntime"):
        try:
            told[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            told[package] = None
    if device == "cuda":
        properties = torch.cuda.get_device_properties()
        told |= {"gpu": properties.name, "multiprocessors": properties.multi_processor_count}
        told |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    elif told["backend"] == "compiled":
        told["instruction_set"] = torch.ops.seg_cpu.isa()
    told["commit"] = commit()
    return told


if __name__ == "__main__":
    if sys.argv[1:] and not {"-", "="} & set(sys.argv[1]):
        sys.argv[1] = f"what={sys.argv[1]}"
    main()
