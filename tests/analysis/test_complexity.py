"""Costs against counts made by hand."""

import pytest
import torch
from torch import nn

from seg.analysis import cost, flops, memory, parameters, seconds_per_image
from seg.models import DeepLab, Deform, Dilated, Modulated, tiny


def test_operations_of_each_variant_are_those_of_its_convolutions() -> None:
    x = torch.zeros(2, 8, 5, 6)
    products = 2 * 2 * 5 * 6 * 9  # two an operation, images, cells, taps
    assert flops(Dilated(8, 16), x) == products * 8 * 16
    assert flops(Deform(8, 16), x) == products * 8 * (16 + 18)
    assert flops(Modulated(8, 16, offset_groups=2), x) == products * 8 * (16 + 54)


def test_counting_leaves_the_model_as_it_was() -> None:
    model = DeepLab(tiny(Deform), 3).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    cost(model, torch.randn(1, 3, 32, 32))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_deformable_layers_cost_their_offset_convolutions() -> None:
    image = torch.zeros(1, 3, 64, 64)
    plain, deform = (flops(DeepLab(tiny(conv), 3), image) for conv in (Dilated, Deform))
    assert deform - plain == 3 * 2 * 8 * 8 * 64 * 18 * 9


def test_trainable_parameters_leave_out_the_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).requires_grad_(True)
    model[1].requires_grad_(False)
    assert (parameters(model), parameters(model, trainable=True)) == (24, 16)


def test_time_is_measured_in_evaluation_mode_and_per_image() -> None:
    seen: list[tuple[bool, int]] = []

    class Watcher(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append((self.training, len(image)))
            return image

    model = Watcher().train()
    assert seconds_per_image(model, torch.zeros(4, 3, 2, 2), repeats=3, warm_up=2) > 0
    assert seen == [(False, 4)] * 5
    assert model.training


def test_memory_holds_what_the_pass_needed() -> None:
    class Hungry(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.ones(16, 1024, 1024).sum() + image.sum()

    assert 60 * 2**20 < (memory(Hungry(), torch.zeros(1, 3, 2, 2)) or 0) < 80 * 2**20


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_memory_on_cuda_is_what_was_allocated() -> None:
    class Hungry(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.ones(16, 1024, 1024, device="cuda").sum()

    assert 64 * 2**20 <= memory(Hungry(), torch.zeros(1, 3, 2, 2, device="cuda")) < 80 * 2**20
