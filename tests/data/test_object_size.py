import numpy as np
import pytest
import torch

from seg.data.object_size import connected_components, object_size
from seg.sizes import SIZES, size_class


def slow_size(objects: np.ndarray, by: str) -> np.ndarray:
    """The definition, pixel by pixel."""
    boxes = {}
    for k in set(objects.ravel().tolist()) - {0, -1}:
        rows, columns = np.nonzero(objects == k)
        boxes[k] = (rows.min(), rows.max(), columns.min(), columns.max())
    area = {k: (r1 - r0 + 1) * (c1 - c0 + 1) for k, (r0, r1, c0, c1) in boxes.items()}
    result = np.zeros(objects.shape, dtype=np.float32)
    for (r, c), k in np.ndenumerate(objects):
        inside = [area[j] for j, (r0, r1, c0, c1) in boxes.items() if r0 <= r <= r1 and c0 <= c <= c1]
        if by == "object":
            result[r, c] = np.nan if k < 0 else area.get(k, 0) ** 0.5
        elif inside:
            result[r, c] = min(inside) ** 0.5
        else:
            result[r, c] = np.nan if k < 0 else 0
    return result


@pytest.mark.parametrize("by", ["object", "box"])
@pytest.mark.parametrize("seed", range(5))
def test_size_equals_the_definition_pixel_by_pixel(by: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    objects = np.zeros((17, 23), dtype=np.int32)
    for k in (1, 2, 5, 9):
        top, left = rng.integers(0, 14), rng.integers(0, 19)
        objects[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = k
    objects[rng.random(objects.shape) < 0.1] = -1
    np.testing.assert_array_equal(object_size(objects, by), slow_size(objects, by))


def test_an_l_shape_has_the_size_of_its_box_not_of_its_pixels() -> None:
    objects = np.zeros((10, 12), dtype=np.int32)
    objects[1:9, 2] = 3
    objects[8, 2:11] = 3
    assert object_size(objects)[4, 2] == pytest.approx((8 * 9) ** 0.5)
    assert object_size(objects)[4, 6] == 0
    assert object_size(objects, "box")[4, 6] == pytest.approx((8 * 9) ** 0.5)


def test_an_image_without_objects_is_background() -> None:
    assert (object_size(np.zeros((3, 4), dtype=np.int32)) == 0).all()
    assert np.isnan(object_size(np.full((3, 4), -1, dtype=np.int32))).all()


def test_size_read_by_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="by='area'"):
        object_size(np.zeros((3, 4), dtype=np.int32), "area")


def test_size_classes_part_at_the_thresholds() -> None:
    size = torch.tensor([[1.0, 31.9, 32.0, 64.0], [64.1, 0.0, float("nan"), 500.0]])
    names = [SIZES[k] if k >= 0 else "unknown" for k in size_class(size, (32, 64)).flatten().tolist()]
    assert names == ["small", "small", "medium", "medium", "large", "background", "unknown", "large"]


def test_size_classes_take_arrays_too() -> None:
    assert size_class(np.array([96, 225], dtype=np.float32)).tolist() == [1, 2]


@pytest.mark.parametrize("thresholds", [(64, 32), (0, 32), (-1, 5)])
def test_thresholds_out_of_order_are_refused(thresholds: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="the smaller one first"):
        size_class(torch.zeros(2), thresholds)


def test_components_are_counted_through_all_classes_of_things() -> None:
    label = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [2, 2, 0, 3], [2, 255, 3, 0]], dtype=np.uint8)
    expected = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [2, 2, 0, 0], [2, -1, 0, 0]])
    np.testing.assert_array_equal(connected_components(label, (1, 2)), expected)
