"""What decides the offsets: nothing but the training, the position in the image, or the image's content."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from seg.analysis.offsets import Recorded
from seg.errors import ConfigError


class Variation:
    """Offsets over images of one size, taken apart into what is constant, what follows position, and the rest.

    A channel's offset is constant + f(position) + g(image, position), where f and g have mean zero over positions and
    over images. The shares are those of the mean square: a layer of learned but fixed taps is all constant, one that
    only reacts to the border is position, one that reacts to what is there is content. What position explains of few
    images by chance is taken off (the estimate of a one-way analysis of variance).
    """

    def __init__(self) -> None:
        self.sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def add(self, recorded: Mapping[str, Recorded]) -> None:
        """Adds the offsets of a forward pass; raises ValueError for a map of another size than the first one's."""
        for name, layer in recorded.items():
            offset = layer.offset.double().cpu()
            count, total, squares = self.sums.get(name, (0, torch.zeros(()), torch.zeros(())))
            if count and total.shape != offset.shape[1:]:
                raise ValueError(
                    f"{name} has a map of {list(offset.shape[-2:])} cells after {list(total.shape[-2:])}; "
                    "position can only be told apart on images of one size"
                )
            self.sums[name] = (count + len(offset), total + offset.sum(0), squares + (offset**2).sum(0))

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer: images, root mean square of the offsets in cells, and the three shares.

        The shares are None for fewer than two images, or where all offsets are zero.
        """
        return [{"layer": name, **_taken_apart(*sums)} for name, sums in self.sums.items()]


def _taken_apart(images: int, total: Tensor, squares: Tensor) -> dict[str, Any]:
    mean = total / images  # [channels, h, w]
    constant = mean.mean((1, 2))
    content = ((squares - images * mean**2).clamp(min=0) / max(images - 1, 1)).mean()
    position = (((mean - constant[:, None, None]) ** 2).mean() - content / images).clamp(min=0)
    parts = {"constant": (constant**2).mean(), "position": position, "content": content}
    whole = sum(parts.values())
    shares = {name: float(part / whole) if images > 1 and whole > 0 else None for name, part in parts.items()}
    return {"images": images, "rms": float((squares / images).mean().sqrt()), **shares}


class Following:
    """Whether offsets move with the image: an image is cut twice, `shift` px apart down and right.

    follows: correlation of the offsets at the same content, 1 if they move with it
    stays:   correlation of the offsets at the same place in both cuts, 1 if content does not matter
    Each channel is taken about its own mean; borders, where the cuts see different surroundings, are counted too.
    """

    def __init__(self, shift: int) -> None:
        if shift < 1:
            raise ConfigError(f"shift is {shift} px; expected at least 1")
        self.shift = shift
        self.sums: dict[str, tuple[int, Tensor]] = {}

    def cuts(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The two cuts [N, C, H - shift, W - shift] of images [N, C, H, W]."""
        shift = self.shift
        if min(image.shape[-2:]) <= shift:
            raise ConfigError(f"shift is {shift} px; expected less than the image's {list(image.shape[-2:])}")
        return image[..., :-shift, :-shift], image[..., shift:, shift:]

    def add(self, first: Mapping[str, Recorded], second: Mapping[str, Recorded]) -> None:
        """Adds what was recorded of the two cuts; raises ConfigError where the shift is no whole number of cells."""
        for name in first:
            cell = first[name].located().stride * first[name].stride[0]
            if self.shift % cell:
                raise ConfigError(f"shift is {self.shift} px; expected a multiple of {cell}, the cells of {name}")
            k = self.shift // cell
            a, b = (layers[name].offset.double().cpu() for layers in (first, second))
            there, same, moved = a[..., :-k, :-k], a[..., k:, k:], b[..., :-k, :-k]
            products = [there, same, moved, there**2, same**2, moved**2, there * moved, same * moved]
            sums = torch.stack([value.sum((0, 2, 3)) for value in products])
            count, before = self.sums.get(name, (0, torch.zeros_like(sums)))
            self.sums[name] = (count + there[:, 0].numel(), before + sums)

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer; None where the offsets do not vary."""
        return [{"layer": name, **_correlations(*sums)} for name, sums in self.sums.items()]


def _correlations(count: int, sums: Tensor) -> dict[str, float | None]:
    there, same, moved, there2, same2, moved2, there_moved, same_moved = sums / count

    def correlation(a: Tensor, a2: Tensor, product: Tensor) -> float | None:
        variances = (a2 - a**2).sum() * (moved2 - moved**2).sum()
        return float((product - a * moved).sum() / variances.sqrt()) if variances > 0 else None

    return {"follows": correlation(same, same2, same_moved), "stays": correlation(there, there2, there_moved)}
