"""Table 4: what deformable layers cost DeepLab, plain and deformable side by side, at the sizes of each data set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from build import chosen
from contenders import Case, learn
from prediction import Frame
from torch import Tensor, nn

from seg.analysis import flops, parameters
from seg.data import caffe_normalization, evaluation_transform, one_batch
from seg.engine import Inference, Runtime
from seg.errors import ConfigError
from seg.models import DeepLab, Deform, Dilated, FixedDeconv, Head, resnet101

MEASURES = ("forward", "whole run", "train")
CONVS: Mapping[str, Callable[..., nn.Module]] = {"plain": Dilated, "deformable": Deform}


@dataclass(frozen=True)
class Sizes:
    """Of a data set: classes, an image as it lies on the disk, how it is resized to be tested, what is trained on."""

    classes: int
    image: tuple[int, int]
    resize: tuple[int, int]
    tested: tuple[int, int]
    trained: tuple[int, int]


# resize and crop: SCALES and the crop of the released DeepLab. VOC's images differ in size; 300x500 fills both limits
SIZES = {
    "voc": Sizes(21, (300, 500), (360, 600), (360, 600), (360, 600)),
    "cityscapes": Sizes(19, (1024, 2048), (1024, 2048), (1024, 2048), (768, 1024)),
}


def sizes_of(dataset: str) -> Sizes:
    """The sizes of a data set; raises ConfigError for one that is not known."""
    if dataset not in SIZES:
        raise ConfigError(f"dataset is {dataset!r}; choose from {', '.join(SIZES)}, or null for one image of `size`")
    return SIZES[dataset]


def nets(classes: int, runtime: Runtime) -> dict[str, nn.Module]:
    """The papers' two rows: dilation 2 in res5, and three deformable layers there whose offsets are of about a cell."""
    return {name: runtime.place(net(conv, classes)).eval() for name, conv in CONVS.items()}


def net(conv: Callable[..., nn.Module], classes: int) -> DeepLab:
    """The released DeepLab from random weights."""
    torch.manual_seed(0)
    trunk = resnet101(conv, style="caffe", norm="frozen", frozen_stages=2)
    for module in trunk.modules():
        if isinstance(module, Deform):
            # at zero offsets every tap would fall on a cell, which a trained net's do not
            torch.nn.init.uniform_(module.offset.bias, -1, 1)  # type: ignore[arg-type]
    return DeepLab(trunk, classes, head=partial(Head, init_std=0.01), upsample=FixedDeconv(16))


def whole_run(model: nn.Module, pixels: np.ndarray, resize: tuple[int, int], runtime: Runtime) -> Tensor:
    """From the decoded image to the class of each of its pixels, in the CPU's memory: as predict.py does it."""
    transform = evaluation_transform(resize=resize)
    batch = one_batch(Frame("image", pixels), 0, transform, normalization=caffe_normalization())  # type: ignore[arg-type]
    return Inference().scores(model, batch, runtime).argmax(1).to("cpu", torch.uint8)


def runs(dataset: str, runtime: Runtime) -> dict[str, tuple[tuple[int, int], Callable[[nn.Module], object]]]:
    """Each measure's size in px, and what it does with a net."""
    sizes, random = sizes_of(dataset), np.random.default_rng(0)
    pixels = random.integers(0, 256, (*sizes.image, 3), dtype=np.uint8)
    tested, trained = (runtime.image(100 * torch.randn(1, 3, *size)) for size in (sizes.tested, sizes.trained))
    return {
        "forward": (sizes.tested, lambda model: model.eval()(tested)),
        "whole run": (sizes.tested, lambda model: whole_run(model.eval(), pixels, sizes.resize, runtime)),
        "train": (sizes.trained, lambda model: learn(model, trained)),  # type: ignore[arg-type]
    }


def cost_cases(dataset: str, measures: list[str], device: str) -> Iterator[Case]:
    """The forward pass, the whole run on an image, and a training step, in float32."""
    sizes = sizes_of(dataset)
    asked = chosen("measures", measures or None, MEASURES)
    runtime = Runtime(device=device, precision="fp32")
    models, done = nets(sizes.classes, runtime), runs(dataset, runtime)
    for measure in asked:
        (height, width), run = done[measure]
        yield measure, f"{dataset} {height}x{width}", {name: partial(run, model) for name, model in models.items()}


def sizes_and_operations(dataset: str) -> Mapping[str, Mapping[str, int]]:
    """Parameters and FLOPs of a forward pass of both nets, by counting: nothing is computed."""
    sizes = sizes_of(dataset)
    with torch.device("meta"):
        made = {name: net(conv, sizes.classes) for name, conv in CONVS.items()}
        image = torch.zeros(1, 3, *sizes.tested)
    return {
        "parameters": {name: parameters(model) for name, model in made.items()},
        "flops": {name: flops(model, image) for name, model in made.items()},
    }
