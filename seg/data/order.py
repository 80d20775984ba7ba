"""Which samples make up which batch, on one rank or several."""

from collections.abc import Iterator

import numpy as np

Key = tuple[int, int]  # (epoch, index): a worker needs the epoch to seed the augmentation


class ShuffledBatches:
    """Batches of (epoch, index): a new order every epoch, the last incomplete batch left out.

    The batches of all ranks together are the same for any number of ranks with the same total batch size.
    """

    def __init__(self, images: int, batch_size: int, seed: int, rank: int, world: int) -> None:
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.images // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        order = np.random.default_rng(np.random.SeedSequence([self.seed, epoch])).permutation(self.images)
        for number in range(self.start, len(self)):
            first = (number * self.world + self.rank) * self.batch_size
            yield [(epoch, int(index)) for index in order[first : first + self.batch_size]]


class OrderedBatches:
    """Every image once, in order, split over the ranks without padding; the last batch may be smaller."""

    def __init__(self, images: int, batch_size: int, rank: int, world: int) -> None:
        self.indices = range(rank, images, world)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for first in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[first : first + self.batch_size]]
