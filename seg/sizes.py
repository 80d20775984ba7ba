"""The classes of object size that results are told apart by."""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

SIZES = ("small", "medium", "large", "background")


def size_class(size: Tensor | NDArray[Any], thresholds: tuple[float, float] = (96, 224)) -> Tensor:
    """Index into SIZES of each size: int8, -1 where the size is unknown (NaN).

    thresholds: square roots of areas in px; small is below the first, large above the second
    source:     96 and 224 are the paper's as remembered; no source at hand confirms them
    """
    low, high = thresholds
    if not 0 < low <= high:
        raise ValueError(f"thresholds={thresholds}: two positive lengths in px are needed, the smaller one first")
    size = torch.as_tensor(size)
    classes = (size >= low).to(torch.int8) + (size > high)
    return classes.masked_fill_(size == 0, SIZES.index("background")).masked_fill_(size.isnan(), -1)
