"""One row for each object: how far apart the taps of the filters on it lie, and how much of it was labelled right."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seg.analysis.dilation import effective_dilation, size_at_cells
from seg.analysis.offsets import Recorded
from seg.metrics import IGNORE


def dilation_of_objects(
    recorded: Mapping[str, Recorded], objects: Tensor, image_shape: Sequence[int]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean effective dilation of each layer's filters whose centre lies on each object, and how many these are.

    recorded:    of one image
    objects:     int64 [H, W], 0 = no object, k = object k, -1 = unknown
    image_shape: (height, width) that the net was given
    returns:     for each layer float64 [K], in cells, NaN for an object without a filter, and int64 [K];
                 entry k - 1 is object k. Every offset group counts as a filter of its own
    """
    count = int(objects.max().clamp(min=0))
    found = {}
    for name, layer in recorded.items():
        values = effective_dilation(layer.positions)[0].double().cpu()  # [G, h, w]
        under = size_at_cells(layer, objects[None].cpu(), image_shape)[0].expand_as(values)
        on_object = under > 0
        index = under[on_object] - 1
        filters = torch.bincount(index, minlength=count)
        found[name] = (torch.bincount(index, values[on_object], minlength=count) / filters, filters)
    return found


def accuracy_of_objects(prediction: Tensor, label: Tensor, objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class, labelled pixels, and share of them that were predicted right, of each object.

    prediction, label, objects: int64 [H, W]; a label of 255 is not counted
    returns: int64 [K] the commonest true class, int64 [K], float64 [K], NaN for an object without a labelled pixel
    """
    count = int(objects.max().clamp(min=0))
    counted = (objects > 0) & (label != IGNORE)
    index, truth = objects[counted] - 1, label[counted]
    classes = int(truth.max()) + 1 if len(truth) else 1
    kinds = torch.bincount(index * classes + truth, minlength=count * classes).view(count, classes)
    right = torch.bincount(index, (prediction[counted] == truth).double(), minlength=count)
    return kinds.argmax(1) if count else kinds.sum(1), kinds.sum(1), right / kinds.sum(1)


def unit_of_objects(under: Tensor) -> dict[int, tuple[int, int]]:
    """The cell (y, x) on each object that is nearest to the mean of the object's cells; objects without one are out.

    under: int64 [h, w], the object under the centre of each cell: 0 = none, k = object k, -1 = unknown
    """
    found = {}
    for k in under.clamp(min=0).unique().tolist():
        if k:
            cells = (under == k).nonzero()
            distances = (cells - cells.double().mean(0)).norm(dim=1)
            y, x = cells[distances.argmin()].tolist()
            found[k] = (y, x)
    return found


def object_rows(
    name: str,
    recorded: Mapping[str, Recorded],
    prediction: Tensor,
    label: Tensor,
    objects: Tensor,
    size: Tensor,
    image_shape: Sequence[int],
) -> list[dict[str, Any]]:
    """The objects of one image that have a labelled pixel, as rows of plain values.

    label, objects, size, prediction: [H, W]; size is the side of the object's box in px, as in a batch
    returns: image, object, class (its id), size, pixels, accuracy, dilation of each layer (None without a filter)
    """
    dilation = dilation_of_objects(recorded, objects, image_shape)
    kinds, pixels, accuracy = (values.tolist() for values in accuracy_of_objects(prediction, label, objects))
    rows = []
    for k in range(len(kinds)):
        if not pixels[k]:
            continue
        layers = {layer: float(mean[k]) if filters[k] else None for layer, (mean, filters) in dilation.items()}
        rows.append(
            {
                "image": name,
                "object": k + 1,
                "class": kinds[k],
                "size": float(size[objects == k + 1].median()),
                "pixels": pixels[k],
                "accuracy": accuracy[k],
                "dilation": layers,
            }
        )
    return rows
