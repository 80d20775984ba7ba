"""The operators: deformable convolution and RoI pooling, and what belongs to them. Plain torch everywhere, compiled
where possible."""

from seg.ops.confusion import confusion_counts
from seg.ops.deform_conv import DeformConv2d, deform_conv2d
from seg.ops.dispatch import backend, cuda_path
from seg.ops.geometry import sampling_positions
from seg.ops.roi_geometry import bin_boxes
from seg.ops.roi_layers import DeformPSRoIPool, DeformRoIPool
from seg.ops.roi_pool import deform_ps_roi_pool, deform_roi_pool, ps_roi_pool

__all__ = [
    "DeformConv2d",
    "DeformPSRoIPool",
    "DeformRoIPool",
    "backend",
    "bin_boxes",
    "confusion_counts",
    "cuda_path",
    "deform_conv2d",
    "deform_ps_roi_pool",
    "deform_roi_pool",
    "ps_roi_pool",
    "sampling_positions",
]
