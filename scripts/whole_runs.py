"""What evaluation and training cost beside the bare net, and how a net's cost grows with the image."""

import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stderr, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

import torch
from build import listed
from contenders import net, precisions
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from seg.analysis import DilationBySize, offset_statistics, record_offsets
from seg.analysis.timing import WallClock, extra_memory, medians
from seg.data import Batch, Creatures, evaluate_loader, evaluation_transform, train_loader, training_transform
from seg.data.images import read_image, read_mask
from seg.data.sample import Sample
from seg.engine import Inference, RunFolder, Runtime, Schedule, Trainer, checkpoint, evaluate, sgd
from seg.engine.train import cross_entropy
from seg.models import resnet18, resnet50

THRESHOLDS = (96.0, 224.0)
SIDES = (256, 512, 1024, 2048)
TRUNKS = {"resnet18": resnet18, "resnet50": resnet50}
CLASSES = 21  # as PASCAL VOC has: scores and counts cost more the more classes there are
# on a CPU reading ahead can hide nothing, so there is none and processor time is compared
IMAGES, WORKERS = {"cpu": 2, "cuda": 32}, {"cpu": 0, "cuda": 4}


class Files(Creatures):
    """Drawn pictures, cut to a size and read from PNG files, as real ones are."""

    def __init__(self, folder: Path, size: tuple[int, int], images: int) -> None:
        super().__init__("val", images=images, size=max(size))
        self.folder, self.objects = folder, []
        for index in range(images):
            sample = super().__getitem__(index)
            image, label, objects = (a[: size[0], : size[1]] for a in (sample.image, sample.label, sample.objects))
            Image.fromarray(image).save(folder / f"{index}.png")
            Image.fromarray(label).save(folder / f"{index}_label.png")
            self.objects.append(objects)

    def __getitem__(self, index: int) -> Sample:
        image: NDArray[Any] = read_image(self.folder / f"{index}.png")
        return Sample(image, read_mask(self.folder / f"{index}_label.png"), self.objects[index], str(index))


def rows(config: DictConfig) -> Iterator[dict[str, object]]:
    """For each net and number type, milliseconds an image of evaluation and of training; or for each image side
    milliseconds a million pixels."""
    if config.what == "scaling":
        yield from scaling_rows(config)
        return
    with TemporaryDirectory() as folder:
        data = Files(Path(folder), tuple(config.size), IMAGES[config.device])
        runtimes = [Runtime(device=config.device, precision=precision) for precision in precisions(config.device)]
        for measured in (evaluation_row, training_row):
            for name, trunk in TRUNKS.items():
                for runtime in runtimes:
                    yield measured(f"{name}, {runtime.precision}", trunk, data, runtime, config)


def evaluation_row(
    case: str, trunk: Callable[..., nn.Module], data: Files, runtime: Runtime, config: DictConfig
) -> dict[str, object]:
    """The loop's parts one after the other: the net, predictions and counts, effective dilation, reading the files."""
    loader = evaluate_loader(data, evaluation_transform(), workers=WORKERS[config.device])
    batches, model = list(loader), runtime.place(net(trunk, 3, CLASSES)).eval()
    contenders = {
        "forward": partial(forwards, model, batches, runtime),
        "evaluation": partial(evaluation, model, batches, runtime, record=False),
        "with effective dilation": partial(evaluation, model, batches, runtime, record=True),
        "and from files": partial(evaluation, model, loader, runtime, record=True),
    }
    return row("evaluation, per image", case, contenders, config, units=len(data))


@torch.inference_mode()
def forwards(model: nn.Module, batches: list[Batch], runtime: Runtime) -> None:
    """The net alone: scores at the labels' resolution."""
    for batch in batches:
        Inference().scores(model, batch, runtime)


def evaluation(model: nn.Module, batches: Any, runtime: Runtime, record: bool) -> None:
    """Scores, predictions and counts; effective dilation too where it is recorded."""
    settings = {"classes": CLASSES, "thresholds": THRESHOLDS, "runtime": runtime, "images": len(batches)}
    with redirect_stderr(io.StringIO()):
        if not record:
            evaluate(model, batches, **settings)
            return
        dilation = DilationBySize(THRESHOLDS)
        with record_offsets(model) as recorded:
            add = lambda batch: dilation.add(recorded, batch.size, batch.image.shape[-2:])  # noqa: E731
            evaluate(model, batches, **settings, after_forward=add)


class Enough(Exception):
    """Ends a training after its last batch, before it saves."""


class Epoch:
    """An epoch of batches, after which a training ends."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        yield from self.batches if isinstance(self.batches, list) else self.batches.epoch(0)
        raise Enough


def training_row(
    case: str, trunk: Callable[..., nn.Module], data: Files, runtime: Runtime, config: DictConfig
) -> dict[str, object]:
    """The bare step, the loop around it, offsets measured at every step (20 is the rule), files; and a checkpoint."""
    loader = train_loader(data, training_transform(), batch_size=1, workers=WORKERS[config.device])
    batches, model = list(loader.epoch(0)), runtime.place(net(trunk, 3, CLASSES)).train()
    optimizer = sgd(model, lr=1e-6)
    with TemporaryDirectory() as folder:
        train = partial(training, model, optimizer, runtime, Path(folder))
        contenders = {
            "step": partial(steps, model, optimizer, batches, runtime),
            "training": partial(train, batches, record=False),
            "with offsets each step": partial(train, batches, record=True),
            "and from files": partial(train, loader, record=True),
            "saving once": partial(saving, model, optimizer, Path(folder)),
        }
        return row("training, per image", case, contenders, config, units=len(data))


def steps(model: nn.Module, optimizer: Optimizer, batches: list[Batch], runtime: Runtime) -> None:
    """The net, its gradients and its new weights."""
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        with runtime.autocast():
            logits = model(runtime.image(batch.image))
        cross_entropy(logits, batch.label.to(runtime.device)).backward()
        optimizer.step()


def training(
    model: nn.Module, optimizer: Optimizer, runtime: Runtime, folder: Path, batches: Any, *, record: bool
) -> None:
    """The same steps by the trainer, which logs each of them where it records."""
    count = len(batches) + 1  # a step that is never taken, for the last one is saved
    trainer = Trainer(iterations=count, log_every=1 if record else count, save_every=count)
    with redirect_stderr(io.StringIO()), suppress(Enough):
        trainer.train(
            model, Epoch(batches), optimizer, Schedule(count, kind="constant"), folder=RunFolder(folder),
            runtime=runtime, observe=offset_statistics,
        )  # fmt: skip


def saving(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """A checkpoint, durably."""
    checkpoint.save(folder, 1, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def scaling_rows(config: DictConfig) -> Iterator[dict[str, object]]:
    """DeepLab on a ResNet-18 on square images."""
    torch.manual_seed(0)
    layout = {"device": config.device, "memory_format": torch.channels_last}
    nets = {
        name: net(resnet18, layers, CLASSES).to(**layout).eval() for name, layers in (("dense", 0), ("3 layers", 3))
    }
    for side in listed(config.sides) or SIDES:
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
    print(f"{measure}: {case} ...", file=sys.stderr, flush=True)
    clock = WallClock(config.device, perf_counter if config.device == "cuda" else process_time)
    times = medians(contenders, rounds=config.rounds, seconds=config.seconds, clock=clock)
    memory = {name: extra_memory(run, config.device) for name, run in contenders.items()}
    first = next(iter(contenders))
    return {
        "measure": measure,
        "case": case,
        "milliseconds": {name: 1000 * time / units for name, time in times.items()},
        "ratios": {f"{name} / {first}": time / times[first] for name, time in times.items() if name != first},
        "mebibytes": {name: size / 2**20 for name, size in memory.items() if size is not None},
    }
