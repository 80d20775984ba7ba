import numpy as np
import pytest
import torch

from seg.errors import DataError
from seg.metrics import Confusion, Moments, grouped_counts


def counted(prediction: list, label: list, classes: int) -> Confusion:
    confusion = Confusion(classes)
    confusion.add(torch.tensor(prediction, dtype=torch.uint8), torch.tensor(label, dtype=torch.uint8))
    return confusion


def test_hand_counted_confusion() -> None:
    confusion = counted([[0, 1, 1, 2]], [[0, 1, 0, 255]], 3)
    assert confusion.counts.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert confusion.iou().tolist()[:2] == [0.5, 0.5]
    assert confusion.mean_iou() == 0.5
    assert confusion.pixel_accuracy() == pytest.approx(2 / 3)


def test_prediction_of_no_class_is_a_false_negative() -> None:
    confusion = counted([[0, 7]], [[0, 0]], 2)
    assert confusion.counts.tolist() == [[1, 0, 1], [0, 0, 0]]
    assert confusion.iou()[0] == 0.5


@pytest.mark.parametrize("classes", [3, 51, 52])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_groups_are_counted_as_each_alone(classes: int, dtype: torch.dtype) -> None:
    """Rows for 5 groups fit into bytes up to 51 classes; predictions of no class, and an unknown group, are there."""
    generator = torch.Generator().manual_seed(classes)
    label, prediction = torch.randint(0, classes, (2, 40, 50), generator=generator).to(dtype)
    label[:7], prediction[5:9], prediction[9:11] = 255, classes, 255
    group = torch.randint(-1, 4, (40, 50), generator=generator).to(torch.int8)
    counts = grouped_counts(prediction, label, group, classes=classes, groups=5)
    for number in (0, 1, 2, 3, -1):
        alone = Confusion(classes)
        alone.add(prediction, torch.where(group == number, label, 255).to(dtype))
        assert torch.equal(counts[number], alone.counts)
    assert counts.sum() == (label != 255).sum()


def test_a_prediction_beyond_a_byte_is_of_no_class() -> None:
    prediction = torch.tensor([[0, 1, 256, 257, 300, -1]])
    label = torch.zeros_like(prediction)
    assert grouped_counts(prediction, label, label, classes=2, groups=1).tolist() == [[[1, 1, 4], [0, 0, 0]]]


@pytest.mark.parametrize("value", [3, 254, -1, 300])
def test_a_label_of_no_class_is_no_class_of_another_group(value: int) -> None:
    label = torch.tensor([[0, value]])
    with pytest.raises(ValueError, match=f"label has the values .{value}."):
        grouped_counts(torch.zeros_like(label), label, torch.zeros_like(label), classes=3, groups=5)


def test_batches_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(0, 5, (6, 17, 13), generator=generator)
    prediction = torch.randint(0, 5, (6, 17, 13), generator=generator)
    whole, parts = Confusion(5), Confusion(5)
    whole.add(prediction, label)
    for index in range(6):
        parts.add(prediction[index], label[index])
    assert torch.equal(whole.counts, parts.counts)
    expected = np.zeros((5, 5), dtype=np.int64)
    np.add.at(expected, (label.flatten().numpy(), prediction.flatten().numpy()), 1)
    assert np.array_equal(whole.counts[:, :5].numpy(), expected)


@pytest.mark.fault(61)
def test_fault_61_absent_class_is_left_out_and_predicted_absent_class_is_zero() -> None:
    confusion = counted([[0, 0, 1]], [[0, 0, 0]], 3)
    iou = confusion.iou()
    assert iou[1] == 0
    assert iou[2].isnan()
    assert confusion.mean_iou() == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.fault(63)
def test_fault_63_counts_pass_two_to_the_31() -> None:
    confusion = Confusion(2)
    confusion.counts[0, 0] = 2**40
    confusion.add(torch.zeros(1, 1, dtype=torch.uint8), torch.zeros(1, 1, dtype=torch.uint8))
    assert confusion.counts[0, 0] == 2**40 + 1
    assert confusion.mean_iou() == 1.0


@pytest.mark.fault(66)
def test_fault_66_empty_evaluation_is_an_error() -> None:
    with pytest.raises(DataError, match="no labelled pixel"):
        Confusion(3).mean_iou()
    with pytest.raises(DataError, match="no labelled pixel"):
        counted([[1, 1]], [[255, 255]], 3).mean_iou()


def test_size_mismatch_names_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(2, 1\)"):
        Confusion(2).add(torch.zeros(1, 2, dtype=torch.uint8), torch.zeros(2, 1, dtype=torch.uint8))


def test_moments_agree_with_numpy_and_merge() -> None:
    generator = torch.Generator().manual_seed(2)
    values = torch.rand(1000, generator=generator) * 5
    group = torch.randint(-1, 3, (1000,), generator=generator)
    whole, first, second = Moments(4), Moments(4), Moments(4)
    whole.add(values, group)
    first.add(values[:300], group[:300])
    second.add(values[300:], group[300:])
    assert torch.allclose(whole.sums, first.sums + second.sums)
    for index in range(3):
        chosen = values[group == index].double().numpy()
        assert whole.mean()[index] == pytest.approx(chosen.mean())
        assert whole.std()[index] == pytest.approx(chosen.std())
        assert whole.count()[index] == len(chosen)
    assert whole.mean()[3].isnan()
