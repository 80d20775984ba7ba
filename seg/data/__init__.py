"""Data sets, their samples and the loaders that turn them into batches."""

from seg.data.boxes import BoxLoader
from seg.data.camvid import CamVid
from seg.data.cityscapes import Cityscapes
from seg.data.creatures import Creatures
from seg.data.folder import Folder
from seg.data.loader import evaluate_loader, one_batch, train_loader
from seg.data.sample import IGNORE, Batch, Dataset, Sample
from seg.data.transforms import (
    Normalization,
    caffe_normalization,
    evaluation_transform,
    imagenet_normalization,
    training_transform,
)
from seg.data.voc import VOC
from seg.sizes import SIZES, size_class

__all__ = [
    "IGNORE",
    "SIZES",
    "VOC",
    "Batch",
    "BoxLoader",
    "CamVid",
    "Cityscapes",
    "Creatures",
    "Dataset",
    "Folder",
    "Normalization",
    "Sample",
    "caffe_normalization",
    "evaluate_loader",
    "evaluation_transform",
    "imagenet_normalization",
    "one_batch",
    "size_class",
    "train_loader",
    "training_transform",
]
