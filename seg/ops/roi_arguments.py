"""What a RoI pooling accepts; everything else is a ValueError that names argument, value and expectation."""

from collections.abc import Sequence

import torch
from torch import Tensor

from seg.ops.arguments import FLOATS
from seg.ops.geometry import Pair, position_dtype
from seg.ops.roi_geometry import MOST, Bins, Pooling

MODES = ("paper", "release", "mmcv")


def stacked(rois: Tensor | Sequence[Tensor], input: Tensor) -> Tensor:
    """Boxes [R, 5], (image, x1, y1, x2, y2), of such a tensor or of one tensor [L, 4] for each image.

    raises: ValueError for other shapes
    """
    if not isinstance(rois, Tensor):
        if len(rois) != len(input):
            raise ValueError(f"rois is a list of {len(rois)} tensors but input has {len(input)} images; give one each")
        for n, boxes in enumerate(rois):
            if boxes.dim() != 2 or boxes.shape[1] != 4:
                raise ValueError(f"rois[{n}] is {list(boxes.shape)} but has to be [L, 4], (x1, y1, x2, y2)")
        numbered = [torch.cat((b.new_full((len(b), 1), n), b), dim=1) for n, b in enumerate(rois)]
        rois = torch.cat(numbered) if numbered else input.new_zeros(0, 5, dtype=position_dtype(input))
    if rois.dim() != 2 or rois.shape[1] != 5:
        raise ValueError(f"rois is {list(rois.shape)} but has to be [R, 5], (image, x1, y1, x2, y2) in px")
    return rois


def check_pooling(pooling: Pooling, group_size: Pair) -> None:
    """The options, each by itself; raises ValueError."""
    if pooling.mode not in (*MODES, "cells"):
        raise ValueError(f"mode={pooling.mode!r} is unknown; it has to be one of {', '.join(MODES)}")
    if min(pooling.output_size) < 1:
        raise ValueError(f"output_size={pooling.output_size} has to be at least 1 in rows and in columns")
    if not pooling.spatial_scale > 0:
        raise ValueError(f"spatial_scale={pooling.spatial_scale} has to be above 0: cells per px, 1/16 at stride 16")
    if not 0 <= pooling.sampling_ratio <= MOST:
        raise ValueError(f"sampling_ratio={pooling.sampling_ratio} has to be 0 to {MOST} samples along a bin's side")
    if pooling.sampling_ratio and pooling.mode in ("paper", "cells"):
        raise ValueError(
            f"sampling_ratio={pooling.sampling_ratio} has no meaning where a bin reads all its cells; leave it at 0, "
            "or choose mode='release' or 'mmcv'"
        )
    if any(g < 1 or k % g for g, k in zip(group_size, pooling.output_size, strict=True)):
        raise ValueError(
            f"group_size={group_size} has to divide output_size={pooling.output_size}, rows by rows and columns by "
            "columns; it is 1 or the output's size in all published nets"
        )


def check_tensors(
    input: Tensor, rois: Tensor, offset: Tensor | None, mask: Tensor | None, pooling: Pooling, group_size: Pair
) -> None:
    """Shapes, dtypes and devices against each other; raises ValueError."""
    if input.dim() != 4 or 0 in input.shape[1:]:
        raise ValueError(f"input is {list(input.shape)} but has to be [N, C, H, W] with C, H and W of at least 1")
    if input.dtype not in FLOATS:
        raise ValueError(f"input is {input.dtype}; it has to be one of {', '.join(map(str, FLOATS))}")
    groups = group_size[0] * group_size[1]
    if input.shape[1] % groups:
        raise ValueError(
            f"input has {input.shape[1]} channels, which the {group_size[0]}x{group_size[1]} groups of bins do not "
            "divide; a position-sensitive pooling reads a map of its own for each group"
        )
    for name, tensor in (("rois", rois), ("offset", offset), ("mask", mask)):
        if tensor is None:
            continue
        if tensor.device != input.device:
            raise ValueError(f"{name} is on {tensor.device} but input is on {input.device}; move them to one device")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} is {tensor.dtype} but has to be of floating point; convert it with .to(input)")
    outputs = input.shape[1] // groups
    classes = check_parts("offset", offset, len(rois), 2, outputs)
    of_mask = check_parts("mask", mask, len(rois), 1, outputs)
    if classes and of_mask and classes != of_mask:
        raise ValueError(f"mask has {of_mask} classes but offset has {classes}; give each class of offsets one mask")


def check_parts(name: str, tensor: Tensor | None, boxes: int, each: int, outputs: int) -> int:
    """How many classes of offsets (2 channels each) or masks (1) there are; 0 for None."""
    if tensor is None:
        return 0
    layout = f"[{boxes}, {'2*K' if each == 2 else 'K'}, part rows, part columns]"
    if tensor.dim() != 4 or tensor.shape[0] != boxes or tensor.shape[1] % each or 0 in tensor.shape[1:]:
        raise ValueError(f"{name} is {list(tensor.shape)} but has to be {layout}, for the {boxes} boxes of rois")
    classes = tensor.shape[1] // each
    if outputs % classes:
        raise ValueError(f"{name} is {list(tensor.shape)}: its {classes} classes do not divide the {outputs} outputs")
    return classes


def checked_images(rois: Tensor, count: int, bins: Bins) -> Tensor:
    """The boxes' images, int64 [R], after a look at the boxes' values, for which a GPU has to be waited for.

    raises: ValueError for an image that is not there, a box that is not finite, or more samples than make sense
    """
    image = rois[:, 0]
    if not len(rois) or (rois.is_cuda and torch.cuda.is_current_stream_capturing()):
        return image.long()
    refuse(rois, ~rois.isfinite().all(1), "has a value that is not finite; drop such boxes")
    absent = (image != image.floor()) | (image < 0) | (image >= count)
    refuse(rois, absent, f"belongs to no image: its first value has to be one of the input's, 0 to {count - 1}")
    refuse(
        rois,
        (bins.samples > MOST).flatten(1).any(1),
        f"asks for more than {MOST} samples along a bin; clip boxes to the image, or give sampling_ratio",
    )
    return image.long()


def refuse(rois: Tensor, wrong: Tensor, told: str) -> None:
    """Raises ValueError about the first box that is wrong, if any is."""
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(f"rois[{row}] = {[round(v, 3) for v in rois[row].tolist()]} {told}")
