"""Creatures: an embedded, procedural data set in which recognising a pixel needs context as large as its object.

Every creature is an ellipse of the same texture. Its class is told by one small coloured head at one end alone, so a
pixel at the tail must fetch the head's colour from as far as the body is long, and bodies are 20 to 140 px long.
On plain ground a background pixel is told by its own colour; on ground of the bodies' texture it has to look as far as
the next outline. The set shows a mechanism; it says nothing about natural images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from seg.data.sample import Array, Sample
from seg.errors import ConfigError

SPLITS = {"train": 1500, "val": 200, "test": 200}
CLASSES = ("background", "red", "green", "blue", "yellow")
PALETTE = np.array([[0, 0, 0], [214, 60, 52], [60, 168, 76], [58, 96, 214], [224, 196, 52]], dtype=np.uint8)
SIZE = 160  # px
HALF_LENGTH = (10.0, 70.0)  # px, log-uniform
ASPECT = (1.3, 3.2)  # length over width
BODIES = (3, 7)
BODY_COLOUR = np.array([150, 118, 92], dtype=np.float32)
BACKGROUND_COLOUR = np.array([112, 112, 112], dtype=np.float32)
OUTLINE_COLOUR = np.array([84, 66, 52], dtype=np.float32)
OUTLINE = 2  # px, its width inside a body
GROUNDS = ("plain", "body")
NOISE = 14.0  # standard deviation of the texture, grey levels
TRIES = 12  # places tried before a body is made shorter
SHORTER = 0.85
HEAD = (2.2, 0.05)  # its radius: px, and share of half the length
RIM = 2  # px kept free around a body, so that bodies never touch


class Body(NamedTuple):
    """An ellipse with a head: centre and half axes in px, angle of the long axis in radians, class id."""

    row: float
    column: float
    half_length: float
    half_width: float
    angle: float
    kind: int


class Creatures:
    """The data set; every image is a function of (seed, split, index) alone and is drawn when first asked for.

    images:      how many; 1500 for training and 200 for validation and test unless given
    size:        height and width in px
    half_length: shortest and longest half length of a body in px; none is longer than 0.45 of the image's side
    ground:      "plain", or "body": the same scenes with the bodies' texture as ground, and an outline around each body
    raises:      ConfigError where an argument is out of range
    """

    classes = CLASSES
    palette = PALETTE
    object_source = "masks"
    flip_pairs: tuple[tuple[int, int], ...] = ()

    def __init__(
        self,
        split: str = "train",
        *,
        images: int | None = None,
        seed: int = 0,
        size: int = SIZE,
        half_length: Sequence[float] = HALF_LENGTH,
        ground: str = "plain",
    ) -> None:
        for key, value, choices in (("split", split, tuple(SPLITS)), ("ground", ground, GROUNDS)):
            if value not in choices:
                raise ConfigError(f"{key}={value!r}: creatures has {', '.join(choices)}")
        self.split = split
        self.images = SPLITS[split] if images is None else images
        self.seed = seed
        self.size = size
        if self.images < 1 or size < 64:
            raise ConfigError(f"images={images}, size={size}: creatures needs at least 1 image of at least 64 px")
        self.half_length = _checked(half_length, size)
        self.ground = ground
        self.name = self._name()
        self.names = [f"{split}_{index:05d}" for index in range(self.images)]
        self._drawn: dict[int, tuple[Array, Array, Array]] = {}

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.images:
            raise IndexError(f"creatures {self.split} has {self.images} images, there is no number {index}")
        if index not in self._drawn:
            self._drawn[index] = self._draw(index)
        image, label, objects = self._drawn[index]
        return Sample(image.copy(), label.copy(), objects.astype(np.int32), self.names[index])

    def classes_of(self, prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Predicted label files hold class ids as they are."""
        return prediction

    def without_objects(self) -> "Creatures":
        """The scenes themselves, which are drawn with their objects."""
        return self

    def other_numbering(self, counts: NDArray[np.int64]) -> str | None:
        """There is one numbering of the classes."""
        return None

    def _name(self) -> str:
        """What results call the set: other scenes than the usual ones are other data."""
        shortest, longest = self.half_length
        unusual = {
            f"{self.size} px": self.size != SIZE,
            f"{2 * shortest:g} to {2 * longest:g} px long": self.half_length != _checked(HALF_LENGTH, self.size),
            f"{self.ground} ground": self.ground != GROUNDS[0],
            f"seed {self.seed}": self.seed != 0,
        }
        return ", ".join(["creatures", *(words for words, is_so in unusual.items() if is_so)])

    def lengths(self, index: int) -> NDArray[np.float64]:
        """Half the length in px of each body of an image; entry k - 1 is object k."""
        return np.array([body.half_length for body in self._place(self._rng(index))[0]])

    def _rng(self, index: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.seed, list(SPLITS).index(self.split), index]))

    def _draw(self, index: int) -> tuple[Array, Array, Array]:
        rng = self._rng(index)
        bodies, objects, heads = self._place(rng)
        kinds = np.array([0] + [body.kind for body in bodies], dtype=np.uint8)
        return _paint(objects, heads, kinds, rng, self.ground), kinds[objects], objects

    def _place(self, rng: np.random.Generator) -> tuple[list[Body], Array, Array]:
        """Bodies side by side, the longest first, since it is the hardest to find a place for."""
        count = rng.integers(BODIES[0], BODIES[1], endpoint=True)
        shortest, longest = self.half_length
        wanted = np.exp(rng.uniform(np.log(shortest), np.log(longest), count))
        objects = np.zeros((self.size, self.size), dtype=np.uint8)
        heads = np.zeros_like(objects)
        bodies: list[Body] = []
        for half_length in np.sort(wanted)[::-1]:
            body = _find_place(float(half_length), shortest, objects, heads, len(bodies) + 1, rng)
            bodies += [] if body is None else [body]
        return bodies, objects, heads


def _checked(half_length: Sequence[float], size: int) -> tuple[float, float]:
    """Shortest and longest half length, the longest such that it fits into an image."""
    if len(half_length) != 2 or not HEAD[0] / (1 - HEAD[1]) < half_length[0] <= min(half_length[1], 0.45 * size):
        raise ConfigError(
            f"half_length={list(half_length)}, size={size}: expected the shortest and the longest half length in px, "
            f"the shortest from 3 to 0.45 of the image's side, which is {0.45 * size:g}"
        )
    return float(half_length[0]), min(float(half_length[1]), 0.45 * size)


def _find_place(
    half_length: float, shortest: float, objects: Array, heads: Array, number: int, rng: np.random.Generator
) -> Body | None:
    """Draws a body where nothing is yet into objects and heads; shorter if there is no room, none if there is none."""
    while half_length >= shortest:
        for _ in range(TRIES):
            body = _random_body(half_length, objects.shape[0], rng)
            if _stamp(body, objects, heads, number):
                return body
        half_length *= SHORTER
    return None


def _random_body(half_length: float, size: int, rng: np.random.Generator) -> Body:
    aspect, angle = rng.uniform(*ASPECT), rng.uniform(0, 2 * np.pi)
    half_width = half_length / aspect
    # half the height and width of the box of the turned ellipse, with a margin for the head
    reach_row = np.hypot(half_length * np.sin(angle), half_width * np.cos(angle)) + 2
    reach_column = np.hypot(half_length * np.cos(angle), half_width * np.sin(angle)) + 2
    row = rng.uniform(reach_row, size - 1 - reach_row)
    column = rng.uniform(reach_column, size - 1 - reach_column)
    return Body(row, column, half_length, half_width, angle, int(rng.integers(1, len(CLASSES))))


def _stamp(body: Body, objects: Array, heads: Array, number: int) -> bool:
    """Draws a body in place if all its pixels, and a rim around them, are free."""
    reach = int(body.half_length) + 4
    top, left = max(int(body.row) - reach, 0), max(int(body.column) - reach, 0)
    window = np.s_[top : int(body.row) + reach + 1, left : int(body.column) + reach + 1]
    rows = np.arange(top, top + objects[window].shape[0], dtype=np.float32)[:, None] - np.float32(body.row)
    columns = np.arange(left, left + objects[window].shape[1], dtype=np.float32) - np.float32(body.column)
    along = rows * np.float32(np.sin(body.angle)) + columns * np.float32(np.cos(body.angle))
    across = rows * np.float32(np.cos(body.angle)) - columns * np.float32(np.sin(body.angle))
    head_radius = HEAD[0] + HEAD[1] * body.half_length
    from_head = (along - (body.half_length - head_radius)) ** 2 + across**2
    head = from_head <= head_radius**2
    rim = (along / (body.half_length + RIM)) ** 2 + (across / (body.half_width + RIM)) ** 2 <= 1
    rim |= from_head <= (head_radius + RIM) ** 2
    if objects[window][rim].any():
        return False
    shape = (along / body.half_length) ** 2 + (across / body.half_width) ** 2 <= 1
    objects[window][shape | head] = number
    heads[window][head] = 1
    return True


def _paint(objects: Array, heads: Array, kinds: Array, rng: np.random.Generator, ground: str) -> NDArray[np.uint8]:
    """RGB uint8 [H, W, 3]: one texture for every body, a colour for every head, noise over everything."""
    body, head = objects > 0, heads > 0
    colours = np.where(body[..., None] | (ground == "body"), BODY_COLOUR, BACKGROUND_COLOUR)
    if ground == "body":
        colours[body & ~ndimage.binary_erosion(body, iterations=OUTLINE)] = OUTLINE_COLOUR
    colours[head] = PALETTE[kinds[objects[head]]]
    noise = rng.standard_normal(colours.shape, dtype=np.float32)
    image: NDArray[np.uint8] = np.clip(colours + NOISE * noise, 0, 255).astype(np.uint8)
    return image
