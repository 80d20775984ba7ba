"""Files that other programs run: ONNX, and torch.export's .pt2; each checked against the net that it was made from."""

import json
import logging
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from build import build
from omegaconf import DictConfig
from run import make_folder, state_of, trained_model
from torch import Tensor, nn

from seg.errors import ConfigError, RunError

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
OLDEST_ONNXRUNTIME = (1, 25)  # the first whose CPU provider has DeformConv
Run = Callable[[Tensor], Tensor]


def export_run(trained: DictConfig, config: DictConfig, output: Path) -> str:
    """Write the file and check it; a line that says what it takes.

    raises: ConfigError where a package is missing or too old, RunError where the file computes something else
    """
    state = state_of(trained)
    model = trained_model(state, trained).eval()
    about = description(trained, state)
    height, width = config.size
    images = [torch.randn(2, 3, height, width), torch.randn(1, 3, height + 37, width - 13)]
    make_folder(output.parent)
    if config.format == "onnx":
        run = write_onnx(model, images[0], output, about, config.opset)
    else:
        run = write_torch_export(model, images[0], output, about)
    worst = max(difference(model, run, image) for image in images)
    if not worst <= config.tolerance:
        output.unlink()
        raise RunError(f"{output} was removed: its logits differ by {worst:.1e} of the largest, more than tolerance")
    return (
        f"{output}: image float32 [N, 3, H, W] -> logits [N, {len(about['classes'])}, H, W]; an RGB image in 0 to 255 "
        f"has to be normalised as (value - {about['mean']}) / {about['std']}; largest relative difference {worst:.1e}"
    )


def description(trained: DictConfig, state: dict[str, Any]) -> dict[str, Any]:
    """What one has to know to use the net: kept in the file, as JSON."""
    normalization = build(trained.data.normalization)
    names = {"classes": list(state["config"]["classes"]), "step": state["step"]}
    return {**names, "mean": list(normalization.mean), "std": list(normalization.std), "channels": "RGB, 0 to 255"}


def difference(model: nn.Module, run: Run, image: Tensor) -> float:
    """Largest difference of a logit, relative to the largest logit."""
    with torch.no_grad():
        expected, found = model(image), run(image)
    return float((found - expected).abs().max() / expected.abs().max())


def traced(model: nn.Module, image: Tensor) -> torch.export.ExportedProgram:
    """The net as one graph for any batch and size; deformable convolution stays one operator in it."""
    # of the guards of pooling with ceil_mode=true, each with a traceback; what is exported is compared with the net
    logging.getLogger("torch.fx.experimental.symbolic_shapes").setLevel(logging.CRITICAL)
    sizes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        return torch.export.export(model, (image,), dynamic_shapes=({**sizes},), strict=False)


def write_torch_export(model: nn.Module, image: Tensor, output: Path, about: dict[str, Any]) -> Run:
    """A .pt2 file: torch.export.load reads it, after `import seg.ops`, which defines the operator."""
    torch.export.save(traced(model, image), output, extra_files={"about.json": json.dumps(about)})
    return torch.export.load(output).module()


def write_onnx(model: nn.Module, image: Tensor, output: Path, about: dict[str, Any], opset: int) -> Run:
    """An ONNX file with standard nodes only, DeformConv among them, run by ONNX Runtime."""
    require_onnx()
    import onnxruntime

    program = torch.onnx.export(
        traced(model, image),
        dynamo=True,
        opset_version=opset,
        input_names=["image"],
        output_names=["logits"],
        custom_translation_table={
            torch.ops.seg.deform_conv2d.default: deform_conv_node(opset),
            torch.ops.aten.upsample_bilinear2d.default: upsampling_nodes(opset),
        },
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["about"] = json.dumps(about)
    program.save(str(output))
    session = onnxruntime.InferenceSession(str(output), providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])


def _operators(opset: int) -> Any:
    """ONNX's operators as of a version; raises ConfigError for one that onnxscript does not know."""
    import onnxscript

    found = getattr(onnxscript, f"opset{opset}", None)
    if found is None:
        raise ConfigError(f"opset is {opset}; onnxscript {onnxscript.__version__} does not know it, give a lower one")
    return found


def deform_conv_node(opset: int) -> Callable[..., Any]:
    """How our operator is written in ONNX; it has the same border rule and the same order of offsets."""
    operators = _operators(opset)

    def translate(
        input: Any, offset: Any, weight: Any, bias: Any, mask: Any, stride: Any, padding: Any, dilation: Any
    ) -> Any:
        kernel = [int(size) for size in weight.shape[2:]]
        return operators.DeformConv(
            input,
            weight,
            offset,
            bias,
            mask,
            kernel_shape=kernel,
            strides=list(stride),
            pads=[*padding, *padding],
            dilations=list(dilation),
            group=int(input.shape[1]) // int(weight.shape[1]),
            offset_group=int(offset.shape[1]) // (2 * kernel[0] * kernel[1]),
        )

    return translate


def upsampling_nodes(opset: int) -> Callable[..., Any]:
    """How bilinear upsampling is written in ONNX, whose Resize takes a scale or a size: by the scale, then cropped.

    torch's own translation has the size alone, which stretches the map to images that are not of whole cells.
    """
    import numpy as np

    operators = _operators(opset)

    def translate(input: Any, size: Any, align_corners: bool, down: float | None, right: float | None) -> Any:
        if align_corners or down is None or right is None:
            raise ConfigError("format=onnx knows upsampling by a scale without align_corners; give format=torch_export")
        edged = operators.Pad(input, np.array([0, 0, 0, 0, 0, 0, 1, 1]), mode="edge")
        scales = np.array([1, 1, down, right], np.float32)
        up = operators.Resize(edged, None, scales, mode="linear", coordinate_transformation_mode="half_pixel")
        return operators.Slice(up, np.array([0, 0]), size, np.array([2, 3]))

    return translate


def require_onnx() -> None:
    """Raises ConfigError, with the way out, where what ONNX needs is missing or too old."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        try:
            found = version(package)
        except PackageNotFoundError:
            raise ConfigError(
                f"format=onnx needs {package}, which is not here; install it: scripts/setup.sh onnx"
            ) from None
    if tuple(int(number) for number in re.findall(r"\d+", found)[:2]) < OLDEST_ONNXRUNTIME:
        raise ConfigError(
            f"onnxruntime {found} has no DeformConv on the CPU; 1.25 or later has: pip install -U 'onnxruntime>=1.25'"
        )
