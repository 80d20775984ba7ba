"""The classifier of objects in boxes: its pooling is an argument, its offsets learn, and they can be watched."""

from functools import partial

import pytest
import torch

from seg.analysis import record_bins
from seg.data.boxes import Boxed
from seg.engine.optimizer import parameter_groups
from seg.models import Dilated, RoIClassifier, RoIPool, tiny
from seg.ops import DeformRoIPool

BOXED = Boxed(torch.randn(2, 3, 40, 48), torch.tensor([[0.0, 4, 4, 36, 30], [1, 0, 8, 20, 40], [1, 10, 2, 48, 39]]))
POOLS = {"plain": RoIPool, "deform": DeformRoIPool, "modulated": partial(DeformRoIPool, modulated=True)}


def classifier(pool: str) -> RoIClassifier:
    torch.manual_seed(0)
    return RoIClassifier(tiny(Dilated), 5, pool=partial(POOLS[pool], output_size=3), width=8, hidden=16)


@pytest.mark.parametrize("pool", POOLS)
def test_every_pooling_gives_each_box_logits_and_gradients(pool):
    model = classifier(pool)
    logits = model(BOXED)
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for n, p in model.named_parameters() if n.endswith("offset.bias"))


def test_deformable_starts_as_plain():
    plain, deform = classifier("plain"), classifier("deform")
    deform.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(deform(BOXED), plain(BOXED))


def test_optimizer_gives_the_offset_layer_its_own_factor():
    model = classifier("deform")
    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, bias_lr=1.0, offset_lr=0.01)
    slow = {id(p) for group in groups if group["lr"] == 0.01 for p in group["params"]}
    assert slow == {id(p) for p in model.pool.offset.parameters()}


def test_recorded_bins_are_those_of_the_offsets():
    model = classifier("deform").eval()
    with torch.no_grad():
        model.pool.offset.bias[0], model.pool.offset.bias[9 + 4] = 5.0, -2.5  # x of the first bin, y of the middle one
    with record_bins(model) as recorded, torch.no_grad():
        model(BOXED)
    before, after = recorded["pool"]
    x1, y1, x2, y2 = BOXED.rois[0, 1:]
    width, height = x2 - x1, y2 - y1
    torch.testing.assert_close(before[0, 0, 0], torch.stack((x1, y1, x1 + width / 3, y1 + height / 3)))
    torch.testing.assert_close(after[0, 0, 0, ::2] - before[0, 0, 0, ::2], (0.5 * width).expand(2))
    torch.testing.assert_close(after[0, 1, 1, 1::2] - before[0, 1, 1, 1::2], (-0.25 * height).expand(2))
    assert torch.equal(after[:, 2], before[:, 2])
