"""How large the object is that a pixel belongs to."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg.data.sample import IGNORE

EIGHT_NEIGHBOURS = np.ones((3, 3), dtype=bool)


def boxes(objects: NDArray[np.int32]) -> dict[int, tuple[slice, slice]]:
    """The smallest box around each object: id -> (rows, columns); background and unknown have none."""
    found = ndimage.find_objects(np.maximum(objects, 0))
    return {k: box for k, box in enumerate(found, start=1) if box is not None}


def box_size(box: tuple[slice, slice]) -> float:
    """Square root of a box's area in px."""
    rows, columns = box
    return float(np.sqrt((rows.stop - rows.start) * (columns.stop - columns.start)))


def object_size(objects: NDArray[np.int32], by: str = "object") -> NDArray[np.float32]:
    """Square root of the box area of the object at each pixel, in px.

    objects: int32 [H, W], 0 = no object, k = object k, -1 = unknown
    by:      "object": an object's pixels have its size. "box": all pixels in an object's box have it, the smallest
             box wins where several overlap; a pixel in a box is of known size even if its own object is not
    returns: float32 [H, W]; 0 = background, NaN = unknown
    source:  "box" is the grouping of arXiv:1703.06211, section 4.2 (the choice among overlapping boxes is ours)
    """
    sizes = {k: (box_size(box), box) for k, box in boxes(objects).items()}
    if by == "object":
        return _by_object(objects, {k: size for k, (size, _) in sizes.items()})
    if by == "box":
        return _by_box(objects, sorted(sizes.values(), key=lambda item: -item[0]))
    raise ValueError(f'by={by!r}: object sizes are read by "object" or by "box"')


def _by_object(objects: NDArray[np.int32], sizes: dict[int, float]) -> NDArray[np.float32]:
    table = np.zeros(max(sizes, default=0) + 2, dtype=np.float32)
    table[-1] = np.nan  # index -1, unknown, reads the last entry
    for k, size in sizes.items():
        table[k] = size
    return table[objects]


def _by_box(objects: NDArray[np.int32], largest_first: list[tuple[float, tuple[slice, slice]]]) -> NDArray[np.float32]:
    result = np.where(objects < 0, np.float32(np.nan), np.float32(0))
    for size, box in largest_first:
        result[box] = size
    return result


def connected_components(label: NDArray[np.uint8], things: Sequence[int]) -> NDArray[np.int32]:
    """Objects where none were annotated: the 8-connected components of each class of things.

    label:   uint8 [H, W]
    returns: int32 [H, W], 0 = none of the things, k = component k, -1 where the label is ignored
    """
    objects = np.zeros(label.shape, dtype=np.int32)
    count = 0
    for thing in things:
        components, found = ndimage.label(label == thing, structure=EIGHT_NEIGHBOURS)
        objects += np.where(components > 0, components + count, 0).astype(np.int32)
        count += found
    objects[label == IGNORE] = -1
    return objects
