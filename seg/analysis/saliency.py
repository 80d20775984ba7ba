"""The part of an image that is enough for a unit: outside it the image can be blanked and the unit hardly changes.

The idea is that of arXiv:1811.11168, section 2.1 (error-bounded saliency region). How it is found is our own choice:
first the smallest sufficient rectangle around the unit, then square blocks are taken away, least influential first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg.analysis.receptive_field import node_features
from seg.errors import ConfigError


@dataclass(frozen=True)
class Saliency:
    """A region that suffices.

    mask:      bool [H, W]; rectangle: (top, left, bottom, right) in pixels, from which it was cut
    error:     1 - cosine of the unit's features on the blanked and on the whole image
    """

    mask: Tensor
    rectangle: tuple[int, int, int, int]
    error: float


def saliency_region(
    model: nn.Module,
    image: Tensor,
    cell: Sequence[int],
    *,
    centre: Sequence[float],
    node: str = "trunk",
    bound: float = 0.1,
    block: int = 16,
) -> Saliency:
    """The region of `image` [1, 3, H, W] that keeps the features of one unit within an error bound.

    cell:   (y, x) in the output of `node`; centre: the unit's (y, x) in pixels of the image
    bound:  on 1 - cosine of the unit's features; block: side in pixels of what is taken away at a time
    Blanked pixels are 0, the mean of normalised images. No single block of the region can go within the bound.
    raises: ValueError unless 0 < bound < 1 and block >= 1
    """
    if not 0 < bound < 1 or block < 1:
        raise ConfigError(f"bound is {bound} and block {block}; expected a bound between 0 and 1, and 1 px or more")
    search = _Search(model, image, cell, node, bound, block)
    rectangle = search.rectangle([int(at) // block for at in centre])
    kept = search.blocks_in(rectangle)
    kept = search.take_away_singly(search.take_away_in_runs(kept, search.least_influential_first(kept)))
    top, left, bottom, right = (side * block for side in rectangle)
    h, w = image.shape[-2:]
    return Saliency(search.pixels(kept)[0, 0].bool(), (top, left, min(bottom, h), min(right, w)), search.error(kept))


class _Search:
    """The blocks of one image and what blanking them does to one unit; a region is bool [rows, columns] of blocks."""

    def __init__(
        self, model: nn.Module, image: Tensor, cell: Sequence[int], node: str, bound: float, block: int
    ) -> None:
        self.model, self.image, self.cell, self.node = model, image, cell, node
        self.bound, self.block = bound, block
        self.rows, self.columns = (-(-side // block) for side in image.shape[-2:])
        with torch.no_grad():
            self.whole = node_features(model, image, node, cell)

    def pixels(self, region: Tensor) -> Tensor:
        """The region as a factor for the image, [1, 1, H, W]."""
        h, w = self.image.shape[-2:]
        grown = region.repeat_interleave(self.block, 0)[:h].repeat_interleave(self.block, 1)[:, :w]
        return grown.to(self.image)[None, None]

    def loss(self, factor: Tensor) -> Tensor:
        """1 - cosine of the unit's features on the image times the factor and on the whole image."""
        features = node_features(self.model, self.image * factor, self.node, self.cell)
        return 1 - F.cosine_similarity(features, self.whole)[0]

    @torch.no_grad()
    def error(self, region: Tensor) -> float:
        return float(self.loss(self.pixels(region)))

    def blocks_in(self, sides: Sequence[int]) -> Tensor:
        region = torch.zeros(self.rows, self.columns, dtype=torch.bool, device=self.image.device)
        region[sides[0] : sides[2], sides[1] : sides[3]] = True
        return region

    def rectangle(self, centre: Sequence[int]) -> tuple[int, int, int, int]:
        """The smallest square of blocks around the centre that suffices, its sides then drawn in where they can be."""
        sides = [0, 0, self.rows, self.columns]
        for reach in range(max(self.rows, self.columns)):
            low = [max(at - reach, 0) for at in centre]
            high = [min(at + reach + 1, most) for at, most in zip(centre, (self.rows, self.columns), strict=True)]
            if self.error(self.blocks_in([*low, *high])) < self.bound:
                sides = [*low, *high]
                break
        for side, step in ((0, 1), (1, 1), (2, -1), (3, -1)):
            while True:
                closer = [at + step * (i == side) for i, at in enumerate(sides)]
                if closer[0] >= closer[2] or closer[1] >= closer[3] or self.error(self.blocks_in(closer)) >= self.bound:
                    break
                sides = closer
        return sides[0], sides[1], sides[2], sides[3]

    def least_influential_first(self, region: Tensor) -> list[int]:
        """The region's blocks, as numbers, by the size of the loss's gradient with respect to keeping them."""
        factor = self.pixels(region).requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.loss(factor), factor)
        blocks = F.avg_pool2d(gradient, self.block, ceil_mode=True).abs().flatten()
        return [k for k in blocks.argsort().tolist() if region.flatten()[k]]

    def without(self, region: Tensor, blocks: Sequence[int]) -> Tensor:
        less = region.clone()
        less.view(-1)[list(blocks)] = False
        return less

    def take_away_in_runs(self, region: Tensor, order: Sequence[int]) -> Tensor:
        """The region without blocks that can go; runs of the order are tried at once, and halved where they cannot."""
        start, run = 0, max(1, len(order) // 4)
        while start < len(order):
            less = self.without(region, order[start : start + run])
            if self.error(less) < self.bound:
                region, start = less, start + run
            elif run > 1:
                run //= 2
            else:
                start += 1
        return region

    def take_away_singly(self, region: Tensor) -> Tensor:
        """The region after passes over its single blocks, until none of them can go."""
        shrunk = True
        while shrunk:
            shrunk = False
            for block in self.least_influential_first(region):
                less = self.without(region, [block])
                if self.error(less) < self.bound:
                    region, shrunk = less, True
        return region
