"""What the paper itself reports, shown beside results on its data sets and always under its name.

source: "Deformable Convolutional Networks", arXiv:1703.06211, tables 1, 2 and 3 (ResNet-101)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from seg.report.results import Run
from seg.report.variants import Variant

HEADING = "The paper (arXiv:1703.06211)"
TABLE_2_NET = "R-FCN with 3 deformable layers on VOC 2007 test"

_ATROUS = {2: (69.7, 70.4), 4: (73.1, 71.9), 6: (73.6, 72.7), 8: (73.2, 72.4)}  # table 3
_DEFORMABLE = {1: (73.9, 73.5), 2: (74.8, 74.4), 3: (75.2, 75.2), 6: (74.8, 75.1)}  # table 1
_DATA = {"PASCAL VOC": "DeepLab, VOC 2012 val", "cityscapes": "DeepLab, Cityscapes val"}
_SIZE = {"PASCAL VOC": (21, 1449), "cityscapes": (19, 500)}  # classes, and images in val

_MORE_THAN_ONCE = re.compile("scales [0-9]|with the mirror image|windows of|evaluated at output stride")

# table 2, mean ± std; res5a, b, c are layer4.0, 1, 2 in torchvision's names
TABLE_2 = (
    ("res5a (layer4.0.conv2)", ("2.2 ± 1.2", "2.9 ± 1.3", "4.2 ± 1.6", "3.1 ± 1.1")),
    ("res5b (layer4.1.conv2)", ("2.5 ± 1.3", "3.1 ± 1.5", "5.1 ± 2.5", "3.2 ± 1.2")),
    ("res5c (layer4.2.conv2)", ("5.3 ± 3.3", "5.8 ± 3.5", "8.4 ± 4.5", "6.2 ± 3.0")),
)


def subject(runs: Sequence[Run]) -> str:
    """The paper's data set that the results are of, "" for none: the whole of its val split, with its classes, each
    image read once and whole."""
    results = [run.result for run in runs if run.result]
    name = str(results[0].data["name"])
    whole = (len(results[0].iou), results[0].data.get("images")) == _SIZE.get(name)
    return name if whole and not any(_MORE_THAN_ONCE.search(result.protocol) for result in results) else ""


def column(data: str) -> str | None:
    """The name of the paper's column for a data set, None where the paper has no number for it."""
    return _DATA.get(data)


def miou(data: str, variant: Variant) -> float | None:
    """The paper's mIoU of the net that a variant's label names, None where it has none, or ours is no ResNet-101."""
    trunks = {str(result.config.get("trunk._target_", "resnet101")) for result in variant.results}
    if column(data) is None or not all(trunk.endswith("resnet101") for trunk in trunks):
        return None
    for pattern, values in ((r"dilated (\d+)", _ATROUS), (r"deformable (\d+) layers?", _DEFORMABLE)):
        match = re.fullmatch(pattern, variant.label)
        if match and int(match[1]) in values:
            return values[int(match[1])][list(_DATA).index(data)] / 100
    return None
