"""Pixel counts against a masked bincount and by hand."""

import pytest
import torch

from seg.ops import confusion_counts, dispatch

pytestmark = pytest.mark.usefixtures("body")
DTYPES = [torch.uint8, torch.int64, torch.int32]


def masked_bincount(prediction, label, classes, ignore):
    """The counts, one pair of classes at a time."""
    counts = torch.zeros(classes, classes + 1, dtype=torch.int64)
    for truth in range(classes):
        of_truth = prediction[(label == truth) & (label != ignore)].long()
        counts[truth, :classes] = torch.bincount(of_truth[(of_truth >= 0) & (of_truth < classes)], minlength=classes)
        counts[truth, classes] = ((of_truth < 0) | (of_truth >= classes)).sum()
    return counts


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label_dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 19, 21, 150])
def test_counts_are_those_of_a_masked_bincount(dtype, label_dtype, classes):
    torch.manual_seed(classes)
    label = torch.randint(0, classes, (3, 37, 53))
    label[torch.rand(label.shape) < 0.1] = 255
    prediction = torch.randint(0, min(256, classes + 20), label.shape)
    found = confusion_counts(prediction.to(dtype), label.to(label_dtype), classes, 255)
    assert found.dtype == torch.int64
    assert torch.equal(found, masked_bincount(prediction, label, classes, 255))


def test_counts_by_hand():
    label = torch.tensor([[0, 0, 1, 1, 255, 2]])
    prediction = torch.tensor([[0, 1, 1, 9, 0, 2]])
    assert confusion_counts(prediction, label, 3, 255).tolist() == [[1, 1, 0, 0], [0, 1, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
@pytest.mark.parametrize("size", [0, 1, 2, 63, 64, 65, 1 << 17])
def test_every_length_is_counted_whole(dtype, size):
    label = (torch.arange(size) % 7).to(dtype)
    counts = confusion_counts(label, label, 7, 255)
    assert counts.sum() == size
    assert torch.equal(counts[:, :7].diagonal(), torch.bincount(label.long(), minlength=7))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_ignored_pixels_may_be_a_class_number_too(dtype):
    label = torch.tensor([0, 1, 1, 2], dtype=dtype)
    assert confusion_counts(label, label, 3, 1).tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_strided_maps_are_counted_as_they_look():
    torch.manual_seed(0)
    label, prediction = torch.randint(0, 5, (20, 30)), torch.randint(0, 5, (30, 20)).t()
    expected = masked_bincount(prediction, label, 5, 255)
    assert torch.equal(confusion_counts(prediction, label, 5, 255), expected)
    assert torch.equal(
        confusion_counts(prediction[::2], label[::2], 5, 255), masked_bincount(prediction[::2], label[::2], 5, 255)
    )


def test_a_kernel_that_fails_is_told_of(monkeypatch):
    class Failing:
        def default(self, *arguments):
            raise RuntimeError("no kernel image is available")

    failing = type("Library", (), {"confusion": Failing()})
    monkeypatch.setattr(dispatch, "kernels", lambda device: failing)
    with pytest.raises(RuntimeError, match="no kernel image"):
        confusion_counts(torch.zeros(3, dtype=torch.uint8), torch.zeros(3, dtype=torch.uint8), 2, 255)


def test_negative_predictions_are_no_class():
    assert confusion_counts(torch.tensor([-1, -300, 0]), torch.tensor([0, 0, 0]), 1, 255).tolist() == [[1, 2]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_labels_that_are_no_class_are_named(dtype):
    label = torch.tensor([0, 3, 21, 255], dtype=dtype)
    with pytest.raises(ValueError, match=r"the label has the values \[3, 21\], which are neither 0 to 2 nor 255"):
        confusion_counts(label, label, 3, 255)


@pytest.mark.parametrize(
    "prediction, told",
    [
        (torch.zeros(2, 3), "prediction is torch.float32 but has to hold whole numbers"),
        (torch.zeros(3, 2, dtype=torch.int64), r"prediction is \[3, 2\] but label is \[2, 3\]"),
        (torch.zeros(2, 3, dtype=torch.int64, device="meta"), "prediction is on meta but label is on cpu"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(prediction, told):
    with pytest.raises(ValueError, match=told):
        confusion_counts(prediction, torch.zeros(2, 3, dtype=torch.int64), 2, 255)
