"""Layers around deformable RoI pooling: each with the branch that computes its offsets from the features."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seg.ops.geometry import Pair, pair
from seg.ops.roi_pool import deform_ps_roi_pool, deform_roi_pool, ps_roi_pool


class DeformRoIPool(nn.Module):
    """Pools each box, computes offsets from that by fully connected layers, and pools again with the bins moved.

    channels:       of the map
    hidden:         widths of layers before the one that emits; none in arXiv:1703.06211, (1024, 1024) in 1811.11168
    modulated:      whether a factor for each bin is emitted too (arXiv:1811.11168), mask_scale * sigmoid
    sampling_ratio: as of `deform_roi_pool`, and so are spatial_scale, gamma and mode

    The emitting layer is the child `offset`, which starts at zero: K of x, K of y, then K mask logits
    for K bins. An optimiser's `offset_lr` is a factor for it: 0.01 in arXiv:1703.06211, 1 in 1811.11168.
    """

    def __init__(
        self,
        channels: int,
        output_size: int | Pair = 7,
        *,
        spatial_scale: float = 1 / 16,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
        mode: str = "paper",
        hidden: Sequence[int] = (),
        modulated: bool = False,
        mask_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.output_size, self.spatial_scale, self.gamma = pair(output_size, "output_size"), spatial_scale, gamma
        self.sampling_ratio, self.mode = sampling_ratio, mode
        self.modulated, self.mask_scale = modulated, mask_scale
        bins = self.output_size[0] * self.output_size[1]
        widths = [channels * bins, *hidden]
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.hidden = nn.Sequential(*(part for layer in layers for part in (layer, nn.ReLU())))
        self.offset = nn.Linear(widths[-1], (3 if modulated else 2) * bins)
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.offset.bias)

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """The pooled boxes [R, channels, rows, columns]; arguments as of `deform_roi_pool`."""
        offset, mask = self.read(self.offset(self.hidden(self.pool(input, rois, None, None).flatten(1))))
        return self.pool(input, rois, offset, mask)

    def read(self, emitted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets [R, 2, rows, columns], x first, and mask [R, 1, rows, columns] in what `offset` emitted."""
        maps = emitted.view(len(emitted), 3 if self.modulated else 2, *self.output_size)
        mask = self.mask_scale * maps[:, 2:].sigmoid() if self.modulated else None
        return maps[:, :2], mask

    def pool(
        self, input: Tensor, rois: Tensor | Sequence[Tensor], offset: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The operator with this layer's options."""
        options = (self.output_size, self.spatial_scale, self.sampling_ratio, self.gamma)
        return deform_roi_pool(input, rois, offset, *options, mask=mask, mode=self.mode)


class DeformPSRoIPool(nn.Module):
    """Position-sensitive pooling of score maps whose bins are moved by offsets pooled from maps of their own.

    channels_in:  of the features
    channels_out: outputs of each bin, one score map each for every bin
    classes:      how many sets of offsets there are; they move channels_out / classes outputs each
    modulated, mask_scale: as of `DeformRoIPool`; the rest as of `deform_ps_roi_pool`

    Both kinds of maps are 1x1 convolutions of the features: `score`, and `offset`, which starts at zero and emits
    2*classes (for each class x first, then y), then `classes` mask logits, for each bin.
    source: arXiv:1703.06211, section 2.2 and figure 4
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        output_size: int | Pair = 7,
        *,
        classes: int = 1,
        spatial_scale: float = 1 / 16,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
        mode: str = "paper",
        modulated: bool = False,
        mask_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if classes < 1 or channels_out % classes:
            raise ValueError(f"classes={classes} has to divide channels_out={channels_out}")
        self.output_size, self.spatial_scale, self.gamma = pair(output_size, "output_size"), spatial_scale, gamma
        self.sampling_ratio, self.mode, self.classes = sampling_ratio, mode, classes
        self.modulated, self.mask_scale = modulated, mask_scale
        bins = self.output_size[0] * self.output_size[1]
        self.score = nn.Conv2d(channels_in, channels_out * bins, 1)
        self.offset = nn.Conv2d(channels_in, (3 if modulated else 2) * classes * bins, 1)
        nn.init.normal_(self.score.weight, std=0.01)
        for parameter in (self.score.bias, self.offset.weight, self.offset.bias):
            assert parameter is not None
            nn.init.zeros_(parameter)

    def forward(self, input: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """The pooled boxes [R, channels_out, rows, columns]; arguments as of `deform_ps_roi_pool`."""
        offset, mask = self.read(self.emitted(self.offset(input), rois))
        return deform_ps_roi_pool(self.score(input), rois, offset, *self.options(), mask=mask, mode=self.mode)

    def emitted(self, fields: Tensor, rois: Tensor | Sequence[Tensor]) -> Tensor:
        """What the offset fields say about each bin of each box: their own position-sensitive pooling."""
        if self.mode == "paper":
            return ps_roi_pool(fields, rois, self.output_size, self.spatial_scale)
        return deform_ps_roi_pool(fields, rois, None, *self.options(), mode=self.mode)

    def read(self, emitted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets [R, 2*classes, rows, columns] and mask [R, classes, rows, columns] in what was emitted."""
        offset, logit = torch.tensor_split(emitted, (2 * self.classes,), dim=1)
        return offset, self.mask_scale * logit.sigmoid() if self.modulated else None

    def options(self) -> tuple[Pair, float, int, float]:
        """The operator's options of this layer."""
        return self.output_size, self.spatial_scale, self.sampling_ratio, self.gamma
