"""Optimisers with the papers' parameter groups, and learning-rate schedules as plain functions of the step."""

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import nn
from torch.optim import SGD, AdamW, Optimizer


def sgd(
    model: nn.Module,
    *,
    lr: float,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    bias_lr: float = 1.0,
    offset_lr: float = 1.0,
    offset_decay: bool = False,
) -> Optimizer:
    """SGD with momentum over `parameter_groups`."""
    groups = parameter_groups(
        model, lr=lr, weight_decay=weight_decay, bias_lr=bias_lr, offset_lr=offset_lr, offset_decay=offset_decay
    )
    return SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)


def adamw(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float = 0.01,
    bias_lr: float = 1.0,
    offset_lr: float = 1.0,
    beta1: float = 0.9,
    beta2: float = 0.999,
    offset_decay: bool = False,
) -> Optimizer:
    """AdamW over `parameter_groups`."""
    groups = parameter_groups(
        model, lr=lr, weight_decay=weight_decay, bias_lr=bias_lr, offset_lr=offset_lr, offset_decay=offset_decay
    )
    return AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)


def parameter_groups(
    model: nn.Module, *, lr: float, weight_decay: float, bias_lr: float, offset_lr: float, offset_decay: bool = False
) -> list[dict]:
    """Trainable parameters by the factor of their learning rate and by whether they decay.

    Weights decay; biases and normalisation do not. Neither do the layers that emit offsets, so that nothing but the
    loss pulls a sampling point back, unless `offset_decay` (the released DeepLab decays their weights too). `bias_lr`
    multiplies the rate of the biases (2 in the released DeepLab, for its head and its offsets), `offset_lr` that of the
    offset layers (1 in arXiv:1703.06211, 0.1 in arXiv:1811.11168).
    """
    for name, value in (("lr", lr), ("bias_lr", bias_lr), ("offset_lr", offset_lr)):
        if not value > 0 or not math.isfinite(value):
            raise ValueError(f"{name} is {value}; expected a positive number")
    if not weight_decay >= 0:
        raise ValueError(f"weight_decay is {weight_decay}; expected 0 or more")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        offset, bias = "offset" in name.split("."), name.endswith(".bias") and not _is_norm(model, name)
        factor = (offset_lr if offset else 1.0) * (bias_lr if bias else 1.0)
        decay = weight_decay if parameter.ndim > 1 and (offset_decay or not offset) else 0.0
        groups.setdefault((factor, decay), []).append(parameter)
    if not groups:
        raise ValueError("the model has no trainable parameter; is everything frozen?")
    return [
        {"params": parameters, "lr": lr * factor, "base_lr": lr * factor, "weight_decay": decay}
        for (factor, decay), parameters in groups.items()
    ]


def _is_norm(model: nn.Module, name: str) -> bool:
    return isinstance(model.get_submodule(name.rpartition(".")[0]), nn.modules.batchnorm._NormBase)


class Schedule:
    """Factor on every learning rate as a function of the step alone, so that resuming needs no state.

    kind="poly":     (1 - step / iterations) ** power
    kind="step":     gamma ** (number of `milestones`, as shares of the run, that have passed)
    kind="constant": 1
    warmup steps come first: "linear" rises from warmup_factor to 1, "constant" stays at warmup_factor (the released
    DeepLab on Cityscapes: 1000 steps at 0.1), then the schedule goes on at its own step.
    """

    def __init__(
        self,
        iterations: int,
        *,
        kind: Literal["poly", "step", "constant"] = "poly",
        power: float = 0.9,
        milestones: Sequence[float] = (2 / 3,),
        gamma: float = 0.1,
        warmup: int = 0,
        warmup_kind: Literal["linear", "constant"] = "linear",
        warmup_factor: float = 0.0,
    ) -> None:
        if iterations < 0:
            raise ValueError(f"iterations is {iterations}; expected at least 0")
        if kind not in ("poly", "step", "constant"):
            raise ValueError(f"schedule.kind is {kind!r}; expected poly, step or constant")
        if warmup_kind not in ("linear", "constant"):
            raise ValueError(f"schedule.warmup_kind is {warmup_kind!r}; expected linear or constant")
        if warmup < 0:
            raise ValueError(f"schedule.warmup is {warmup}; expected 0 or more steps")
        if any(not 0 < share < 1 for share in milestones):
            raise ValueError(f"schedule.milestones are {list(milestones)}; expected shares of the run between 0 and 1")
        self.iterations, self.kind, self.power = iterations, kind, power
        self.milestones, self.gamma = sorted(milestones), gamma
        self.warmup, self.warmup_kind, self.warmup_factor = warmup, warmup_kind, warmup_factor

    def factor(self, step: int) -> float:
        """Factor at a step counted from 0."""
        if step < self.warmup:
            share = (step + 1) / self.warmup if self.warmup_kind == "linear" else 0.0
            return self.warmup_factor + (1 - self.warmup_factor) * share
        if self.kind == "poly":
            return max(0.0, 1 - step / self.iterations) ** self.power
        if self.kind == "step":
            return self.gamma ** sum(step >= share * self.iterations for share in self.milestones)
        return 1.0

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Set the learning rates for a step; returns the factor."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        return factor


def parameters_of(optimizer: Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
