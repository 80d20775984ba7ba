"""From one sample to another: augmentation for training, resizing for evaluation, normalisation for the model."""

import random
import warnings
from dataclasses import replace
from typing import Protocol

import albumentations as A
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seg.data.sample import IGNORE, Array, Sample
from seg.errors import ConfigError, DataError

PADDING = (124, 116, 104)  # the mean colour of ImageNet, rounded: about zero after either normalisation
TRUTHS = ("original", "resized")
Resize = int | tuple[int, int] | None  # short side, or (short side, longest long side), in px; 0 as None: not at all


class Transform(Protocol):
    """Sample -> Sample; all that is random in it is a function of the seed."""

    def __call__(self, sample: Sample, seed: int = 0) -> Sample: ...


def resized_shape(height: int, width: int, resize: Resize) -> tuple[int, int]:
    """Height and width after scaling the short side to a length, the long side held under a limit if there is one.

    source: SCALES of the released DeepLab: (360, 600) for VOC, (1024, 2048) for Cityscapes
    """
    if not resize:
        return height, width
    short, longest = (resize, None) if isinstance(resize, int) else resize
    scale = short / min(height, width)
    if longest is not None:
        scale = min(scale, longest / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


def resize_image(image: Array, resize: Resize) -> Array:
    """uint8 [H, W, 3] -> uint8 [h, w, 3], bilinear."""
    height, width = resized_shape(image.shape[0], image.shape[1], resize)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


class EvaluationTransform:
    """Resizes the image; see evaluation_transform."""

    def __init__(self, resize: Resize = None, truth: str | None = None) -> None:
        self.resize, truth = _checked_resize(resize), truth or TRUTHS[0]
        if truth not in TRUTHS:
            raise ConfigError(f"truth={truth!r}: one of {', '.join(TRUTHS)} is needed")
        self.truth = truth

    def __call__(self, sample: Sample, seed: int = 0) -> Sample:
        image = resize_image(sample.image, self.resize)
        if self.truth == "original" or image.shape[:2] == sample.label.shape:
            return replace(sample, image=image)
        annotation = cv2.resize(_stack(sample), image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        pixel = float(np.sqrt(sample.label.size / (image.shape[0] * image.shape[1])))
        return replace(_unstack(image, annotation, sample), pixel=sample.pixel * pixel)


class TrainingTransform:
    """Resize, colour, scale and crop by albumentations, then flips and quarter turns; see training_transform."""

    def __init__(self, compose: A.Compose, resize: Resize, flip: bool, rotate90: bool) -> None:
        self.compose = compose
        self.resize = resize
        self.flip = flip
        self.rotate90 = rotate90

    def __call__(self, sample: Sample, seed: int = 0) -> Sample:
        image = resize_image(sample.image, self.resize)
        annotation: Array = _stack(sample)
        height, width = image.shape[:2]
        if annotation.shape[:2] != (height, width):
            annotation = cv2.resize(annotation, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        # seeded for each sample, since albumentations repeats itself in every worker and epoch; one stream for all
        # steps, since set_random_seed gives each step the same one: scale, place and colour would be one draw
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed = self.compose(image=image, mask=annotation)
        rng = np.random.default_rng([seed, 1])
        return self._turn(_unstack(changed["image"], changed["mask"], sample), rng)

    def _turn(self, sample: Sample, rng: np.random.Generator) -> Sample:
        mirrored, turns = rng.random() < 0.5, int(rng.integers(4))
        if self.flip and mirrored:
            sample = mirror(sample)
        if self.rotate90:
            sample = rotate(sample, turns)
        return sample


def training_transform(
    *,
    crop: tuple[int, int] | None = None,
    scale: tuple[float, float] | None = None,
    flip: bool = True,
    rotate90: bool = False,
    resize: Resize = None,
    color: float = 0.0,
) -> TrainingTransform:
    """Augmentation for training, in the order resize, color, scale, crop, flip, rotate90.

    crop:     height and width in px; smaller images lie in its middle, padded with the mean colour, label 255 and
              objects -1
    scale:    range of a random factor on height and width
    flip:     mirror left and right in half of the cases; classes in the sample's flip_pairs change places
    rotate90: 0 to 3 quarter turns; needs square images or a square crop
    resize:   short side in px, or (short side, longest long side)
    color:    largest relative change of brightness, contrast and saturation; a tenth of it for the hue
    raises:   ConfigError for a value out of range
    """
    if scale is not None and not 0 < scale[0] <= scale[1]:
        raise ConfigError(f"scale={tuple(scale)}: two positive factors are needed, the smaller one first")
    if not 0 <= color <= 1:
        raise ConfigError(f"color={color}: a number from 0 to 1 is needed")
    if crop is not None and (len(crop) != 2 or min(crop) < 1):
        raise ConfigError(f"crop={tuple(crop)}: height and width in px are needed")
    if rotate90 and crop is not None and crop[0] != crop[1]:
        raise ConfigError(f"rotate90=true with crop={tuple(crop)}: quarter turns need a square crop")
    return TrainingTransform(_compose(crop, scale, color), _checked_resize(resize), flip, rotate90)


def evaluation_transform(*, resize: Resize = None, truth: str | None = None) -> EvaluationTransform:
    """Resizing for evaluation.

    resize: short side in px, or (short side, longest long side); 0 or None: images stay as they are
    truth:  "original" (or None): label and objects stay as they are, and the prediction is brought to their
            resolution, as in VOC's own protocol; "resized": they are resized with the image, by the nearest pixel, as
            in the released DeepLab's evaluation on VOC. Object sizes are brought back to px of the image as annotated,
            to the rounding of the smaller truth
    raises: ConfigError for a value out of range
    """
    return EvaluationTransform(resize, truth)


def _compose(crop: tuple[int, int] | None, scale: tuple[float, float] | None, color: float) -> A.Compose:
    steps: list[A.BasicTransform] = []
    with warnings.catch_warnings():
        # albumentations only warns of an argument that it doesn't know
        warnings.simplefilter("error", UserWarning)
        if color > 0:
            around = (1 - color, 1 + color)
            hue = (-color / 10, color / 10)
            steps.append(A.ColorJitter(brightness=around, contrast=around, saturation=around, hue=hue, p=1))
        if scale is not None:
            limit = (scale[0] - 1, scale[1] - 1)
            steps.append(A.RandomScale(scale_limit=limit, mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1))
        if crop is not None:
            height, width = crop
            steps.append(A.RandomCrop(height, width, pad_if_needed=True, fill=PADDING, fill_mask=(IGNORE, -1)))
        return A.Compose(steps)


def _stack(sample: Sample) -> NDArray[np.int16] | NDArray[np.float32]:
    """Label and objects as one mask [H, W, 2], so that one padding value each can be given.

    In int16 where the objects' numbers fit, else in float32, which OpenCV resizes as well: a label with much noise
    has more components. raises: DataError above 2^24, where float32 would round
    """
    objects = np.zeros_like(sample.label, dtype=np.int32) if sample.objects is None else sample.objects
    most = objects.max(initial=0)
    if most > 2**24:
        raise DataError(f"{sample.name}: object id {most}; number the objects of an image from 1")
    both = np.stack([sample.label, objects], axis=-1)
    return both.astype(np.int16) if most <= np.iinfo(np.int16).max else both.astype(np.float32)


def _unstack(image: Array, annotation: Array, sample: Sample) -> Sample:
    objects = None if sample.objects is None else annotation[..., 1].astype(np.int32)
    return replace(sample, image=image, label=annotation[..., 0].astype(np.uint8), objects=objects)


def mirror(sample: Sample) -> Sample:
    """The mirror image, left for right; the class ids in flip_pairs change places."""
    swap = np.arange(256, dtype=np.uint8)
    for left, right in sample.flip_pairs:
        swap[left], swap[right] = right, left
    objects = None if sample.objects is None else sample.objects[:, ::-1]
    return replace(sample, image=sample.image[:, ::-1], label=swap[sample.label[:, ::-1]], objects=objects)


def rotate(sample: Sample, turns: int) -> Sample:
    """The sample after quarter turns, counter-clockwise."""
    height, width = sample.label.shape
    if height != width:
        raise DataError(f"{sample.name} is {width}x{height} px: rotate90 needs square images, or a square crop")
    objects = None if sample.objects is None else np.rot90(sample.objects, turns)
    return replace(sample, image=np.rot90(sample.image, turns), label=np.rot90(sample.label, turns), objects=objects)


def _checked_resize(resize: Resize) -> Resize:
    if resize in (None, 0):
        return None
    if isinstance(resize, int):
        sides: tuple[int, ...] = (resize,)
    else:
        sides = resize = (int(resize[0]), int(resize[1])) if len(resize) == 2 else (0, 0)
    if any(side < 1 for side in sides):
        raise ConfigError(f"resize={resize}: a short side in px, or (short side, longest long side), is needed")
    return resize


class Normalization:
    """(value - mean) / std per channel, for uint8 RGB images; mean and std in grey levels."""

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 [..., H, W, 3] -> float32 [..., 3, H, W], channels last in memory."""
        values = (image.float() - torch.tensor(self.mean)) / torch.tensor(self.std)
        return values.movedim(-1, -3)

    def undo(self, image: Tensor) -> Tensor:
        """float [..., 3, H, W] -> uint8 [..., H, W, 3]: the picture again, for figures."""
        values = image.detach().cpu().float().movedim(-3, -1) * torch.tensor(self.std) + torch.tensor(self.mean)
        return values.round().clamp(0, 255).to(torch.uint8)


def imagenet_normalization() -> Normalization:
    """torchvision's: mean and standard deviation of ImageNet."""
    return Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def caffe_normalization() -> Normalization:
    """The released DeepLab's: mean (123.15, 115.90, 103.06) in RGB order, no scaling."""
    return Normalization((123.15, 115.90, 103.06), (1.0, 1.0, 1.0))
