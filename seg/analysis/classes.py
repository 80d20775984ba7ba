"""Effective dilation of the filters that lie on each class, stuff as well as things."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seg.analysis.dilation import effective_dilation, read_at
from seg.analysis.offsets import Recorded
from seg.metrics import IGNORE, Moments


class DilationByClass:
    """Effective dilation per layer and class, over images. Every offset group counts as a filter of its own.

    classes: their names, by id
    moments: for each layer that was seen, in groups numbered by class id
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.moments: dict[str, Moments] = {}

    def add(self, recorded: Mapping[str, Recorded], label: Tensor, image_shape: Sequence[int]) -> None:
        """Adds every filter of a forward pass under whose centre the class is known.

        label:       [N, H, W] class ids, 255 = ignored, at the label's resolution
        image_shape: (height, width) that the net was given; where it differs from H, W the image was resized
        """
        label = torch.where(label == IGNORE, -1, label.long()).cpu()
        for name, layer in recorded.items():
            values = effective_dilation(layer.positions).cpu()  # [N, G, h, w]
            under = read_at(layer.centres(), label, image_shape)
            moments = self.moments.setdefault(name, Moments(len(self.classes)))
            moments.add(values, under[:, None].expand_as(values))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer and class: mean and standard deviation (None where nothing was counted), count."""
        found = []
        for layer, moments in self.moments.items():
            columns = (moments.mean().tolist(), moments.std().tolist(), moments.count().tolist())
            for kind, mean, std, count in zip(self.classes, *columns, strict=True):
                known = {"mean": mean, "std": std} if count else {"mean": None, "std": None}
                found.append({"layer": layer, "class": kind, **known, "count": count})
        return found
