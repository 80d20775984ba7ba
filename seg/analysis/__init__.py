"""What a trained net's layers look at: offsets, effective dilation, receptive fields, saliency; and what it costs."""

from seg.analysis.complexity import cost, flops, parameters, peak_memory, seconds_per_image
from seg.analysis.dilation import DilationBySize, effective_dilation
from seg.analysis.offsets import Recorded, offset_statistics, record_offsets
from seg.analysis.sampling import sampling_points, sampling_tree

__all__ = [
    "DilationBySize",
    "Recorded",
    "cost",
    "effective_dilation",
    "flops",
    "offset_statistics",
    "parameters",
    "peak_memory",
    "record_offsets",
    "sampling_points",
    "sampling_tree",
    "seconds_per_image",
]
