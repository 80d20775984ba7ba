"""What an evaluation costs beside its bare forward passes, and how a net's cost grows with the image."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn

from seg.analysis import DilationBySize, record_offsets
from seg.analysis.timing import extra_memory, medians
from seg.data import Batch, Creatures, evaluate_loader, evaluation_transform
from seg.data.images import read_image, read_mask
from seg.data.sample import Sample
from seg.engine import Inference, Runtime, evaluate
from seg.models import DeepLab, Dilated, Head, Modulated, resnet18, resnet50

THRESHOLDS = (96.0, 224.0)
SIDES = (256, 512, 1024, 2048)
TRUNKS = {"resnet18": resnet18, "resnet50": resnet50}
IMAGES = 2


class Files(Creatures):
    """Drawn pictures, cut to a size and read from PNG files, as real ones are."""

    def __init__(self, folder: Path, size: tuple[int, int]) -> None:
        super().__init__("val", images=IMAGES, size=max(size))
        self.folder, self.objects = folder, []
        for index in range(IMAGES):
            sample = super().__getitem__(index)
            image, label, objects = (a[: size[0], : size[1]] for a in (sample.image, sample.label, sample.objects))
            Image.fromarray(image).save(folder / f"{index}.png")
            Image.fromarray(label).save(folder / f"{index}_label.png")
            self.objects.append(objects)

    def __getitem__(self, index: int) -> Sample:
        image: NDArray[Any] = read_image(self.folder / f"{index}.png")
        return Sample(image, read_mask(self.folder / f"{index}_label.png"), self.objects[index], str(index))


def net(trunk: Callable[..., nn.Module], layers: int, classes: int) -> DeepLab:
    """With modulated layers whose offsets are of about a cell, or without any."""
    body = trunk(Modulated if layers else Dilated, replaced=layers or 3)
    for module in body.modules():
        if isinstance(module, Modulated):
            torch.nn.init.normal_(module.offset.weight, std=(2 / (9 * module.in_channels)) ** 0.5)  # type: ignore[arg-type]
    return DeepLab(body, classes, head=Head).eval()


def rows(config: DictConfig) -> Iterator[dict[str, object]]:
    """One row for each net: milliseconds an image; or for each image side: milliseconds a million pixels."""
    if config.what == "scaling":
        yield from scaling_rows(config)
        return
    for name, trunk in TRUNKS.items():
        with TemporaryDirectory() as folder:
            yield run_row(name, trunk, Files(Path(folder), tuple(config.size)), config)


def run_row(name: str, trunk: Callable[..., nn.Module], data: Files, config: DictConfig) -> dict[str, object]:
    """Processor time on a CPU, where reading ahead and copying can hide nothing; elapsed time on a GPU."""
    runtime = Runtime(device=config.device, precision="fp32")
    loader = evaluate_loader(data, evaluation_transform())
    batches, model = list(loader), runtime.place(net(trunk, 3, len(data.classes)))
    contenders = {
        "forward": partial(forwards, model, batches, runtime),
        "evaluation": partial(evaluation, model, batches, runtime, record=False),
        "with effective dilation": partial(evaluation, model, batches, runtime, record=True),
        "loading": lambda: list(loader),
    }
    return row("evaluation, per image", name, contenders, config, units=IMAGES)


@torch.inference_mode()
def forwards(model: nn.Module, batches: list[Batch], runtime: Runtime) -> None:
    """The net alone: scores at the labels' resolution."""
    for batch in batches:
        Inference().scores(model, batch, runtime)


def evaluation(model: nn.Module, batches: list[Batch], runtime: Runtime, record: bool) -> None:
    """Scores, predictions and counts; effective dilation too where it is recorded."""
    settings = {"classes": 5, "thresholds": THRESHOLDS, "runtime": runtime, "images": len(batches)}
    with redirect_stderr(io.StringIO()):
        if not record:
            evaluate(model, batches, **settings)
            return
        dilation = DilationBySize(THRESHOLDS)
        with record_offsets(model) as recorded:
            add = lambda batch: dilation.add(recorded, batch.size, batch.image.shape[-2:])  # noqa: E731
            evaluate(model, batches, **settings, after_forward=add)


def scaling_rows(config: DictConfig) -> Iterator[dict[str, object]]:
    """DeepLab on a ResNet-18 on square images."""
    torch.manual_seed(0)
    layout = {"device": config.device, "memory_format": torch.channels_last}
    nets = {"dense": net(resnet18, 0, 21).to(**layout), "3 layers": net(resnet18, 3, 21).to(**layout)}
    for side in config.sides or SIDES:
        image = torch.randn(1, 3, side, side).to(**layout)
        contenders = {name: partial(ask, model, image) for name, model in nets.items()}
        yield row("forward, per million pixels", f"{side} px", contenders, config, units=side**2 / 1e6)


@torch.inference_mode()
def ask(model: nn.Module, image: Tensor) -> None:
    model(image)


def row(
    measure: str, case: str, contenders: Mapping[str, Callable[[], object]], config: DictConfig, units: float
) -> dict[str, object]:
    """Times and memory of a case, times per unit; ratios to the first contender."""
    clock = perf_counter if config.device == "cuda" else process_time
    times = medians(contenders, rounds=config.rounds, seconds=config.seconds, device=config.device, clock=clock)
    memory = {name: extra_memory(run, config.device) for name, run in contenders.items()}
    first = next(iter(contenders))
    return {
        "measure": measure,
        "case": case,
        "milliseconds": {name: 1000 * time / units for name, time in times.items()},
        "ratios": {f"{name} / {first}": time / times[first] for name, time in times.items() if name != first},
        "mebibytes": {name: size / 2**20 for name, size in memory.items() if size is not None},
    }
