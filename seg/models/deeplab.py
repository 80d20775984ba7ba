"""DeepLab: a trunk, a head that scores its cells, and a fixed bilinear upsampling to the image's resolution."""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seg.errors import ConfigError
from seg.models.conv import check_whole, dilate


class DeepLab(nn.Module):
    """Class logits of every pixel: image [N, 3, H, W] -> [N, classes, H, W], float32 also under autocast.

    trunk:    image -> [N, trunk.channels, h, w], one cell for every trunk.stride pixels
    head:     called as head(channels_in, classes); default `Head`, the papers' own
    upsample: a module (logits [N, classes, h, w], (H, W)) -> [N, classes, H, W]; default `Interpolate(trunk.stride)`
    raises:   ConfigError (a ValueError) unless there are 2 classes or more
    source:   arXiv:1606.00915, as used in arXiv:1703.06211, section 4.1
    """

    def __init__(
        self,
        trunk: nn.Module,
        classes: int,
        *,
        head: Callable[[int, int], nn.Module] | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_whole("classes", classes, 2)
        self.trunk = trunk
        self.head = (head or Head)(trunk.channels, classes)  # type: ignore[arg-type]
        self.upsample = upsample or Interpolate(trunk.stride)  # type: ignore[arg-type]

    def finer(self, output_stride: int) -> "DeepLab":
        """The same net with a cell for every `output_stride` pixels; its weights are these, not copies.

        Every stride that is taken out multiplies the dilation and the offsets of all that follows. The cells that both
        nets have are equal, but for taps between cells, which read the cells that are there now; the others are those
        of the image shifted. Each is written where training put it. The trunk and `upsample` take part by `refine`.

        raises: ConfigError (a ValueError) unless output_stride is one that the trunk can have, finer than its own
        source: arXiv:1606.00915, section 3.1; arXiv:1706.05587, section 4: trained at 16, evaluated at 8
        """
        for part in (self.trunk, self.upsample):
            if not hasattr(part, "refine"):
                raise ConfigError(f"output_stride={output_stride}: {type(part).__name__} has no refine() for it")
        shared = {id(tensor): tensor for tensor in (*self.parameters(), *self.buffers())}
        net = copy.deepcopy(self, shared)
        factor = net.trunk.refine(output_stride)  # type: ignore[operator, union-attr]
        for layer in net.head.modules():
            dilate(layer, factor)
        net.upsample.refine(factor)  # type: ignore[operator, union-attr]
        return net

    def forward(self, image: Tensor) -> Tensor:
        logits = self.head(self.trunk(image))
        # float32, which interpolation keeps under autocast: the loss and the arg max are taken at full precision
        return self.upsample(logits.float(), image.shape[-2:])


class Head(nn.Module):
    """The papers' head: 1x1 convolution to `hidden`, ReLU, 1x1 convolution to the classes.

    init_std: standard deviation of the weights at the start, biases 0 (the released fc6 and score: 0.01, which suits
              2048 channels that are pretrained); None draws by the number of inputs, as torch does
    source:   arXiv:1703.06211, section 2.3
    """

    def __init__(self, channels_in: int, classes: int, *, hidden: int = 1024, init_std: float | None = None) -> None:
        super().__init__()
        check_whole("hidden", hidden, 1)
        self.fc6 = _scorer(channels_in, hidden, init_std=init_std)
        self.score = _scorer(hidden, classes, init_std=init_std)

    def forward(self, features: Tensor) -> Tensor:
        return self.score(F.relu(self.fc6(features)))


class ASPPv2(nn.Module):
    """DeepLab v2's atrous spatial pyramid: one 3x3 scorer for each dilation, summed.

    source: arXiv:1606.00915, section 3.2; the ResNet variant, dilations 6, 12, 18, 24 at output stride 8
    """

    def __init__(self, channels_in: int, classes: int, *, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__()
        _check_dilations(dilations)
        self.scores = nn.ModuleList(_scorer(channels_in, classes, kernel=3, dilation=d) for d in dilations)

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([score(features) for score in self.scores]).sum(0)


class ASPPv3(nn.Module):
    """DeepLab v3's pyramid: a 1x1, three dilated 3x3 and the image's mean side by side, then a 3x3 and the scorer.

    dilations: (6, 12, 18) at output stride 16, twice that at 8
    raises:    ConfigError (a ValueError) in training on a single image, of which the pooled branch has no statistics
    source:    arXiv:1706.05587, section 3.3; the 3x3 after the projection is torchvision's
    """

    def __init__(
        self,
        channels_in: int,
        classes: int,
        *,
        dilations: Sequence[int] = (6, 12, 18),
        hidden: int = 256,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        _check_dilations(dilations)
        check_whole("hidden", hidden, 1)
        branches = [_normed(channels_in, hidden, 1)] + [_normed(channels_in, hidden, 3, d) for d in dilations]
        self.branches = nn.ModuleList(branches)
        self.pooled = _normed(channels_in, hidden, 1)
        self.project = nn.Sequential(_normed((len(branches) + 1) * hidden, hidden, 1), nn.Dropout(dropout))
        self.mix = _normed(hidden, hidden, 3)
        self.score = _scorer(hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        # a SyncBatchNorm, of several GPUs, normalises over the images of all
        if any(type(one) is nn.BatchNorm2d and one.training for one in self.pooled) and len(features) == 1:
            raise ConfigError(
                "head=aspp_v3 trains on 2 images or more a process: its pooled branch normalises over the batch; "
                "raise data.batch_size"
            )
        mean = self.pooled(features.mean((2, 3), keepdim=True)).expand(-1, -1, *features.shape[-2:])
        pyramid = [branch(features) for branch in self.branches]
        return self.score(self.mix(self.project(torch.cat([*pyramid, mean], dim=1))))


class Interpolate(nn.Module):
    """Bilinear upsampling by the stride, edges repeated: at stride s, cell n is centred at pixel s n + (s - 1) / 2.

    A padded trunk reads it at s n, a shift of 7.5 px at stride 16, to which training adapts; so the map is cropped to
    the image, never stretched to it: a 360 px high image has 23 cells, which cover 368 px. Stretched to 360, as in
    torchvision's nets, the last cell would be written 8 px from where nets trained on crops of whole cells have learnt
    it to be. It equals torchvision's on images of whole cells.

    stride: of the map, in px of the image
    raises: ConfigError (a ValueError) for a stride below 1
    """

    ring = "replicate"

    def __init__(self, stride: int = 16) -> None:
        super().__init__()
        check_whole("stride", stride, 1)
        self.stride, self.shift = stride, 0

    def refine(self, factor: int) -> None:
        """From now on maps are `factor` times finer; cell 0 is centred where it was."""
        finer = self.stride // factor
        self.shift += (self.stride - finer) // 2
        self.stride = finer

    def forward(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        if self.shift:
            return _shifted(logits, size, self.stride, self.shift, self.ring)
        return _upsampled(logits, size, self.stride)


class FixedDeconv(Interpolate):
    """The release's upsampling: a transposed convolution by fixed bilinear weights, cropped to the image.

    At stride s the filter is 2s x 2s and the crop begins at (s / 2, s / 2), which is `Interpolate` except in the half
    cell around the map, where it fades towards zero; so it is computed as the interpolation of a map with a ring of
    zeros. Its weights are constants: they are no parameters and are not saved.

    raises: ConfigError (a ValueError) for a stride below 1; ValueError where the map is too small for the image
    source: Deconvolution (32x32, stride 16, learning rate 0) and Crop (8, 8) of the released DeepLab
    """

    ring = "constant"

    def forward(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        (h, w), (height, width), stride = logits.shape[-2:], size, self.stride
        covered = self.shift + stride // 2
        if stride * h + covered < height or stride * w + covered < width:
            raise ValueError(f"a {h}x{w} map at stride {stride} does not cover {height}x{width} px; see stride")
        return _shifted(logits, size, stride, self.shift, self.ring)


def _upsampled(logits: Tensor, size: Sequence[int], stride: int) -> Tensor:
    """As F.interpolate(align_corners=False), which takes a size or a scale, but not both."""
    if torch.are_deterministic_algorithms_enabled():
        # the operator's backward is not, on a GPU; F.interpolate then has another one
        edged = torch.cat([logits, logits[..., -1:, :]], -2)
        edged = torch.cat([edged, edged[..., -1:]], -1)
        return F.interpolate(edged, scale_factor=float(stride), mode="bilinear")[..., : size[0], : size[1]]
    return torch.ops.aten.upsample_bilinear2d(logits, list(size), False, stride, stride)


def _shifted(logits: Tensor, size: Sequence[int], stride: int, shift: int, ring: str) -> Tensor:
    """Upsampled with cell 0 `shift` px further in; around the map there are cells of the mode `ring` of F.pad."""
    cells = shift // stride + 1
    start = cells * stride - shift
    padded = F.pad(logits, (cells,) * 4, mode=ring)
    return _upsampled(padded, [start + size[0], start + size[1]], stride)[..., start:, start:]


def _scorer(
    channels_in: int, channels_out: int, *, kernel: int = 1, dilation: int = 1, init_std: float | None = 0.01
) -> nn.Conv2d:
    layer = nn.Conv2d(channels_in, channels_out, kernel, padding=dilation * (kernel // 2), dilation=dilation)
    if init_std is not None:
        nn.init.normal_(layer.weight, std=init_std)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    return layer


def _normed(channels_in: int, channels_out: int, kernel: int, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    layer = nn.Conv2d(channels_in, channels_out, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


def _check_dilations(dilations: Sequence[int]) -> None:
    for dilation in dilations:
        check_whole("dilations", dilation, 1)
