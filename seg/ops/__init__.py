"""The operators: deformable convolution, and what belongs to it. Plain torch everywhere, compiled where possible."""

from seg.ops.confusion import confusion_counts
from seg.ops.deform_conv import DeformConv2d, deform_conv2d
from seg.ops.dispatch import backend, cuda_path
from seg.ops.geometry import sampling_positions

__all__ = ["DeformConv2d", "backend", "confusion_counts", "cuda_path", "deform_conv2d", "sampling_positions"]
