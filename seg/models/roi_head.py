"""Classification of the object in a box: a trunk, a pooling of its map in the box, and a small classifier.

The pooling is an argument, called as pool(channels, spatial_scale=...); nothing here asks which one it is.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from seg.models.conv import check_whole, he_normal_
from seg.ops import DeformRoIPool, deform_roi_pool
from seg.ops.geometry import Pair, pair


class Boxed(Protocol):
    """Images [N, 3, H, W] and boxes [R, 5], (image, x1, y1, x2, y2) in their px."""

    @property
    def image(self) -> Tensor: ...

    @property
    def rois(self) -> Tensor: ...


class RoIPool(nn.Module):
    """RoI average pooling: the baseline of `DeformRoIPool`; arguments as of `deform_roi_pool`."""

    def __init__(
        self,
        channels: int,
        output_size: int | Pair = 7,
        *,
        spatial_scale: float = 1 / 16,
        sampling_ratio: int = 0,
        mode: str = "paper",
    ) -> None:
        super().__init__()
        self.output_size, self.spatial_scale = pair(output_size, "output_size"), spatial_scale
        self.sampling_ratio, self.mode = sampling_ratio, mode

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        """The pooled boxes [R, channels, rows, columns]."""
        return deform_roi_pool(
            input, rois, None, self.output_size, self.spatial_scale, self.sampling_ratio, mode=self.mode
        )


class RoIClassifier(nn.Module):
    """Class logits [R, classes] of the objects in boxes.

    trunk:  image -> [N, trunk.channels, h, w], a cell for every trunk.stride px
    pool:   called as pool(channels, spatial_scale=1 / trunk.stride); default `DeformRoIPool`
    width:  channels that are pooled, after a 1x1 convolution; 256 in arXiv:1703.06211
    hidden: width of the fully connected layer between pooling and classes
    """

    def __init__(
        self,
        trunk: nn.Module,
        classes: int,
        *,
        pool: Callable[..., nn.Module] = DeformRoIPool,
        width: int = 256,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        for key, value in (("classes", classes), ("width", width), ("hidden", hidden)):
            check_whole(key, value, 1)
        self.trunk = trunk
        self.reduce = nn.Conv2d(trunk.channels, width, 1)  # type: ignore[arg-type]
        he_normal_(self.reduce.weight)
        self.pool = pool(width, spatial_scale=1 / trunk.stride)  # type: ignore[operator]
        rows, columns = self.pool.output_size  # type: ignore[misc]
        self.fc = nn.Linear(width * rows * columns, hidden)  # type: ignore[operator]
        self.score = nn.Linear(hidden, classes)

    def forward(self, boxed: Boxed) -> Tensor:
        features = F.relu(self.reduce(self.trunk(boxed.image)))
        return self.score(F.relu(self.fc(self.pool(features, boxed.rois).flatten(1)))).float()
