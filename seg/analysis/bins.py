"""Where a net's deformable RoI pooling looks, read from outside."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from torch import Tensor, nn

from seg.ops import DeformRoIPool, bin_boxes


@contextmanager
def record_bins(model: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Yields a dict that holds, after each forward pass, every pooling layer's bins before and after, by its name.

    Both are [R, rows, columns, 4], (x1, y1, x2, y2) in px of the net's input.
    """
    found: dict[str, tuple[Tensor, Tensor]] = {}
    emitted: dict[str, Tensor] = {}

    def hear(name: str, module: nn.Module, arguments: tuple, output: Tensor) -> None:
        emitted[name] = output.detach()

    def write(name: str, layer: DeformRoIPool, arguments: tuple, output: Tensor) -> None:
        offset, _ = layer.read(emitted.pop(name))
        rois = arguments[1].float()
        before, after = (bin_boxes(rois, given, layer.output_size, layer.gamma) for given in (None, offset.float()))
        found[name] = (before[:, 0], after[:, 0])

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, DeformRoIPool):
                stack.callback(module.offset.register_forward_hook(partial(hear, name)).remove)
                stack.callback(module.register_forward_hook(partial(write, name)).remove)
        yield found
