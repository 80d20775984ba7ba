"""What a trained net's layers look at: offsets, effective dilation, receptive fields, saliency; and what it costs."""

from seg.analysis.bins import record_bins
from seg.analysis.complexity import cost, flops, memory, parameters, seconds_per_image
from seg.analysis.dilation import DilationBySize, effective_dilation
from seg.analysis.objects import object_rows, unit_of_objects
from seg.analysis.offsets import Recorded, offset_statistics, record_offsets
from seg.analysis.receptive_field import (
    effective_receptive_field,
    effective_receptive_fields,
    effective_sampling_locations,
    node_features,
    reach,
    receptive_field,
)
from seg.analysis.saliency import Saliency, saliency_region
from seg.analysis.sampling import sampling_points, sampling_tree

__all__ = [
    "DilationBySize",
    "Recorded",
    "Saliency",
    "cost",
    "effective_dilation",
    "effective_receptive_field",
    "effective_receptive_fields",
    "effective_sampling_locations",
    "flops",
    "memory",
    "node_features",
    "object_rows",
    "offset_statistics",
    "parameters",
    "reach",
    "receptive_field",
    "record_bins",
    "record_offsets",
    "saliency_region",
    "sampling_points",
    "sampling_tree",
    "seconds_per_image",
    "unit_of_objects",
]
