"""A walk over a whole data set before an hour of training depends on it: what is in it, and every bad file."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from seg.data.images import encoding
from seg.data.object_size import box_size, boxes
from seg.data.sample import IGNORE, Dataset, Sample
from seg.errors import DataError
from seg.sizes import SIZES, size_class

Progress = Callable[[int], object]  # called with the number of images done


@dataclass
class Report:
    """What check found.

    encodings:     "image: JPEG RGB", "label: PNG palette" -> number of files
    shapes:        (height, width) of the labels -> number of images
    pixels:        by class id, int64 [C]
    ignored:       number of ignored pixels
    images_with:   by class id, number of images that have the class
    objects:       size class -> number of objects, by their boxes
    problems:      one line for each file that can't be used, naming the file and what is wrong
    """

    name: str
    split: str
    images: int
    classes: tuple[str, ...]
    object_source: str
    thresholds: tuple[float, float]
    pixels: np.ndarray
    images_with: np.ndarray
    ignored: int = 0
    encodings: Counter[str] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    objects: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every file can be used."""
        return not self.problems

    def add(self, sample: Sample) -> None:
        """Counts one sample."""
        counts = np.bincount(sample.label.ravel(), minlength=256)
        self.pixels += counts[: len(self.classes)]
        self.images_with += counts[: len(self.classes)] > 0
        self.ignored += int(counts[IGNORE])
        self.shapes[(sample.label.shape[0], sample.label.shape[1])] += 1
        if sample.objects is not None:
            sizes = np.array([box_size(box) for box in boxes(sample.objects).values()], dtype=np.float32)
            self.objects.update(SIZES[number] for number in size_class(sizes, self.thresholds).tolist())

    def __str__(self) -> str:
        """The report as a table, for a terminal."""
        return "\n".join([*self._summary(), "", *self._histogram(), "", *self._verdict()])

    def _summary(self) -> list[str]:
        low, high = self.thresholds
        sizes = ", ".join(f"{self.objects[size]} {size}" for size in SIZES[:3])
        shapes = ", ".join(f"{count} of {w}x{h}" for (h, w), count in self.shapes.most_common(4))
        more = f" and {len(self.shapes) - 4} other sizes" if len(self.shapes) > 4 else ""
        return [
            f"{self.name} {self.split}: {self.images} images, {len(self.classes)} classes",
            *(f"  {kind}: {count} files" for kind, count in sorted(self.encodings.items())),
            f"  sizes: {shapes or 'none'}{more}",
            f"  objects by {self.object_source}: {sizes} (square root of the box's area under {low:g} px, up to "
            f"{high:g} px, above)",
        ]

    def _histogram(self) -> list[str]:
        total = max(int(self.pixels.sum()), 1)
        width = max(len(name) for name in (*self.classes, "ignored"))
        rows = [
            f"  {number:>3}  {name:<{width}}  {self.pixels[number] / total:>8.3%}  {self.images_with[number]:>6} images"
            for number, name in enumerate(self.classes)
        ]
        share = self.ignored / max(total + self.ignored, 1)
        return ["  share of the labelled pixels", *rows, f"       {'ignored':<{width}}  {share:>8.3%} of all pixels"]

    def _verdict(self) -> list[str]:
        if self.ok:
            absent = [name for name, count in zip(self.classes, self.images_with, strict=True) if count == 0]
            note = f"classes that don't occur: {', '.join(absent)}"
            if self.ignored:
                note += (
                    f"; {IGNORE} is not counted: where it stands for a class, as in masks of 0 and 255, write its id"
                )
            return ["no problems", *([note] if absent else [])]
        return [f"{len(self.problems)} problems", *(f"  {problem}" for problem in self.problems)]


def check(dataset: Dataset, *, thresholds: tuple[float, float] = (96, 224), progress: Progress | None = None) -> Report:
    """Reads every sample of a data set and goes on after a bad one.

    thresholds: square roots of areas in px that part small, medium and large objects
    """
    classes = len(dataset.classes)
    report = Report(
        dataset.name,
        dataset.split,
        len(dataset),
        dataset.classes,
        dataset.object_source,
        thresholds,
        pixels=np.zeros(classes, dtype=np.int64),
        images_with=np.zeros(classes, dtype=np.int64),
    )
    report.problems += getattr(dataset, "left_out", list)()
    for index in range(len(dataset)):
        try:
            report.add(dataset[index])
        except DataError as error:
            report.problems.append(str(error))
        _count_encodings(dataset, index, report)
        if progress is not None:
            progress(index + 1)
    return report


def _count_encodings(dataset: Dataset, index: int, report: Report) -> None:
    """Nothing for data sets that aren't made of files."""
    entries = getattr(dataset, "entries", None)
    if entries is None:
        return
    for kind in ("image", "label", "objects"):
        path = getattr(entries[index], kind)
        if path is None:
            continue
        try:
            found = "MATLAB" if path.suffix == ".mat" else encoding(path)
        except DataError:
            found = "unreadable"
        report.encodings[f"{kind}: {found}"] += 1
