"""What the processes of test_ranks.py run: it has to be importable by name in them."""

import atexit
import os
import signal
from pathlib import Path

import torch
from torch import nn

from seg.data.sample import Batch
from seg.engine import Evaluation, RunFolder, Runtime, Schedule, Trainer, evaluate, sgd
from seg.engine.ranks import Ranks, joined

IMAGES = 5


class Parts:
    """Three batches of four images an epoch, of which each rank reads its part; many pixels have no label."""

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks

    def __len__(self) -> int:
        return 3

    def epoch(self, number: int, start: int = 0):
        for index in range(start, 3):
            generator = torch.Generator().manual_seed(100 * number + index)
            image = torch.rand(4, 3, 6, 7, generator=generator, dtype=torch.float64)
            label = (image[:, 0] > 0.5).long()
            label[0, :4] = label[3, 2:] = label[2] = 255
            first = self.ranks.rank * self.ranks.share(4)
            part = slice(first, first + self.ranks.share(4))
            yield Batch(image[part], label[part], torch.zeros(4, 6, 7)[part], tuple("abcd"[part]))


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def net(dropout: float) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(dropout), nn.Conv2d(4, 2, 1)).double()


def normed_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).double()


def train(
    folder: Path, ranks: Ranks, *, iterations: int = 7, dropout: float = 0.0, loader=None, model=None
) -> nn.Module:
    model = model or net(dropout)
    return Trainer(iterations=iterations, accumulate=2, save_every=4, average=0.9, log_every=1).train(
        model,
        loader or Parts(ranks),
        sgd(model, lr=0.1),
        Schedule(7),
        folder=RunFolder(folder, owned=ranks.first),
        runtime=Runtime(device="cpu", precision="fp32"),
        ranks=ranks,
    )


def evaluation_of(ranks: Ranks, struck: int | None = None) -> Evaluation:
    """Of five images; a signal strikes the rank that reads the one of this number."""

    def batches():
        for index in range(ranks.rank, IMAGES, ranks.world):
            if index == struck:
                os.kill(os.getpid(), signal.SIGTERM)
            generator = torch.Generator().manual_seed(index)
            image = torch.rand(1, 3, 6, 7, generator=generator, dtype=torch.float64)
            yield Batch(image, (image[:, 0] > 0.5).long(), 60 * image[:, 1].float(), (str(index),))

    return evaluate(
        net(0.0),
        batches(),
        classes=2,
        thresholds=(20, 40),
        runtime=Runtime(device="cpu", precision="fp32"),
        images=IMAGES,
        ranks=ranks,
    )


def two_ranks(folder: Path) -> None:
    """What one start of two processes has to show: training, resuming, evaluating."""
    with joined(Runtime(device="cpu", precision="fp32")) as ranks:
        results = {"equal": weights(train(folder / "equal", ranks))}
        results["whole"] = weights(train(folder / "whole", ranks, dropout=0.3))
        for stop in (2, 3, 4):
            train(folder / "parts", ranks, dropout=0.3, iterations=stop)
        results["parts"] = weights(train(folder / "parts", ranks, dropout=0.3))
        evaluation = evaluation_of(ranks)
        normed = train(folder / "normed", ranks, model=normed_net())
        statistics = ranks.gather(torch.cat([buffer.flatten() for buffer in normed.buffers()]))
        if ranks.first:
            results["statistics"] = torch.stack(statistics)
            results["counts"] = torch.stack([evaluation.confusion.counts, *[c.counts for c in evaluation.by_size]])
            results["per_image"] = torch.stack(evaluation.per_image)
            torch.save(results | {"names": evaluation.names}, folder / "results.pt")


def evaluation_struck(folder: Path) -> None:
    with joined(Runtime(device="cpu", precision="fp32")) as ranks:
        evaluation_of(ranks, struck=1)


class Struck(Parts):
    """A signal strikes the second rank in its fifth batch."""

    number = signal.SIGKILL

    def epoch(self, number: int, start: int = 0):
        for index, batch in enumerate(super().epoch(number, start), start):
            if self.ranks.rank == 1 and 3 * number + index == 4:
                os.kill(os.getpid(), self.number)
            yield batch


class Hung(Struck):
    number = signal.SIGSTOP


def hung(folder: Path) -> None:
    with joined(Runtime(device="cpu", precision="fp32", timeout=3)) as ranks:
        train(folder, ranks, loader=Hung(ranks))


class Stopped(Struck):
    number = signal.SIGTERM


def struck(folder: Path, loader: type[Parts]) -> None:
    with joined(Runtime(device="cpu", precision="fp32")) as ranks:
        train(folder, ranks, loader=loader(ranks))


def aborting(folder: Path) -> None:
    """Python's finalization would abort this process, as a thread of torch's may."""
    atexit.register(os.abort)
