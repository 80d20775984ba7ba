"""Training under torch's deterministic algorithms, where a GPU refuses what sums in an order of its own."""

import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from seg.engine import Runtime
from seg.engine.train import cross_entropy
from seg.models import ASPPv2, ASPPv3, DeepLab, Deform, Dilated, FixedDeconv, Head, Modulated, tiny

VARIANTS = {"dilated": partial(Dilated, dilation=2), "deform": Deform, "modulated": Modulated}
HEADS = {"plain": Head, "v2": ASPPv2, "v3": ASPPv3}
# what a segmentation net could ask for of torch.use_deterministic_algorithms' list; NLLLoss too unless left unreduced
REFUSED = {
    "AdaptiveAvgPool2DBackward0",
    "AdaptiveMaxPool2DBackward0",
    "GridSampler2DBackward0",
    "ReflectionPad2DBackward0",
    "UpsampleBilinear2DBackward0",
    "UpsampleBilinear2DBackward1",
}


class Losses(TorchDispatchMode):
    """How the losses inside the block are reduced: 0 where they are not."""

    def __init__(self) -> None:
        super().__init__()
        self.reductions: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.nll_loss2d_forward.default:
            self.reductions.append(args[3])
        return func(*args, **(kwargs or {}))


def asked_for(loss: torch.Tensor) -> Iterator[str]:
    """Names of the operators of a loss's backward pass."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node.name()
            waiting += [parent for parent, _ in node.next_functions]


def step(upsample: nn.Module | None, variant: str, head: str) -> tuple[set[str], list[int]]:
    """What a training step asks of a GPU, by tensors that have a device and no values."""
    with FakeTensorMode(), torch.device("cuda"):
        net = DeepLab(tiny(VARIANTS[variant]), 4, head=HEADS[head], upsample=upsample)
        label = torch.zeros(2, 45, 52, dtype=torch.long)
        with Losses() as losses:
            loss = cross_entropy(net(torch.zeros(2, 3, 45, 52)), label)
    return set(asked_for(loss)), losses.reductions


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_step_asks_a_gpu_for_nothing_that_it_refuses(deterministic: None, variant: str, head: str) -> None:
    operators, reductions = step(None, variant, head)
    assert not operators & REFUSED
    assert reductions == [0]


def test_the_fixed_upsampling_asks_for_nothing_refused_either(deterministic: None) -> None:
    assert not step(FixedDeconv(8), "deform", "plain")[0] & REFUSED


def test_without_them_the_fast_operators_are_taken() -> None:
    operators, reductions = step(None, "deform", "plain")
    assert "UpsampleBilinear2DBackward0" in operators
    assert reductions != [0]


def test_the_loss_is_the_same(deterministic: None) -> None:
    logits, label = torch.rand(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    label[0, 0] = 255
    found = cross_entropy(logits, label)
    torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(found, cross_entropy(logits, label))


def test_products_on_a_gpu_are_given_a_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises an error at the first product otherwise; what the user chose stays."""
    for chosen, expected in ((None, ":4096:8"), (":16:8", ":16:8")):
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", chosen or "")
        if chosen is None:
            monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
        try:
            Runtime(device="cpu", deterministic=True).start(0)
        finally:
            torch.use_deterministic_algorithms(False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == expected
