"""Trained weights from a local file, whole or partial, or torchvision's by name; and what of them was not used."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seg.counts import counted
from seg.errors import ConfigError, DataError
from seg.models.mxnet_params import read_params
from seg.models.names import canonical

TORCHVISION = {f"{name}-imagenet": name for name in ("resnet18", "resnet50", "resnet101")}  # those that we have
# blocks of each stage of the trunks that there are; all but the 18's are of three layers
DEPTHS = {"tiny": (1, 1, 1, 3), "resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}
# how training code of various projects wraps a state dict
WRAPPERS = ("state_dict", "model_state_dict", "average", "model")  # an average of ours is what was evaluated
# counters of batch normalisation: no weights, and absent from most files
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Report:
    """What became of a file of weights.

    loaded:  names in the module that got their values from it
    missing: names in the module that the file does not have; they kept their values
    unused:  names in the file that the module does not have, or that were skipped
    scale:   standard deviation of the images that its first layer was trained on, to a factor of 3 or so: about 1 for
             ImageNet's normalisation, about 60 for values to 255; None where the file doesn't tell
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    scale: float | None = None

    def __str__(self) -> str:
        parts = [f"{self.source}: {counted(len(self.loaded), 'tensor')} loaded"]
        for word, names in (("missing", self.missing), ("unused", self.unused)):
            if names:
                parts.append(f"{len(names)} {word}: {', '.join(names)}")
        return "; ".join(parts)


def load_weights(
    module: nn.Module,
    source: str | Path,
    *,
    strict: bool = False,
    download: bool = False,
    skip: Sequence[str] = (),
    bgr: bool = False,
) -> Report:
    """Copies weights into `module` (a trunk or a whole DeepLab), cast to its types; returns what was and was not found.

    source:   a .pth, .pt, .safetensors or MXNet .params file, whole or partial; or a name such as "resnet101-imagenet"
              (torchvision's), used from torch.hub's cache, or downloaded if `download`
    strict:   raise where anything is missing or unused
    skip:     beginnings of names in the module that keep their values, e.g. ("head.score",) for other classes
    bgr:      the file is of a net that reads blue, green, red, as OpenMMLab's "caffe" files are: turn its first layer
    raises:   DataError (a ValueError) for a file that cannot be read, a shape that differs, no name in common;
              ConfigError (a ValueError) for an unknown source, or a download that was not asked for
    Names may be torchvision's, mmsegmentation's, mmcv's or the released MXNet DeepLab's; see `seg.models.names`.
    """
    found = read_weights(source, download=download)
    state = module.state_dict()
    targets = {canonical(name): name for name in state}
    matched = {targets[canonical(name)]: name for name in found if canonical(name) in targets}
    matched = {target: name for target, name in matched.items() if not target.startswith(tuple(skip))}
    if not matched:
        raise DataError(f"{source} has none of the model's weights; it has {_some(found)}, the model {_some(state)}")
    for target, name in matched.items():
        if state[target].shape != found[name].shape:
            raise DataError(
                f"{source}: {name} is {list(found[name].shape)}, but the model's {target} is "
                f"{list(state[target].shape)}; {_other_trunk(found, state)}"
            )
    missing = tuple(name for name in state if name not in matched and not name.endswith(COUNTER))
    unused = tuple(name for name in found if name not in matched.values() and not name.endswith(COUNTER))
    if strict and (missing or unused):
        raise DataError(f"{source} does not fit exactly: missing {_some(missing)}; unused {_some(unused)}")
    with torch.no_grad():
        for target, name in matched.items():
            turned = bgr and target == targets.get("conv1.weight")
            state[target].copy_(found[name].flip(1) if turned else found[name])
    loaded = tuple(name for name in matched if not name.endswith(COUNTER))
    return Report(str(source), loaded, missing, unused, _scale({canonical(name): found[name] for name in found}))


def head_fits(model: nn.Module, source: str | Path, *, download: bool = False) -> bool:
    """Whether a file has the whole head of a DeepLab: of one with another number of classes it has not."""
    found = {canonical(name): tensor.shape for name, tensor in read_weights(source, download=download).items()}
    head = {name: tensor.shape for name, tensor in model.state_dict().items() if name.startswith("head.")}
    return all(found.get(canonical(name)) == shape for name, shape in head.items() if not name.endswith(COUNTER))


def read_weights(source: str | Path, *, download: bool = False) -> dict[str, Tensor]:
    """The tensors of a file, or of torchvision's weights, by the names they have there."""
    if str(source) in TORCHVISION:
        return _torchvision(str(source), download)
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"weights {str(source)!r}: no such file, and no known name ({', '.join(TORCHVISION)})")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".params":
            return read_params(path)
        return _tensors(torch.load(path, map_location="cpu", weights_only=True), path)
    except DataError:
        raise
    except Exception as error:  # each format has its own error types; the user needs the file's name
        reason = str(error).partition("\n")[0]  # torch's goes on for a page
        raise DataError(f"{path}: cannot be read as weights ({type(error).__name__}: {reason})") from error


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what a .pth holds, out of its wrappers."""
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise DataError(f"{path}: holds no state dict; expected names to tensors, or that under one of {WRAPPERS}")
    return tensors


def _torchvision(name: str, download: bool) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights of a ResNet, from torch.hub's cache or the network."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(TORCHVISION[name])["IMAGENET1K_V1"]
    cached = Path(torch.hub.get_dir(), "checkpoints", weights.url.rsplit("/", 1)[-1])
    if not download and not cached.is_file():
        raise ConfigError(f"weights {name!r} are not at {cached}; allow the download (download=true), or name a file")
    try:
        return dict(weights.get_state_dict(progress=True, check_hash=True))
    except Exception as error:  # of the network, or of a file that is damaged, which is not downloaded again
        reason = str(error).partition("\n")[0]
        raise DataError(f"{weights.url} as {cached}: {reason}; delete that file, or fetch it by other means") from error


def _scale(found: dict[str, Tensor]) -> float | None:
    """How far the values of the first layer's images spread, by the statistics of the norm after it.

    A filter w turns images of variance s², alike all over, into outputs of variance s² |sum of w|², and white ones into
    s² |w|²; photographs lie between, and 2 s² |w|² is the median of torchvision's ResNet-18. A norm that was folded
    into its scale and shift has lost its statistics: its variances are all alike.
    """
    weight, variance = found.get("conv1.weight"), found.get("bn1.running_var")
    if weight is None or variance is None or variance.numel() != len(weight) or variance.max() == variance.min():
        return None
    ratio = variance.float() / weight.float().flatten(1).square().sum(1)
    return float((ratio[ratio.isfinite()].median() / 2).sqrt())


def _other_trunk(found: Iterable[str], state: Iterable[str]) -> str:
    """The way out where shapes differ: the trunk that the file is of, as far as its names tell it."""
    name = _smallest_trunk(found)
    if name is None or name == _smallest_trunk(state):
        return "it is of another net: choose the trunk that it was made with, or another file"
    return f"it looks like a {name}'s: choose trunk={name}, or another file"


def _smallest_trunk(names: Iterable[str]) -> str | None:
    """The smallest of our trunks that has all blocks that are named, of their kind; None where there is none."""
    known = [canonical(name) for name in names]
    blocks = {(int(m[1]), int(m[2])) for name in known if (m := re.match(r"layer([1-4])\.(\d+)\.", name))}
    of_three = any(".conv3." in name for name in known)
    fitting = (
        name
        for name, depths in DEPTHS.items()
        if (name != "resnet18") == of_three and all(number < depths[stage - 1] for stage, number in blocks)
    )
    return next(fitting, None) if blocks else None


def _some(names: object) -> str:
    listed = list(names)  # type: ignore[call-overload]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "") if listed else "nothing"
