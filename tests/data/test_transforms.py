import inspect
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from seg.data import (
    Creatures,
    Sample,
    caffe_normalization,
    evaluation_transform,
    imagenet_normalization,
    one_batch,
    training_transform,
)
from seg.data.transforms import PADDING, resized_shape, rotate
from seg.errors import ConfigError, DataError


def coded(height: int = 24, width: int = 24) -> Sample:
    """A sample whose label, objects and image can be told from each other: block (i, j) of 4 px has id 5 i + j."""
    rows, columns = np.arange(height)[:, None] // 4, np.arange(width)[None, :] // 4
    ids = (5 * rows + columns).astype(np.uint8)
    image = np.stack([ids * 7, 255 - ids * 7, ids], axis=-1).astype(np.uint8)
    return Sample(image, ids, ids.astype(np.int32) + 1000, "coded")


def agrees(sample: Sample) -> bool:
    """Whether image, label and objects still lie on each other."""
    assert sample.objects is not None
    known = sample.label != 255
    same_objects = (sample.objects[known] == sample.label[known].astype(int) + 1000).all()
    return bool((sample.image[..., 2][known] == sample.label[known]).all() and same_objects)


def test_flips_turns_and_crops_keep_image_label_and_objects_together() -> None:
    transform = training_transform(crop=(10, 10), rotate90=True)
    changed = [transform(coded(), seed) for seed in range(20)]
    assert all(agrees(sample) for sample in changed)
    assert len({sample.label.tobytes() for sample in changed}) > 10


def test_scaling_keeps_label_and_objects_together_and_near_the_image() -> None:
    transform = training_transform(scale=(0.5, 2.0), flip=False)
    sizes = set()
    for seed in range(12):
        sample = transform(coded(40, 48), seed)
        assert sample.objects is not None
        np.testing.assert_array_equal(sample.objects, sample.label.astype(int) + 1000)
        if sample.label.shape[0] >= 40:
            assert (np.abs(sample.image[..., 2].astype(int) - sample.label) <= 6).all()
        sizes.add(sample.label.shape)
        assert 20 <= sample.label.shape[0] <= 80
    assert len(sizes) > 6


@pytest.mark.fault(43)
def test_fault_43_an_image_smaller_than_the_crop_is_padded_with_mean_255_and_unknown() -> None:
    sample = training_transform(crop=(40, 50), flip=False)(coded(), 3)
    assert sample.objects is not None
    padded = sample.label == 255
    assert padded.sum() == 40 * 50 - 24 * 24
    assert (sample.objects[padded] == -1).all()
    assert (sample.image[padded] == PADDING).all()
    assert agrees(sample)


def test_padding_is_near_zero_after_either_normalisation() -> None:
    pixel = torch.tensor(PADDING, dtype=torch.uint8).view(1, 1, 3)
    assert imagenet_normalization()(pixel).abs().max() < 0.01
    assert caffe_normalization()(pixel).abs().max() < 1


def test_a_mirror_image_exchanges_left_and_right_classes() -> None:
    label = np.array([[3, 0, 5], [3, 4, 255]], dtype=np.uint8)
    sample = Sample(np.zeros((2, 3, 3), np.uint8), label, label.astype(np.int32), "car", flip_pairs=((3, 5),))
    transform = training_transform()
    seen = {transform(sample, seed).label.tobytes() for seed in range(20)}
    mirrored = np.array([[3, 0, 5], [255, 4, 5]], dtype=np.uint8)
    assert seen == {label.tobytes(), mirrored.tobytes()}


def test_flip_false_never_mirrors() -> None:
    transform = training_transform(flip=False)
    assert {transform(coded(), seed).label.tobytes() for seed in range(20)} == {coded().label.tobytes()}


def test_half_of_the_samples_are_mirrored_and_turns_are_even() -> None:
    transform = training_transform(rotate90=True)
    corners = [int(transform(coded(), seed).label[0, 0]) for seed in range(400)]
    counts = [corners.count(int(coded().label[i, j])) for i in (0, -1) for j in (0, -1)]
    assert sum(counts) == 400
    assert min(counts) > 70


def test_color_changes_the_image_alone() -> None:
    sample = training_transform(color=0.4, flip=False)(coded(), 1)
    assert (sample.image != coded().image).any()
    np.testing.assert_array_equal(sample.label, coded().label)


def test_the_same_seed_gives_the_same_sample() -> None:
    transform = training_transform(crop=(10, 10), scale=(0.5, 2.0), rotate90=True, color=0.3)
    first = transform(coded(), 7)
    transform(coded(), 8)
    again = transform(coded(), 7)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)


def test_scale_place_and_colour_of_a_crop_are_draws_of_their_own() -> None:
    rows, columns = np.mgrid[:120, :120]
    sample = Sample(np.full((120, 120, 3), 100, np.uint8), rows.astype(np.uint8), columns.astype(np.int32), "ramps")
    transform = training_transform(crop=(48, 48), scale=(0.5, 2.0), color=0.4, flip=False)
    draws = []
    for seed in range(300):
        crop = transform(sample, seed)
        assert crop.objects is not None
        seen = int(np.ptp(crop.label[:, 0])) + 1  # rows of the scene; the scale is 48 of them
        place = [crop.label.min() / (121 - seen), crop.objects.min() / (121 - seen)]
        draws.append([48 / seen, *place, crop.image.mean()])
    tied = np.corrcoef(np.transpose(draws)) - np.eye(4)
    assert np.abs(tied).max() < 0.25, tied.round(2)


def test_training_resizes_label_and_objects_with_the_image() -> None:
    sample = training_transform(resize=12, flip=False)(coded(24, 36), 0)
    assert sample.image.shape == (12, 18, 3)
    np.testing.assert_array_equal(sample.label, coded(24, 36).label[1::2, 1::2])


def test_evaluation_resizes_the_image_alone() -> None:
    before = coded(24, 36)
    sample = evaluation_transform(resize=(12, 15))(before)
    assert sample.image.shape == (10, 15, 3)
    assert sample.label is before.label
    assert sample.objects is before.objects


@pytest.mark.parametrize(
    ("resize", "shape"),
    [
        (None, (375, 500)),
        (0, (375, 500)),
        (360, (360, 480)),
        ((360, 600), (360, 480)),
        ((360, 400), (300, 400)),
        ((720, 2000), (720, 960)),
    ],
)
def test_short_side_is_reached_unless_the_long_side_is_limited(resize: object, shape: tuple[int, int]) -> None:
    assert resized_shape(375, 500, resize) == shape  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": (2.0, 0.5)}, "scale="),
        ({"scale": (0.0, 1.0)}, "scale="),
        ({"crop": (0, 5)}, "crop="),
        ({"crop": (5,)}, "crop="),
        ({"color": 1.5}, "color=1.5"),
        ({"rotate90": True, "crop": (8, 9)}, "square crop"),
        ({"resize": -1}, "resize=-1"),
        ({"resize": (5, -1)}, "resize="),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        training_transform(**arguments)  # type: ignore[arg-type]


def test_a_mistyped_argument_is_refused() -> None:
    with pytest.raises(TypeError, match="rotate"):
        training_transform(rotate=True)  # type: ignore[call-arg]


def test_albumentations_knows_every_argument_that_it_is_given() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        training_transform(crop=(8, 8), scale=(0.5, 2.0), color=0.5, rotate90=True)


def test_quarter_turns_of_an_image_that_is_not_square_are_refused_by_name() -> None:
    with pytest.raises(DataError, match="coded is 36x24 px"):
        rotate(coded(24, 36), 1)


def test_object_numbers_beyond_16_bits_are_kept_and_beyond_24_refused_by_name() -> None:
    """Noise has many components; a float32 would round larger numbers."""
    objects = np.full((24, 24), 70_000, dtype=np.int32)
    objects[:12] = 2**24
    found = training_transform(crop=(20, 20), scale=(0.5, 2.0))(replace(coded(), objects=objects), 3).objects
    assert set(np.unique(found)) <= {-1, 70_000, 2**24}
    assert {70_000, 2**24} <= set(np.unique(found))
    with pytest.raises(DataError, match=f"coded: object id {2**24 + 1}"):
        training_transform()(replace(coded(), objects=objects + 1), 0)


def test_transforms_can_be_sent_to_another_process() -> None:
    transform = training_transform(crop=(10, 10), scale=(0.5, 2.0), color=0.2)
    copy = pickle.loads(pickle.dumps(transform))
    np.testing.assert_array_equal(copy(coded(), 5).image, transform(coded(), 5).image)


def test_normalisation_equals_torchvisions_and_can_be_undone() -> None:
    from torchvision.transforms.v2.functional import normalize

    image = torch.from_numpy(Creatures("val", images=1)[0].image)
    expected = normalize(image.permute(2, 0, 1) / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(imagenet_normalization()(image), expected, rtol=1e-5, atol=1e-5)
    for normalization in (imagenet_normalization(), caffe_normalization()):
        assert torch.equal(normalization.undo(normalization(image)), image)


def test_caffe_normalisation_subtracts_the_releases_means_in_rgb_order() -> None:
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(1, 1, 3)
    torch.testing.assert_close(caffe_normalization()(red).flatten(), torch.tensor([76.85, -115.90, -103.06]))


def test_every_argument_can_be_written_in_yaml() -> None:
    plain = (int, float, bool, str, type(None))
    for function in (training_transform, evaluation_transform):
        for parameter in inspect.signature(function).parameters.values():
            assert isinstance(parameter.default, plain)


def test_resized_truth_has_the_size_of_the_image_and_takes_the_pixel_under_each_centre() -> None:
    label = np.arange(12, dtype=np.uint8).repeat(18).reshape(12, 18)
    objects = np.where(label > 5, 70_00, -1).astype(np.int32)
    sample = Sample(np.zeros((12, 18, 3), np.uint8), label, objects, "a")
    found = evaluation_transform(resize=4, truth="resized")(sample)
    assert found.image.shape == (4, 6, 3)
    assert found.label.tolist() == [[row] * 6 for row in (1, 4, 7, 10)]  # a third: the middle one of each three
    assert found.objects is not None
    assert found.objects.tolist() == [[k] * 6 for k in (-1, -1, 7000, 7000)]
    with pytest.raises(ConfigError, match="truth='half'"):
        evaluation_transform(truth="half")


def test_sizes_stay_those_of_the_annotated_image_where_the_truth_is_resized() -> None:
    label = np.zeros((90, 120), np.uint8)
    objects = np.zeros((90, 120), np.int32)
    label[30:60, 12:36], objects[30:60, 12:36] = 1, 1
    sample = Sample(np.zeros((90, 120, 3), np.uint8), label, objects, "a")
    for truth in ("original", "resized"):
        batch = one_batch([sample], 0, evaluation_transform(resize=30, truth=truth), size_by="object")  # type: ignore[arg-type]
        assert float(batch.size.max()) == pytest.approx((30 * 24) ** 0.5, rel=1e-6)
        assert int((batch.size > 0).sum()) == (30 * 24 if truth == "original" else 10 * 8)
