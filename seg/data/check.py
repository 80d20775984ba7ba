"""A walk over a whole data set before an hour of training depends on it: what is in it, and every bad file."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from seg.counts import counted
from seg.data.images import encoding
from seg.data.object_size import box_size, boxes
from seg.data.sample import IGNORE, Dataset, Sample
from seg.errors import DataError
from seg.sizes import SIZES, size_class

Progress = Callable[[int], object]  # called with the number of images done
SHOWN = 3  # problems of one kind that are told in full; of more the first is, and the names of the others
LARGE = 0.2  # ignored share of all pixels that is more than borders are
WAY_OUT = (
    f"{IGNORE} is not counted; where it stands for a class, write that class's id: a mask of 0 and 255 has to become "
    "one of 0 and 1"
)


@dataclass
class Report:
    """What check found.

    encodings:     "image: JPEG RGB", "label: PNG palette" -> number of files
    shapes:        (height, width) of the labels -> number of images
    pixels:        by class id, int64 [C]
    ignored:       number of ignored pixels
    images_with:   by class id, number of images that have the class
    objects:       size class -> number of objects, by their boxes
    problems:      a line for each file that can't be used, naming the file and what is wrong, or for labels that
                   nothing can be learnt from -> name of the sample
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
    problems: dict[str, str] = field(default_factory=dict)

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
        more = f" and {counted(len(self.shapes) - 4, 'other size')}" if len(self.shapes) > 4 else ""
        return [
            f"{self.name} {self.split}: {counted(self.images, 'image')}, {counted(len(self.classes), 'class')}",
            *(f"  {kind}: {counted(count, 'file')}" for kind, count in sorted(self.encodings.items())),
            f"  sizes: {shapes or 'none'}{more}",
            f"  objects by {self.object_source}: {sizes} (square root of the box's area under {low:g} px, up to "
            f"{high:g} px, above)",
        ]

    def _histogram(self) -> list[str]:
        total = max(int(self.pixels.sum()), 1)
        width = max(len(name) for name in (*self.classes, "ignored"))
        rows = [
            f"  {number:>3}  {name:<{width}}  {self.pixels[number] / total:>8.3%}  {self.images_with[number]:>6}"
            for number, name in enumerate(self.classes)
        ]
        share = f"{self.ignored_share:>8.3%} of all pixels"
        return [
            "  share of the labelled pixels, and images that have the class",
            *rows,
            f"       {'ignored':<{width}}  {share}",
        ]

    @property
    def ignored_share(self) -> float:
        """Ignored pixels by all pixels."""
        return self.ignored / max(int(self.pixels.sum()) + self.ignored, 1)

    def _present(self, present: bool) -> list[str]:
        return [name for name, count in zip(self.classes, self.images_with, strict=True) if (count > 0) == present]

    def problem_of_labels(self) -> str | None:
        """What is wrong with labels of at most one class beside ignored pixels: nothing can be learnt from them."""
        present = self._present(True)
        if not self.ignored or len(present) > 1:
            return None
        others = f"and all others are {present[0]}" if present else "and there are no others"
        return f"labels: {self.ignored_share:.1%} of the pixels are {IGNORE}, {others}; {WAY_OUT}"

    def _verdict(self) -> list[str]:
        if not self.ok:
            return [counted(len(self.problems), "problem"), *(f"  {line}" for line in self._told())]
        absent = self._present(False)
        if not absent:
            return ["no problems"]
        hint = f" ({self.ignored_share:.0%} are ignored; {WAY_OUT})" if self.ignored_share > LARGE else ""
        return ["no problems", f"classes that don't occur: {', '.join(absent)}{hint}"]

    def _told(self) -> Iterator[str]:
        """The problems by kind: a folder of masks that are all wrong in one way is a few lines."""
        kinds: dict[str, list[str]] = {}
        for text, name in self.problems.items():
            kinds.setdefault(_kind(text, name), []).append(text)
        for texts in kinds.values():
            shown = len(texts) if len(texts) <= SHOWN else 1
            yield from texts[:shown]
            if rest := [self.problems[text] for text in texts[shown:]]:
                yield f"and {len(rest)} more like it: " + (
                    f"all of {self.split}" if len(texts) == self.images else ", ".join(rest)
                )


def _kind(text: str, name: str) -> str:
    """A problem without the sample's name and without numbers: what it shares with others of its kind."""
    numbers = re.compile(r"\d+(,? \d+)*(, \.\.\.)?")
    return numbers.sub("#", text).replace(numbers.sub("#", name), "")


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
    report.problems |= getattr(dataset, "left_out", dict)()
    for index in range(len(dataset)):
        try:
            report.add(dataset[index])
        except DataError as error:
            report.problems[str(error)] = dataset.names[index]
        _count_encodings(dataset, index, report)
        if progress is not None:
            progress(index + 1)
    if problem := report.problem_of_labels():
        report.problems[problem] = dataset.split
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
            found = "unreadable" if path.is_file() else "missing"
        report.encodings[f"{kind}: {found}"] += 1
