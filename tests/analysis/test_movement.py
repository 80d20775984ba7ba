"""How far a step of training moves taps."""

import pytest
import torch

from seg.analysis.movement import EDGES, Movement
from seg.models import DeepLab, Deform, tiny


def net() -> DeepLab:
    torch.manual_seed(0)
    return DeepLab(tiny(Deform, depths=(1, 1, 1, 1), widths=(8, 8, 8, 8), stem_width=8, replaced=1), 3)


def test_known_moves_are_counted_in_their_bins() -> None:
    before = torch.zeros(1, 1, 1, 2, 2, 1, 2) + 0.25  # four taps
    after = before.clone()
    after[0, 0, 0, 0, :, 0, 0] += torch.tensor([0.3, 0.4])  # 0.5, stays in its cell
    after[0, 0, 0, 1, :, 0, 0] += torch.tensor([0.0, 0.8])  # 0.8, into the next cell
    after[0, 0, 0, 0, :, 0, 1] += torch.tensor([-3.0, 4.0])  # 5
    movement = Movement()
    movement.add(7, {"a": before}, {"a": after})
    (row,) = movement.steps
    assert (row["step"], row["layer"]) == (7, "a")
    assert row["longest"] == pytest.approx(5)
    assert row["median"] == pytest.approx(0.8)
    assert row["longer_than_a_cell"] == 0.25
    assert row["into_another_cell"] == 0.5
    counts = movement.document()["counts"]["a"]
    held = {i: count for i, count in enumerate(counts) if count}
    assert sum(held.values()) == 4
    for length in (0.0, 0.5, 0.8, 5.0):
        assert any(EDGES[i] <= length < EDGES[i + 1] for i in held)


def test_a_step_of_the_offset_bias_moves_every_tap_by_it_and_the_training_is_unchanged() -> None:
    """The layer's own bias goes from 0 by plain descent: its gradient times the rate, the same at every position."""
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    seen = []
    for watched in (False, True):
        model = net().train()
        bias = next(m for m in model.modules() if isinstance(m, Deform)).offset.bias
        optimizer = torch.optim.SGD([bias], lr=0.5)
        movement = Movement()
        with movement.watch(model, image[:1], optimizer, every=2):
            for step in range(3):
                optimizer.zero_grad()
                bias.grad = torch.full_like(bias, -0.2 * (step + 1))
                optimizer.step()
                if watched and step == 0:
                    assert movement.steps[0]["median"] == pytest.approx(0.1 * 2**0.5)
                    assert movement.steps[0]["longest"] == pytest.approx(0.1 * 2**0.5)
        assert [row["step"] for row in movement.steps] == [1, 3]
        assert model.training
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
    assert all(torch.equal(seen[0][name], seen[1][name]) for name in seen[0])
    optimizer.step()
    assert len(movement.steps) == 2, "nothing is measured outside the block"
