import numpy as np
import pytest
from scipy import ndimage

from seg.data import Creatures
from seg.data.creatures import PALETTE
from seg.errors import ConfigError


def test_an_image_depends_on_seed_split_and_index_alone() -> None:
    forwards, backwards = Creatures("val", images=6), Creatures("val", images=3)
    for index in (2, 0, 1):
        np.testing.assert_array_equal(backwards[index].image, forwards[index].image)
        np.testing.assert_array_equal(backwards[index].objects, forwards[index].objects)


def test_seeds_splits_and_indices_give_different_images() -> None:
    images = [Creatures("val")[0], Creatures("val")[1], Creatures("train")[0], Creatures("val", seed=1)[0]]
    assert len({sample.image.tobytes() for sample in images}) == 4


def test_changing_a_sample_does_not_change_the_data_set() -> None:
    data = Creatures("val", images=1)
    first = data[0].image.copy()
    data[0].image[:] = 0
    np.testing.assert_array_equal(data[0].image, first)


def test_every_body_is_one_piece_with_one_class_and_one_head() -> None:
    data = Creatures("val", images=12)
    for index in range(len(data)):
        sample = data[index]
        assert sample.objects is not None
        for number in range(1, int(sample.objects.max()) + 1):
            body = sample.objects == number
            assert ndimage.label(body, structure=np.ones((3, 3)))[1] == 1
            kinds = np.unique(sample.label[body])
            assert len(kinds) == 1
            assert kinds[0] > 0
            distance = np.abs(sample.image[body].astype(float) - PALETTE[kinds[0]]).max(axis=1)
            assert 8 <= (distance < 45).sum() <= 150, "the head's pixels have the colour of the class"
        np.testing.assert_array_equal(sample.label == 0, sample.objects == 0)


def test_bodies_do_not_touch_so_no_head_is_hidden() -> None:
    data = Creatures("val", images=12)
    for index in range(len(data)):
        objects = data[index].objects
        assert objects is not None
        pieces = ndimage.label(objects > 0, structure=np.ones((3, 3)))[1]
        assert pieces == objects.max()


def test_away_from_the_head_classes_look_the_same() -> None:
    data = Creatures("train", images=60)
    means: dict[int, list[np.ndarray]] = {kind: [] for kind in range(1, 5)}
    for index in range(len(data)):
        sample = data[index]
        assert sample.objects is not None
        for number in range(1, int(sample.objects.max()) + 1):
            core = ndimage.binary_erosion(sample.objects == number, iterations=4)
            kind = int(sample.label[sample.objects == number][0])
            coloured = np.ptp(sample.image.astype(int), axis=2) > 110
            pixels = sample.image[core & ~ndimage.binary_dilation(coloured, iterations=9)]
            if len(pixels) > 100:
                means[kind].append(pixels.mean(axis=0))
    by_class = np.array([np.mean(values, axis=0) for values in means.values()])
    assert np.ptp(by_class, axis=0).max() < 1.0, "grey levels, where the noise has a standard deviation of 14"


def test_lengths_are_the_longest_extent_of_each_object() -> None:
    data = Creatures("val", images=8)
    for index in range(len(data)):
        objects, lengths = data[index].objects, data.lengths(index)
        assert objects is not None
        assert len(lengths) == objects.max()
        for number, half_length in enumerate(lengths, start=1):
            rows, columns = np.nonzero(objects == number)
            points = np.stack([rows, columns], axis=1).astype(float)
            extent = max(np.linalg.norm(points - point, axis=1).max() for point in points[:: max(len(points) // 60, 1)])
            assert extent <= 2 * half_length + 3
            assert np.ptp(rows) ** 2 + np.ptp(columns) ** 2 >= (2 * half_length - 4) ** 2 * 0.99


def test_lengths_span_a_sevenfold_range() -> None:
    data = Creatures("train", images=60)
    lengths = np.concatenate([data.lengths(index) for index in range(len(data))])
    assert 10 <= lengths.min() < 11
    assert 63 < lengths.max() <= 70


def test_half_lengths_can_be_chosen_beyond_those_of_training() -> None:
    data = Creatures("test", images=12, size=320, half_length=(70, 110))
    lengths = np.concatenate([data.lengths(index) for index in range(len(data))])
    assert len(lengths) >= 24
    assert 70 <= lengths.min() < 80
    assert 100 < lengths.max() <= 110


def test_ground_of_the_bodies_texture_changes_the_paint_alone() -> None:
    plain, body = (Creatures("val", images=8, ground=ground) for ground in ("plain", "body"))
    assert (plain.name, body.name) == ("creatures", "creatures, body ground"), "results of the two are not compared"
    grounds, insides = [], []
    for index in range(len(plain)):
        np.testing.assert_array_equal(body[index].label, plain[index].label)
        np.testing.assert_array_equal(body[index].objects, plain[index].objects)
        inside = ndimage.binary_erosion(body[index].label > 0, iterations=4)
        coloured = ndimage.binary_dilation(np.ptp(body[index].image.astype(int), axis=2) > 130, iterations=9)
        grounds.append(body[index].image[body[index].label == 0])
        insides.append(body[index].image[inside & ~coloured])
    ground, inside = np.concatenate(grounds), np.concatenate(insides)
    np.testing.assert_allclose(ground.mean(0), inside.mean(0), atol=0.5)
    np.testing.assert_allclose(ground.std(0), inside.std(0), atol=0.5)


def test_an_outline_parts_each_body_from_ground_of_its_texture() -> None:
    sample = Creatures("val", images=1, ground="body")[0]
    edge = (sample.label > 0) & ~ndimage.binary_erosion(sample.label > 0)
    dark = sample.image.mean(axis=2) < 0.8 * sample.image[sample.label == 0].mean()
    assert dark[edge].mean() > 0.75, "all but the heads' edges"


@pytest.mark.parametrize(
    "wrong", [{"half_length": (70, 20)}, {"half_length": (2, 20)}, {"half_length": (80, 90)}, {"ground": "grey"}]
)
def test_impossible_scenes_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Creatures("val", **wrong)


def test_an_unknown_split_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"split='training': creatures has train, val, test"):
        Creatures("training")


def test_an_image_too_small_for_bodies_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 64 px"):
        Creatures("val", size=32)


def test_an_index_out_of_range_ends_an_iteration() -> None:
    data = Creatures("val", images=2)
    assert [sample.name for sample in data] == ["val_00000", "val_00001"]  # type: ignore[attr-defined]
