"""Pixel counts of truth against prediction, the kernel of every segmentation metric."""

import torch
from torch import Tensor

from seg.ops import dispatch

KINDS = (torch.uint8, torch.int64)  # that the compiled kernel reads; others are converted


def confusion_counts(prediction: Tensor, label: Tensor, classes: int, ignore: int) -> Tensor:
    """int64 [classes, classes + 1]: rows are the truth, columns the prediction, the last one what is no class.

    prediction, label: whole numbers of the same shape; pixels whose label is `ignore` are not counted
    raises: ValueError for different shapes or devices, fractions, and labels that are neither a class nor `ignore`
    """
    check_pair(prediction, label)
    compiled = dispatch.kernels(label.device.type)
    if compiled is None:
        return reference_counts(prediction, label, classes, ignore)
    if not (prediction.dtype == label.dtype and label.dtype in KINDS):
        prediction, label = prediction.long(), label.long()
    try:
        return compiled.confusion.default(label.contiguous(), prediction.contiguous(), classes, ignore)
    except RuntimeError:
        reference_counts(prediction, label, classes, ignore)  # finds a label that is no class, and says which
        raise


def reference_counts(prediction: Tensor, label: Tensor, classes: int, ignore: int) -> Tensor:
    """The counts by a masked bincount."""
    counted = label != ignore
    truth, predicted = label[counted].long(), prediction[counted].long()
    wrong = truth[(truth < 0) | (truth >= classes)].unique().tolist()
    if wrong:
        raise ValueError(f"the label has the values {wrong[:10]}, which are neither 0 to {classes - 1} nor {ignore}")
    column = torch.where((predicted >= 0) & (predicted < classes), predicted, classes)
    counts = torch.bincount(truth * (classes + 1) + column, minlength=classes * (classes + 1))
    return counts.view(classes, classes + 1)


def check_pair(prediction: Tensor, label: Tensor) -> None:
    """Shapes, devices and dtypes of what is compared; raises ValueError."""
    if prediction.shape != label.shape:
        raise ValueError(
            f"prediction is {list(prediction.shape)} but label is {list(label.shape)}; resize the prediction"
        )
    if prediction.device != label.device:
        raise ValueError(
            f"prediction is on {prediction.device} but label is on {label.device}; move them to one device"
        )
    for name, tensor in (("prediction", prediction), ("label", label)):
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"{name} is {tensor.dtype} but has to hold whole numbers; take the argmax of logits first")
