import pytest
from torch import nn

from seg.engine.optimizer import Schedule, adamw, parameter_groups, sgd


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.deform = nn.Module()
        self.deform.offset = nn.Conv2d(2, 18, 3)
        self.frozen = nn.Conv2d(1, 1, 1, bias=False).requires_grad_(False)


def rates(groups: list[dict], model: nn.Module) -> dict[str, tuple[float, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_groups_follow_the_released_rates() -> None:
    model = Net()
    found = rates(parameter_groups(model, lr=0.1, weight_decay=5e-4, bias_lr=2.0, offset_lr=0.5), model)
    assert found == {
        "conv.weight": (0.1, 5e-4),
        "conv.bias": (0.2, 0),
        "norm.weight": (0.1, 0),
        "norm.bias": (0.1, 0),
        "deform.offset.weight": (0.05, 0),
        "deform.offset.bias": (0.1, 0),
    }


@pytest.mark.parametrize("make", [sgd, adamw])
@pytest.mark.parametrize("key, value", [("lr", -1.0), ("lr", float("nan")), ("offset_lr", 0.0), ("weight_decay", -1.0)])
def test_rates_out_of_range_are_named(make, key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        make(Net(), **{"lr": 0.1, key: value})


def test_a_frozen_model_is_an_error() -> None:
    with pytest.raises(ValueError, match="no trainable parameter"):
        sgd(Net().requires_grad_(False), lr=0.1)


def test_poly_falls_to_zero_after_a_linear_warmup() -> None:
    schedule = Schedule(100, kind="poly", power=0.9, warmup=10)
    assert schedule.factor(0) == pytest.approx(0.1)
    assert schedule.factor(9) == pytest.approx(1.0)
    assert schedule.factor(50) == pytest.approx(0.5**0.9)
    assert schedule.factor(99) == pytest.approx(0.01**0.9)


def test_step_schedule_of_the_released_cityscapes_run() -> None:
    schedule = Schedule(
        78_811, kind="step", milestones=[59_999 / 78_811], warmup=1000, warmup_kind="constant", warmup_factor=0.1
    )
    steps = (0, 999, 1000, 59_998, 59_999, 78_810)
    assert [schedule.factor(step) for step in steps] == pytest.approx([0.1, 0.1, 1, 1, 0.1, 0.1])


def test_apply_sets_each_group_by_its_own_rate() -> None:
    optimizer = sgd(Net(), lr=0.1, bias_lr=2.0)
    Schedule(10, kind="poly", power=1.0).apply(optimizer, 5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == pytest.approx([0.05, 0.1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"iterations": -1},
        {"iterations": 5, "kind": "cosine"},
        {"iterations": 5, "warmup": -1},
        {"iterations": 5, "milestones": [2]},
    ],
)
def test_schedules_out_of_range_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="expected"):
        Schedule(**arguments)
