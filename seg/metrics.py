"""Counts first, ratios last: every metric is a tensor of sums that adds across images, batches and ranks."""

import torch
from torch import Tensor

from seg.errors import DataError
from seg.ops.confusion import confusion_counts

IGNORE = 255


class Confusion:
    """Pixel counts of truth against prediction over a whole data set, and the IoU that follows from them.

    counts: int64 [C, C + 1]; rows are the truth, columns the prediction. The last column counts predictions that are
            none of the classes: they are false negatives of the truth's class, as in the Cityscapes evaluation.
    Pixels whose truth is 255 are not counted. It starts with the counts that are given, or with none.
    """

    def __init__(self, classes: int, counts: Tensor | None = None) -> None:
        if classes < 1:
            raise ValueError(f"classes is {classes}; a confusion matrix needs at least 1 class")
        self.classes = classes
        self.counts = torch.zeros(classes, classes + 1, dtype=torch.int64) if counts is None else counts

    def add(self, prediction: Tensor, label: Tensor) -> Tensor:
        """Count a batch of predicted and true class ids of the same shape; returns this batch's counts."""
        if prediction.shape != label.shape:
            raise ValueError(
                f"prediction is {tuple(prediction.shape)} but the label is {tuple(label.shape)}; "
                "resize the prediction to the label's resolution first"
            )
        counts = confusion_counts(prediction, label, self.classes, IGNORE).cpu()
        self.counts += counts
        return counts

    def iou(self) -> Tensor:
        """float64 [C]: intersection over union of each class, NaN where it is in neither truth nor prediction."""
        return intersection(self.counts) / union(self.counts)

    def mean_iou(self) -> float:
        """Mean IoU over the classes seen in truth or prediction. Raises DataError if no pixel was counted."""
        if not self.counts.any():
            raise DataError("no labelled pixel was counted, so there is no mIoU; is the split empty or all-ignored?")
        return float(self.iou().nanmean())

    def mean_iou_of_truth(self) -> float:
        """Mean IoU over the classes that the truth has; NaN where nothing was counted."""
        return float(self.iou()[self.counts.sum(1) > 0].mean())

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels that are right; NaN where nothing was counted."""
        return float(intersection(self.counts).sum() / self.counts.sum())


def grouped_counts(prediction: Tensor, label: Tensor, group: Tensor, *, classes: int, groups: int) -> Tensor:
    """int64 [groups, C, C + 1]: the confusion of the pixels of each group, all counted in one pass.

    prediction, label: class ids [...], a label of 255 is not counted
    group:             whole numbers [...] from 0; a negative one is a group of its own, the last
    raises:            ValueError as `confusion_counts`
    """
    counted = label != IGNORE
    if ((label < 0) | (label >= classes)).logical_and_(counted).any():
        return confusion_counts(prediction, label, classes, IGNORE)  # which tells of the values
    # the truth of each group has rows of its own; they fit into bytes, which are counted fastest, for up to 51 classes
    ignored, kind = (IGNORE, torch.uint8) if groups * classes <= IGNORE else (-1, torch.int64)
    rows = group.remainder(groups).to(kind).mul_(classes).add_(label.to(kind)).masked_fill_(~counted, ignored)
    if prediction.dtype != kind:  # what is no class must not become one
        prediction = prediction.masked_fill((prediction < 0) | (prediction >= classes), IGNORE)
    wide = confusion_counts(prediction.to(kind), rows, groups * classes, ignored).cpu()
    wide = wide.view(groups, classes, groups * classes + 1)
    return torch.cat([wide[..., :classes], wide[..., classes:].sum(-1, keepdim=True)], dim=-1)


def intersection(counts: Tensor) -> Tensor:
    """float64 [..., C]: pixels of each class that were predicted as it."""
    return counts[..., :-1].diagonal(dim1=-2, dim2=-1).double()


def union(counts: Tensor) -> Tensor:
    """float64 [..., C]: pixels that are of each class, or were predicted as it."""
    return counts.sum(-1).double() + counts[..., :-1].sum(-2).double() - intersection(counts)


class Moments:
    """Mean and standard deviation of values that fall into numbered groups.

    sums: float64 [groups, 3] = count, sum, sum of squares; add those of another rank or image to merge.
    """

    def __init__(self, groups: int) -> None:
        self.sums = torch.zeros(groups, 3, dtype=torch.float64)

    def add(self, values: Tensor, group: Tensor) -> None:
        """Add values [...] to the groups given by group [...]; a negative group leaves its value out."""
        keep = group >= 0
        value, index = values[keep].double(), group[keep].long()
        powers = torch.stack([torch.ones_like(value), value, value * value], dim=1)
        self.sums.index_add_(0, index.cpu(), powers.cpu())

    def count(self) -> Tensor:
        """int64 [groups]"""
        return self.sums[:, 0].long()

    def mean(self) -> Tensor:
        """float64 [groups], NaN for an empty group"""
        return self.sums[:, 1] / self.sums[:, 0]

    def std(self) -> Tensor:
        """float64 [groups]: population standard deviation, NaN for an empty group"""
        return (self.sums[:, 2] / self.sums[:, 0] - self.mean() ** 2).clamp(min=0).sqrt()
