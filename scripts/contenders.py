"""What `benchmark.py` compares: each case is a name and the contenders that do the same work in it."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
import torchvision
from build import chosen
from torch import Tensor, nn
from torch.nn import functional as F

import seg.models.conv
from seg.engine import Runtime
from seg.engine.runtime import round_alike
from seg.metrics import Confusion
from seg.models import DeepLab, Dilated, Head, Modulated, resnet101
from seg.ops import deform_conv2d

T = TypeVar("T")
Contenders = Mapping[str, Callable[[], object]]
Case = tuple[str, str, Contenders]  # measure, case, contenders


@dataclass(frozen=True)
class Shape:
    """A 3x3 layer of ResNet-101 on a map."""

    channels: int
    rows: int
    columns: int
    dilation: int = 1
    batch: int = 1


SHAPES = {
    "res5-23x31": Shape(512, 23, 31, dilation=2),
    "res5-33x33": Shape(512, 33, 33, dilation=2),
    "res5-64x128": Shape(512, 64, 128, dilation=2),
    "res5-23x31-batch4": Shape(512, 23, 31, dilation=2, batch=4),
    "res4-23x31": Shape(256, 23, 31),
    "res4-33x33": Shape(256, 33, 33),
    "res4-64x128": Shape(256, 64, 128),
    "res3-45x60": Shape(128, 45, 60),
}


@dataclass
class Arguments:
    """The tensors of one layer; offsets of about a cell, masks between 0 and 1."""

    input: Tensor
    offset: Tensor
    weight: Tensor
    mask: Tensor
    dilation: int

    @property
    def tensors(self) -> list[Tensor]:
        return [self.input, self.offset, self.weight, self.mask]

    def to(self, **kind: Any) -> "Arguments":
        """The same with input and weight in another dtype or memory format, as tensors of their own."""
        input, weight = (t.detach().to(**kind).requires_grad_(t.requires_grad) for t in (self.input, self.weight))
        return Arguments(input, self.offset, weight, self.mask, self.dilation)

    def apply(self, function: Callable[..., Tensor]) -> Tensor:
        d = self.dilation
        return function(self.input, self.offset, self.weight, None, 1, d, d, self.mask)

    def plain(self) -> Tensor:
        return F.conv2d(self.input, self.weight, None, 1, self.dilation, self.dilation)


def arguments(shape: Shape, device: str, gradients: bool) -> Arguments:
    torch.manual_seed(0)
    size, kind = (shape.rows, shape.columns), {"device": device, "requires_grad": gradients}
    return Arguments(
        torch.randn(shape.batch, shape.channels, *size, **kind),
        torch.randn(shape.batch, 18, *size, **kind),
        torch.randn(shape.channels, shape.channels, 3, 3, **kind),
        torch.rand(shape.batch, 9, *size, **kind),
        shape.dilation,
    )


def under(name: str, value: str, run: Callable[[], T]) -> T:
    """A run with a variable of the environment."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        return run()
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def on_reference(run: Callable[[], T]) -> T:
    """A run on the reference in plain torch."""
    return under("SEG_KERNELS", "off", run)


def forward(shape: Shape, threads: int, layout: torch.memory_format) -> Contenders:
    """The modulated layer in float32; torchvision and ONNX Runtime in their own, contiguous layout."""
    contiguous = arguments(shape, "cpu", gradients=False)
    ours = contiguous.to(memory_format=layout)
    contenders = {
        "ours": partial(ours.apply, deform_conv2d),
        "conv2d": ours.plain,
        "torchvision": partial(contiguous.apply, torchvision.ops.deform_conv2d),
        "reference": partial(on_reference, partial(ours.apply, deform_conv2d)),
    }
    session = onnxruntime_layer(contiguous, threads)
    return contenders | ({"onnxruntime": session} if session else {})


def forward_bf16(shape: Shape) -> Contenders:
    """Data in bfloat16; torchvision has only float32."""
    contiguous = arguments(shape, "cpu", gradients=False)
    half = contiguous.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    return {
        "ours": partial(half.apply, deform_conv2d),
        "conv2d": half.plain,
        "torchvision": partial(contiguous.apply, torchvision.ops.deform_conv2d),
    }


def train(shape: Shape, dtype: torch.dtype) -> Contenders:
    """Forward, and the gradients of input, offset, weight and mask; torchvision has only float32."""
    contiguous = arguments(shape, "cpu", gradients=True)
    ours = contiguous.to(dtype=dtype, memory_format=torch.channels_last)
    own = partial(step, partial(ours.apply, deform_conv2d), ours.tensors)
    contenders = {
        "ours": own,
        "conv2d": partial(step, ours.plain, [ours.input, ours.weight]),
        "torchvision": partial(step, partial(contiguous.apply, torchvision.ops.deform_conv2d), contiguous.tensors),
    }
    return contenders | ({"reference": partial(on_reference, own)} if dtype == torch.float32 else {})


def step(run: Callable[[], Tensor], tensors: list[Tensor]) -> None:
    with torch.enable_grad():
        out = run()
        torch.autograd.grad(out, tensors, torch.ones_like(out))


def onnxruntime_layer(layer: Arguments, threads: int) -> Callable[[], object] | None:
    """The layer in ONNX Runtime, where it and onnx are installed."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper
    except ImportError:
        return None
    fields = {"x": layer.input, "w": layer.weight, "offset": layer.offset, "mask": layer.mask}
    d = layer.dilation
    node = helper.make_node(
        "DeformConv", ["x", "w", "offset", "", "mask"], ["y"], kernel_shape=[3, 3], pads=[d] * 4, dilations=[d, d]
    )
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(t.shape)) for n, t in fields.items()]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(layer.input.shape))
    model = helper.make_model(
        helper.make_graph([node], "layer", inputs, [output]), opset_imports=[helper.make_opsetid("", 19)], ir_version=9
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its idle threads slow the others down
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:  # before 1.25 it has no DeformConv on the CPU, which it tells by an exception of its own kind
        return None
    return partial(session.run, None, {name: tensor.detach().numpy() for name, tensor in fields.items()})


MEASURES: dict[str, Callable[[Shape, int], Contenders]] = {
    "forward": lambda shape, threads: forward(shape, threads, torch.channels_last),
    "forward contiguous": lambda shape, threads: forward(shape, threads, torch.contiguous_format),
    "forward bf16": lambda shape, threads: forward_bf16(shape),
    "train": lambda shape, threads: train(shape, torch.float32),
    "train bf16": lambda shape, threads: train(shape, torch.bfloat16),
}


def operator_cases(shapes: list[str], measures: list[str], threads: int) -> Iterator[Case]:
    """Every measure of every shape, on a CPU; gpu_contenders has a GPU's."""
    for measure in chosen("measures", measures or not_emulated(MEASURES, "cpu"), MEASURES):
        for shape in chosen("shapes", shapes or None, SHAPES):
            yield measure, shape, MEASURES[measure](SHAPES[shape], threads)


def not_emulated(measures: Iterable[str], device: str) -> list[str]:
    """Without those in bf16 where no net is computed in it: a plain product takes 60 times as long with AVX2."""
    computed = precisions(device)
    return [name for name in measures if "bf16" in computed or not name.endswith("bf16")]


def precisions(device: str) -> list[str]:
    """fp32, and what is chosen on this machine where it is left to choose."""
    return list(dict.fromkeys(["fp32", Runtime(device=device).precision]))


@contextmanager
def torchvisions() -> Iterator[None]:
    """A block in which the deformable layers of our nets call torchvision's operator."""
    ours = seg.models.conv.deform_conv2d
    seg.models.conv.deform_conv2d = torchvision.ops.deform_conv2d
    try:
        yield
    finally:
        seg.models.conv.deform_conv2d = ours


def net(trunk: Callable[..., nn.Module], layers: int, classes: int) -> DeepLab:
    """DeepLab from random weights with `layers` modulated layers, whose offsets are of about a cell, or without any."""
    body = trunk(Modulated if layers else Dilated, replaced=layers or 3)
    for module in body.modules():
        if isinstance(module, Modulated):
            torch.nn.init.normal_(module.offset.weight, std=(2 / (9 * module.in_channels)) ** 0.5)  # type: ignore[arg-type]
    return DeepLab(body, classes, head=Head)


def infer(model: DeepLab, image: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
        return model.eval()(image)


def learn(model: DeepLab, image: Tensor, dtype: torch.dtype | None = None) -> None:
    with torch.enable_grad():
        with torch.autocast(image.device.type, dtype, enabled=dtype is not None):
            logits = model.train()(image)
        label = torch.zeros(len(image), *image.shape[2:], dtype=torch.int64, device=image.device)
        F.cross_entropy(logits.float(), label).backward()
    model.zero_grad(set_to_none=True)


def on_torchvision(run: Callable[[], object]) -> object:
    with torchvisions():
        return run()


def model_cases(size: list[int], measures: list[str], device: str) -> Iterator[Case]:
    """Inference and a training step of the dense net and of nets with 3 and 30 modulated layers."""
    torch.manual_seed(0)
    round_alike()
    image = torch.randn(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    made = {"dense": net(resnet101, 0, 21), "3 layers": net(resnet101, 3, 21), "30 layers": net(resnet101, 30, 21)}
    nets = {name: model.to(device, memory_format=torch.channels_last) for name, model in made.items()}
    runs: dict[str, Callable[[DeepLab], object]] = {
        "forward": lambda model: infer(model, image),
        "forward bf16": lambda model: infer(model, image, torch.bfloat16),
        "train": lambda model: learn(model, image),
        "train bf16": lambda model: learn(model, image, torch.bfloat16),
    }
    for measure in chosen("measures", measures or not_emulated(runs, device), runs):
        contenders = {name: partial(runs[measure], model) for name, model in nets.items()}
        if not measure.endswith("bf16"):  # which torchvision's operator does not know
            theirs = {n: partial(on_torchvision, run) for n, run in contenders.items() if n != "dense"}
            contenders |= {f"{name}, torchvision": run for name, run in theirs.items()}
        yield measure, f"{size[0]}x{size[1]}", contenders


def metric_cases(classes: int = 19) -> Iterator[Case]:
    """Counting one Cityscapes pair of 1024x2048 pixels, as bytes and as int64."""
    torch.manual_seed(0)
    coarse = torch.randint(0, classes, (1, 1, 32, 64)).float()
    label = F.interpolate(coarse, scale_factor=32)[0, 0].to(torch.uint8)  # areas, as in a real label
    prediction = torch.where(torch.rand(label.shape) < 0.9, label, (label + 1) % classes)
    label[torch.rand(label.shape) < 0.05] = 255
    for name, dtype in (("uint8", torch.uint8), ("int64", torch.int64)):
        pair = prediction.to(dtype), label.to(dtype)
        yield (
            "confusion",
            name,
            {
                "ours": partial(Confusion(classes).add, *pair),
                "bincount": partial(bincount, *pair, classes),
                "masked bincount": partial(masked_bincount, *pair, classes),
            },
        )


def bincount(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    """Without a mask: ignored pixels have rows of their own that are cut off afterwards."""
    index = (label.int() * classes + prediction).flatten()
    return torch.bincount(index, minlength=256 * classes).view(256, classes)[:classes]


def masked_bincount(prediction: Tensor, label: Tensor, classes: int) -> Tensor:
    counted = label != 255
    index = label[counted].long() * classes + prediction[counted]
    return torch.bincount(index, minlength=classes**2).view(classes, classes)
