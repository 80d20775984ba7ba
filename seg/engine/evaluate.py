"""The evaluation loop: one pass over a split, counting pixels at the labels' own resolution."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from seg.data.sample import Batch
from seg.engine.inference import Inference
from seg.engine.progress import Progress
from seg.engine.ranks import Ranks
from seg.engine.runtime import Runtime, listening
from seg.errors import Preempted
from seg.metrics import Confusion, grouped_counts, intersection, union
from seg.sizes import SIZES, size_class


@dataclass
class Evaluation:
    """Counts of one pass: over the data set, over the pixels of each object size, and of each image.

    counts[k] is the confusion of the pixels whose ground-truth object is of size k (or background), the last that of
    objects of unknown size.
    """

    classes: int
    counts: Tensor = field(init=False)  # int64 [sizes + 1, C, C + 1]
    names: list[str] = field(default_factory=list)
    per_image: list[Tensor] = field(default_factory=list)  # int64 [2, C]: intersection, union
    forward_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.counts = torch.zeros(len(SIZES) + 1, self.classes, self.classes + 1, dtype=torch.int64)

    @property
    def confusion(self) -> Confusion:
        """Of all pixels."""
        return Confusion(self.classes, self.counts.sum(0))

    @property
    def by_size(self) -> list[Confusion]:
        """Of each size: the mean IoU is over the classes that such objects have, the accuracy of their pixels."""
        return [Confusion(self.classes, counts) for counts in self.counts[: len(SIZES)]]

    def add(self, name: str, prediction: Tensor, label: Tensor, size: Tensor, thresholds: tuple[float, float]) -> None:
        """Count one image: prediction and label [H, W], and the object size at each pixel."""
        sizes = size_class(size, thresholds)
        counts = grouped_counts(prediction, label, sizes, classes=self.classes, groups=len(self.counts))
        self.counts += counts
        total = counts.sum(0)
        self.names.append(name)
        self.per_image.append(torch.stack([intersection(total), union(total)]).long())

    def merge(self, parts: Sequence["Evaluation"]) -> None:
        """Take the place of the parts that ranks 0, 1, ... counted, each of which had every world-th image."""
        self.counts = torch.stack([part.counts for part in parts]).sum(0)
        images = [list(zip(part.names, part.per_image, strict=True)) for part in parts]
        in_order = [image for together in zip_longest(*images) for image in together if image is not None]
        self.names, self.per_image = [name for name, _ in in_order], [counts for _, counts in in_order]
        self.forward_seconds = sum(part.forward_seconds for part in parts)

    def scores(self, class_names: tuple[str, ...]) -> dict[str, Any]:
        """The ratios, as they stand in result.json; None where there is nothing to divide by."""
        return {
            "miou": self.confusion.mean_iou(),
            "pixel_accuracy": self.confusion.pixel_accuracy(),
            "iou": dict(zip(class_names, map(_number, self.confusion.iou().tolist()), strict=True)),
            "iou_by_size": {
                size: _number(counts.mean_iou_of_truth()) for size, counts in zip(SIZES, self.by_size, strict=True)
            },
            "accuracy_by_size": {
                size: _number(counts.pixel_accuracy()) for size, counts in zip(SIZES, self.by_size, strict=True)
            },
            "per_image": [
                {"name": name, "intersection": counts[0].tolist(), "union": counts[1].tolist()}
                for name, counts in zip(self.names, self.per_image, strict=True)
            ],
        }


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    classes: int,
    thresholds: tuple[float, float],
    runtime: Runtime,
    images: int,
    after_forward: Callable[[Batch], None] | None = None,
    inference: Inference | None = None,
    keep: Callable[[str, Tensor], None] | None = None,
    ranks: Ranks | None = None,
) -> Evaluation:
    """Run the model over `batches` (of `images` images in all) and count.

    thresholds:    square roots of the box areas that part small, medium and large objects, in label pixels.
    after_forward: called with each batch once the model has run on it, to look at what hooks recorded.
    inference:     how the net is asked; by default the whole image once.
    keep:          called with each image's name and its prediction, uint8 [H, W].
    ranks:         the processes that share the images, of which `batches` are this one's; the first gets all counts.
    raises:        RunError naming the image whose logits are not finite; Preempted when a signal asks to stop.
    """
    result, inference, ranks = Evaluation(classes), inference or Inference(), ranks or Ranks()
    model.eval()
    total = -(-images // ranks.world)
    with listening() as stop, Progress(total, what="evaluating", shown=ranks.first) as progress:
        for batch in batches:
            start = time.perf_counter()
            scores = inference.scores(model, batch, runtime)
            result.forward_seconds += time.perf_counter() - start
            if after_forward is not None:
                after_forward(batch)
            # max is as exact as argmax, and many times faster where the classes are not the last dimension in memory
            prediction = scores.max(1).indices.to("cpu", torch.uint8)
            for index, name in enumerate(batch.names):
                result.add(name, prediction[index], batch.label[index], batch.size[index], thresholds)
                if keep is not None:
                    keep(name, prediction[index])
            progress.update(len(result.names))
            if stop:
                break
        if ranks.any(bool(stop)):
            raise Preempted("stopped by a signal while evaluating; run the same command again")
    parts = ranks.gather(result)
    if ranks.first:
        result.merge(parts)
    return result


def _number(value: float) -> float | None:
    return None if value != value else value
