"""Segmentation nets: the convolutions, the trunks that take them, DeepLab, and loading of trained weights."""

from seg.models.conv import Active, Cells, Deform, Dilated, Modulated, Modulation, Sampling
from seg.models.deeplab import ASPPv2, ASPPv3, DeepLab, FixedDeconv, Head, Interpolate
from seg.models.pretrained import Report, load_weights
from seg.models.resnet import ResNet, resnet18, resnet50, resnet101, tiny
from seg.models.roi_head import RoIClassifier, RoIPool

__all__ = [
    "ASPPv2",
    "ASPPv3",
    "Active",
    "Cells",
    "DeepLab",
    "Deform",
    "Dilated",
    "FixedDeconv",
    "Head",
    "Interpolate",
    "Modulated",
    "Modulation",
    "Report",
    "ResNet",
    "RoIClassifier",
    "RoIPool",
    "Sampling",
    "load_weights",
    "resnet18",
    "resnet50",
    "resnet101",
    "tiny",
]
