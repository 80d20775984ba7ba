"""Boxes of objects out of their masks."""

import numpy as np
import pytest
import torch

from seg.data import BoxLoader, Creatures, Sample, evaluation_transform, training_transform
from seg.data.boxes import object_boxes
from seg.errors import ConfigError, DataError


def sample(objects=True):
    label, numbers = np.zeros((20, 30), np.uint8), np.zeros((20, 30), np.int32)
    label[2:12, 5:20], numbers[2:12, 5:20] = 3, 1
    label[2:12, 5:7] = 255  # the object's rim
    label[15:18, 0:3], numbers[15:18, 0:3] = 4, 2  # small
    numbers[:, 25:] = -1
    return Sample(np.zeros((20, 30, 3), np.uint8), label, numbers if objects else None, "made")


def test_boxes_hold_their_object_and_have_its_commonest_class():
    boxes, classes = object_boxes(sample(), smallest=3)
    assert boxes.tolist() == [[5, 2, 20, 12], [0, 15, 3, 18]]
    assert classes.tolist() == [3, 4]


def test_class_0_is_a_class_where_it_is_no_background():
    without = sample()
    without.label[without.label == 3] = 0
    assert object_boxes(without, smallest=3)[1].tolist() == [4]
    assert object_boxes(without, smallest=3, background=None)[1].tolist() == [0, 4]

    class Things(Repeated):
        classes = ("door", "wheel", "lamp", "glass", "plate")

        def __getitem__(self, index):
            return without

    loaded = next(iter(BoxLoader(Things(), evaluation_transform(), batch_size=1, smallest=3)))
    assert loaded.label.tolist() == [0, 4]


def test_small_objects_are_left_out():
    assert object_boxes(sample(), smallest=4)[1].tolist() == [3]


def test_data_without_objects_are_an_error():
    with pytest.raises(DataError, match="made: there are no objects"):
        object_boxes(sample(objects=False))


class Repeated:
    """A data set of one sample, several times."""

    name, split, names, classes = "made", "train", ["made"] * 3, ("background",)

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return sample()


def test_boxes_follow_the_resized_image_and_sizes_stay_those_of_the_label():
    batch = next(iter(BoxLoader(Repeated(), evaluation_transform(resize=40), batch_size=1)))
    assert batch.image.image.shape == (1, 3, 40, 60)
    assert batch.image.rois.tolist() == [[0, 10, 4, 40, 24]]
    assert batch.size.item() == pytest.approx(150**0.5)


def test_a_mirrored_image_has_mirrored_boxes():
    loader = BoxLoader(Repeated(), evaluation_transform(), batch_size=3, flip=True)
    found = {tuple(roi[1:]) for epoch in range(4) for batch in loader.epoch(epoch) for roi in batch.image.rois.tolist()}
    assert found == {(5, 2, 20, 12), (10, 2, 25, 12)}


def test_each_image_of_each_epoch_is_changed_in_its_own_way():
    """Here by its scale; and the mirror's draw is not one that the creatures were made by."""
    loader = BoxLoader(Creatures("train", images=6), training_transform(scale=(0.5, 2), flip=False), batch_size=1)
    sizes = {(epoch, batch.image.image.shape[-1]) for epoch in range(2) for batch in loader.epoch(epoch)}
    assert len(sizes) == 12
    read = [batch.image.image.shape[-1] for batch in loader]
    assert read == [batch.image.image.shape[-1] for batch in loader]


def test_an_epoch_goes_on_where_it_stopped():
    loader = BoxLoader(Creatures("train", images=7), evaluation_transform(), batch_size=2, seed=1, flip=True)
    whole, rest = list(loader.epoch(3)), list(loader.epoch(3, start=1))
    assert len(whole) == len(loader) == 3
    for a, b in zip(whole[1:], rest, strict=True):
        assert a.names == b.names
        assert torch.equal(a.image.image, b.image.image)
        assert torch.equal(a.image.rois, b.image.rois)


def test_too_few_images_with_objects_are_an_error():
    with pytest.raises(ConfigError, match=r"has 3 images with objects of 8 px or more, batch_size=4"):
        BoxLoader(Repeated(), evaluation_transform(), batch_size=4)
