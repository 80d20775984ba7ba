"""Which cells of the map that a layer reads are read at all, and how often."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from seg.analysis.dilation import read_at
from seg.analysis.offsets import Recorded
from seg.sizes import SIZES, size_class

COUNTS = ("cells", "taps", "no tap nearest", "not read")


def taps_at_cells(layer: Recorded) -> tuple[Tensor, Tensor]:
    """How many taps of all filters are nearest to each cell, and with what weight the cell is read in all.

    returns: int64 [N, rows, columns] and float64 [N, rows, columns] of the map read. A tap's weight is shared among the
             four cells around it as bilinear sampling shares it; what falls outside the map counts nowhere
    """
    # a strided layer reads one row less than its output says where the map's height is odd
    strided = (size * stride for size, stride in zip(layer.offset.shape[-2:], layer.stride, strict=True))
    rows, columns = layer.read or strided
    y, x = layer.positions.double().cpu().movedim(4, 0).flatten(2).unbind(0)  # [N, taps] each
    nearest = _summed((y + 0.5).floor(), (x + 0.5).floor(), torch.ones_like(y), rows, columns).long()
    top, left = y.floor(), x.floor()
    weight = torch.zeros(len(y), rows, columns, dtype=torch.float64)
    for row in (top, top + 1):
        for column in (left, left + 1):
            weight += _summed(row, column, (1 - (y - row).abs()) * (1 - (x - column).abs()), rows, columns)
    return nearest, weight


class Coverage:
    """Cells by layer and by the size of the object they lie on: how many, how many taps, and how many without one.

    counts: int64 [layers, 4, 4]: cells, taps nearest to them, cells to which no tap is nearest (none within half a
            cell along both axes), cells that are not read at all (no tap within one cell)
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = (float(thresholds[0]), float(thresholds[1]))
        self.layers: list[str] = []
        self.counts = torch.zeros(0, len(SIZES), len(COUNTS), dtype=torch.int64)

    def add(self, recorded: Mapping[str, Recorded], size: Tensor, image_shape: Sequence[int]) -> None:
        """Count the cells of a forward pass; size and image_shape as in `DilationBySize.add`."""
        for name, layer in recorded.items():
            if name not in self.layers:
                self.layers.append(name)
                self.counts = torch.cat([self.counts, self.counts.new_zeros(1, len(SIZES), len(COUNTS))])
            nearest, weight = taps_at_cells(layer)
            rows, columns = (layer.located().centres(count) for count in nearest.shape[-2:])
            group = size_class(read_at((rows, columns), size.cpu(), image_shape), self.thresholds).long()
            values = torch.stack([torch.ones_like(nearest), nearest, (nearest == 0).long(), (weight == 0).long()], -1)
            known = group >= 0
            self.counts[self.layers.index(name)].index_add_(0, group[known], values[known])

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer and size, and one for all sizes: counts, taps a cell and shares; None for no cell."""
        found = []
        for i, layer in enumerate(self.layers):
            for size, values in (*zip(SIZES, self.counts[i], strict=True), ("all", self.counts[i].sum(0))):
                cells, taps, unvisited, unread = values.tolist()
                shares = [value / cells if cells else None for value in (taps, unvisited, unread)]
                names = ("taps_per_cell", "share_without_tap", "share_not_read")
                found.append({"layer": layer, "size": size, "cells": cells, **dict(zip(names, shares, strict=True))})
        return found


def _summed(row: Tensor, column: Tensor, values: Tensor, rows: int, columns: int) -> Tensor:
    """float64 [N, rows, columns]: values [N, taps] added up at whole positions; those outside are left out."""
    inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
    index = (row * columns + column).clamp(0, rows * columns - 1).long()
    total = torch.zeros(len(row), rows * columns, dtype=torch.float64)
    return total.scatter_add_(1, index, values * inside).view(-1, rows, columns)
