"""From a net to the scores of every pixel: at one scale or several, mirrored too, whole or window by window."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg.data.sample import Batch
from seg.engine.runtime import Runtime
from seg.errors import ConfigError, RunError


class Inference:
    """How a trained net is asked for the class of each pixel.

    scales: factors on the image that the net is given; the class probabilities of all of them are averaged
    flip:   average the probabilities of the mirror image too, where the classes of the batch's flip_pairs have changed
            places
    window: (height, width) in px of the image at its scale; larger images are read window by window, and where windows
            overlap their probabilities are averaged. None reads the whole image at once
    stride: (down, right) between windows in px; None is two thirds of the window
    output_stride: px between the net's cells, finer than it was trained with (`DeepLab.finer`); None leaves it as it is
    raises: ConfigError for a value out of range
    source: scales and flip as commonly reported beside single-scale numbers; the papers' own are plain
    """

    def __init__(
        self,
        *,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        window: tuple[int, int] | None = None,
        stride: tuple[int, int] | None = None,
        output_stride: int | None = None,
    ) -> None:
        if not scales or min(scales) <= 0:
            raise ConfigError(f"inference.scales is {list(scales)}; expected one positive factor or more, e.g. [1.0]")
        if stride is not None and window is None:
            raise ConfigError(f"inference.stride is {list(stride)} without a window; give inference.window=[513,513]")
        self.scales, self.flip, self.output_stride = tuple(scales), flip, output_stride
        self._finer: tuple[nn.Module, nn.Module] | None = None  # the last net given, and what it became
        self.window = None if window is None else _pair("window", window)
        self.stride = self.window and _pair("stride", stride or [max(1, 2 * side // 3) for side in self.window])
        if self.window and self.stride and any(s > w for s, w in zip(self.stride, self.window, strict=True)):
            raise ConfigError(
                f"inference.stride is {list(self.stride)}, the window {list(self.window)}: that leaves gaps"
            )

    @property
    def once(self) -> bool:
        """Whether the whole image is read once, as it is."""
        return self.scales == (1.0,) and not self.flip and self.window is None

    @property
    def plain(self) -> bool:
        """Whether the whole image is read once, as it is, by the net as it was trained."""
        return self.once and self.output_stride is None

    def net(self, model: nn.Module) -> nn.Module:
        """The net that reads the images in place of `model`: itself, or with finer cells and the same weights."""
        if self.output_stride is None:
            return model
        if self._finer is None or self._finer[0] is not model:
            self._finer = model, model.finer(self.output_stride).eval()  # type: ignore[operator]
        return self._finer[1]

    def scores(self, model: nn.Module, batch: Batch, runtime: Runtime) -> Tensor:
        """float32 [N, C, H, W] at the label's resolution, whose arg max is the prediction.

        Logits where the image is read once, as it is; the mean of the probabilities otherwise.
        """
        model = self.net(model)
        if self.once:
            return forward(model, batch, runtime)
        image, shape = runtime.image(batch.image), batch.label.shape[-2:]
        total = torch.zeros(())
        for scale in self.scales:
            scaled = image if scale == 1 else F.interpolate(image, _scaled(image, scale), mode="bilinear")
            for mirrored in (False, True) if self.flip else (False,):
                given = scaled.flip(-1) if mirrored else scaled
                found = self._windows(lambda part: logits(model, part, runtime, batch.names), given)
                found = resize(mirror(found, batch.flip_pairs) if mirrored else found, shape)
                total = found + total.to(found.device)
        return total / (len(self.scales) * (1 + self.flip))

    def _windows(self, net: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        """Probabilities [N, C, h, w] of an image, the mean over the windows that hold a pixel."""
        if self.window is None or self.stride is None:
            return net(image).softmax(1)
        total, count = torch.zeros(()), image.new_zeros(image.shape[-2:])
        for rows in _spans(image.shape[-2], self.window[0], self.stride[0]):
            for columns in _spans(image.shape[-1], self.window[1], self.stride[1]):
                found = net(image[..., rows, columns]).softmax(1)
                if total.ndim == 0:
                    total = found.new_zeros(*found.shape[:2], *image.shape[-2:])
                total[..., rows, columns] += found
                count[rows, columns] += 1
        return total / count

    def __str__(self) -> str:
        scales = "single scale" if self.scales == (1.0,) else f"scales {', '.join(f'{s:g}' for s in self.scales)}"
        text = f"{scales}, {'with the mirror image' if self.flip else 'no flip'}"
        if self.window is not None and self.stride is not None:
            text += f", windows of {self.window[0]}x{self.window[1]} px every {self.stride[0]}x{self.stride[1]} px"
        if not self.once:
            text += ", mean of the probabilities"
        return text if self.output_stride is None else text + f", evaluated at output stride {self.output_stride}"


def mirror(scores: Tensor, flip_pairs: Sequence[tuple[int, int]]) -> Tensor:
    """Scores [N, C, H, W] of the mirror image; the classes of a pair change places.

    raises: ValueError for a pair that is not of two of the C classes
    """
    order = list(range(scores.shape[1]))
    for left, right in flip_pairs:
        if not (0 <= left < len(order) and 0 <= right < len(order)):
            raise ValueError(f"flip_pairs has ({left}, {right}), the scores are of {len(order)} classes")
        order[left], order[right] = right, left
    return scores.flip(-1)[:, order]


def forward(model: nn.Module, batch: Batch, runtime: Runtime) -> Tensor:
    """float32 logits [N, C, H, W] at the label's resolution."""
    found = resize(logits(model, runtime.image(batch.image), runtime, batch.names), batch.label.shape[-2:])
    if runtime.device.type == "cuda":
        torch.cuda.synchronize(runtime.device)
    return found


def logits(model: nn.Module, image: Tensor, runtime: Runtime, names: Sequence[str]) -> Tensor:
    """float32 logits [N, C, h, w] of images on their device; raises RunError naming those that are not finite."""
    with runtime.autocast():
        found: Tensor = model(image).float()
    if not torch.isfinite(found).all():
        bad = [name for name, one in zip(names, found, strict=True) if not torch.isfinite(one).all()]
        raise RunError(f"the logits of {', '.join(bad)} are not finite; has the training diverged?")
    return found


def resize(scores: Tensor, shape: Sequence[int]) -> Tensor:
    """Scores [N, C, h, w] at another resolution, bilinear."""
    if scores.shape[-2:] == tuple(shape):
        return scores
    return F.interpolate(scores, tuple(shape), mode="bilinear", align_corners=False)


def _scaled(image: Tensor, scale: float) -> tuple[int, int]:
    height, width = image.shape[-2:]
    return max(1, round(height * scale)), max(1, round(width * scale))


def _spans(length: int, window: int, stride: int) -> Iterator[slice]:
    """Windows that cover a length; the last one ends with it, and a length below the window is one alone."""
    last = max(0, length - window)
    for start in [*range(0, last, stride), last]:
        yield slice(start, min(start + window, length))


def _pair(key: str, value: Sequence[int]) -> tuple[int, int]:
    if len(value) != 2 or min(value) < 1:
        raise ConfigError(f"inference.{key} is {list(value)}; expected height and width in px")
    return int(value[0]), int(value[1])
