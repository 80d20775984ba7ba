"""Effective dilation: how far apart a filter's taps lie, and how that follows the size of the objects it sits on."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from seg.analysis.offsets import Recorded
from seg.errors import RunError
from seg.metrics import Moments
from seg.sizes import SIZES, size_class

# side of the box in px: the cuts of the paper's table 2, as they are commonly given (areas 96 and 224 squared)
THRESHOLDS = (96.0, 224.0)
BIN = 0.25
BINS = 80


def effective_dilation(positions: Tensor) -> Tensor:
    """Mean distance between adjacent taps of each filter.

    positions: [N, G, kh, kw, 2, h, w], (y, x) in cells
    returns:   [N, G, h, w] in cells; equals the dilation when offsets are zero
    raises:    ValueError if kh == kw == 1 (no adjacent taps), or for another number of dimensions
    source:    arXiv:1703.06211, section 4.2; pairs in a row and in a column, 12 for a 3x3 kernel
    """
    if positions.ndim != 7 or positions.shape[4] != 2:
        raise ValueError(f"positions are {list(positions.shape)}; expected [N, G, kh, kw, 2, h, w]")
    kh, kw = positions.shape[2:4]
    if kh == kw == 1:
        raise ValueError("a 1x1 kernel has one tap and no adjacent pair; effective dilation needs a larger kernel")
    # norm over a dimension that is not the last one is a hundred times slower on a CPU
    y, x = positions.unbind(4)
    right = torch.hypot(y[:, :, :, 1:] - y[:, :, :, :-1], x[:, :, :, 1:] - x[:, :, :, :-1])
    down = torch.hypot(y[:, :, 1:] - y[:, :, :-1], x[:, :, 1:] - x[:, :, :-1])
    return (right.sum((2, 3)) + down.sum((2, 3))) / (kh * (kw - 1) + (kh - 1) * kw)


def size_at_cells(layer: Recorded, size: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Object size under the centre of each of a layer's filters.

    size:        [N, H, W] in label pixels, at the label's resolution
    image_shape: (height, width) that the net was given; where it differs from H, W the image was resized
    returns:     [N, h, w]; read at the nearest label pixel, not interpolated
    """
    return read_at(layer.centres(), size, image_shape)


def read_at(centres: tuple[Tensor, Tensor], values: Tensor, image_shape: Sequence[int]) -> Tensor:
    """Values [N, H, W] of label pixels at rows [h] and columns [w] of the net's input, [N, h, w]; the nearest pixel."""
    rows, columns = (
        # pixel centres: a resize maps (y + 0.5) to (y + 0.5) * H / h
        ((2 * centre + 1) * have // (2 * given)).clamp(max=have - 1).to(values.device)
        for centre, have, given in zip(centres, values.shape[-2:], image_shape, strict=True)
    )
    return values[:, rows][:, :, columns]


class DilationBySize:
    """Effective dilation per layer and object size, accumulated over images without keeping them.

    thresholds: small is below the first, large above the second, in the unit of the sizes that are added (px)
    layers:     names, where they are known before the first image (ranks that may see none need the same tensors)

    sums:   float64 [layers, 4, 3]: count, sum, sum of squares; add those of other ranks
    counts: int64 [layers, 4, 80]: histogram with bins of 0.25 cells from 0; the last one has no upper end
    Every offset group counts as a filter of its own.
    raises: ValueError unless 0 < thresholds[0] <= thresholds[1]
    source: arXiv:1703.06211, table 2
    """

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS, layers: Sequence[str] = ()) -> None:
        if len(thresholds) != 2 or not 0 < thresholds[0] <= thresholds[1]:
            raise ValueError(f"thresholds are {list(thresholds)}; expected two rising sizes in px, e.g. 96 and 224")
        self.thresholds = (float(thresholds[0]), float(thresholds[1]))
        self.layers: list[str] = []
        self.moments = Moments(0)
        self.counts = torch.zeros(0, len(SIZES), BINS, dtype=torch.int64)
        self._extend(layers)

    @property
    def sums(self) -> Tensor:
        return self.moments.sums.view(-1, len(SIZES), 3)

    def add(self, recorded: Mapping[str, Recorded], size: Tensor, image_shape: Sequence[int]) -> None:
        """Adds every filter of a forward pass whose object's size is known.

        size:        [N, H, W] in label pixels: side of the object's box (sqrt of its area), 0 background, NaN unknown
        image_shape: (height, width) that the net was given
        raises:      ValueError where a layer's cells are not known in the image, RunError where its effective dilation
                     is not finite
        """
        self._extend([name for name in recorded if name not in self.layers])
        for name, layer in recorded.items():
            group = size_class(size_at_cells(layer, size, image_shape), self.thresholds).long().to(layer.offset.device)
            values = effective_dilation(layer.positions)
            if not values.isfinite().all():
                raise RunError(
                    f"the effective dilation of {name} is not finite: its offsets have exploded; train with a smaller "
                    "optimizer.offset_lr"
                )
            self._count(self.layers.index(name), values, group[:, None].expand_as(values))

    def merge(self, other: "DilationBySize") -> None:
        """Adds what another accumulator saw, matching layers by name."""
        self._extend([name for name in other.layers if name not in self.layers])
        for i, name in enumerate(other.layers):
            self.sums[self.layers.index(name)] += other.sums[i]
            self.counts[self.layers.index(name)] += other.counts[i]

    def rows(self) -> list[dict[str, str | float | int | None]]:
        """One row for each layer and size: mean and standard deviation (None where nothing was counted), count."""
        mean, std, count = (m.tolist() for m in (self.moments.mean(), self.moments.std(), self.moments.count()))
        return [
            {
                "layer": layer,
                "size": size,
                "mean": mean[k] if count[k] else None,
                "std": std[k] if count[k] else None,
                "count": int(count[k]),
            }
            for k, (layer, size) in enumerate((layer, size) for layer in self.layers for size in SIZES)
        ]

    def histograms(self) -> list[dict[str, str | list[float] | list[int]]]:
        """One row for each layer and size: edges of the bins in cells, and how many filters fall into each bin."""
        edges = [BIN * i for i in range(BINS + 1)]
        return [
            {"layer": layer, "size": size, "edges": edges, "counts": self.counts[i, j].tolist()}
            for i, layer in enumerate(self.layers)
            for j, size in enumerate(SIZES)
        ]

    def _extend(self, layers: Sequence[str]) -> None:
        if layers:
            sums = torch.zeros(len(layers) * len(SIZES), 3, dtype=torch.float64)
            self.layers += layers
            self.moments.sums = torch.cat([self.moments.sums, sums])
            self.counts = torch.cat([self.counts, torch.zeros(len(layers), len(SIZES), BINS, dtype=torch.int64)])

    def _count(self, layer: int, values: Tensor, group: Tensor) -> None:
        self.moments.add(values, torch.where(group < 0, group, group + layer * len(SIZES)))
        keep = group >= 0
        bins = (values[keep] / BIN).clamp(max=BINS - 1).long() + BINS * group[keep]
        self.counts[layer] += torch.bincount(bins, minlength=len(SIZES) * BINS).view(len(SIZES), BINS).cpu()
