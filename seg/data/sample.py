"""What a data set gives (Sample), what a model is fed (Batch), and what a data set is (Dataset)."""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE = 255  # label of the pixels that count neither in the loss nor in a metric


@dataclass(frozen=True)
class Sample:
    """One image with its annotation.

    image:      uint8 [h, w, 3], RGB
    label:      uint8 [H, W], class ids, 255 = ignored; (H, W) = (h, w) unless only the image was resized
    objects:    int32 [H, W], 0 = no object, k = object k, -1 = unknown; None where the data have no objects
    flip_pairs: class ids that change places in a mirror image (left and right parts)
    pixel:      side of a label pixel, in px of the image as it was annotated
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    objects: NDArray[np.int32] | None
    name: str
    flip_pairs: tuple[tuple[int, int], ...] = ()
    pixel: float = 1.0


@dataclass(frozen=True)
class Batch:
    """Samples of equal size, ready for a model.

    image: float32 [N, 3, h, w], normalised, channels last in memory
    label: int64 [N, H, W], 255 = ignored; the original resolution in evaluation
    size:  float32 [N, H, W], square root of the area of the pixel's object's box, in px of the image as
           it was annotated in evaluation, in label pixels in training; 0 = background, NaN = unknown
    flip_pairs: class ids that change places in a mirror image
    """

    image: Tensor
    label: Tensor
    size: Tensor
    names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> "Batch":
        """The same batch on another device."""
        image, label, size = (x.to(device, non_blocking=non_blocking) for x in (self.image, self.label, self.size))
        return replace(self, image=image, label=label, size=size)

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; torch's DataLoader calls it by this name."""
        image, label, size = (x.pin_memory() for x in (self.image, self.label, self.size))
        return replace(self, image=image, label=label, size=size)


class Dataset(Protocol):
    """What loaders, evaluation and reports may ask of a data set.

    palette:       uint8 [C, 3], RGB
    object_source: "masks" if objects were annotated, "components" if they are connected components of the label
    flip_pairs:    class ids that change places in a mirror image
    """

    name: str
    split: str
    names: list[str]
    classes: tuple[str, ...]
    palette: NDArray[np.uint8]
    object_source: str
    flip_pairs: tuple[tuple[int, int], ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def classes_of(self, prediction: NDArray[np.uint8]) -> NDArray[np.uint8]: ...

    def other_numbering(self, counts: NDArray[np.int64]) -> str | None: ...

    def without_objects(self) -> "Dataset": ...


# a plain alias: numpy's own type for "anything that makes an array" is too wide to be of use
Array = NDArray[Any]
