"""Statistics of the report against closed forms and against going through every case."""

import itertools

import numpy as np
import pytest

from seg.report.results import Dilation, Images
from seg.report.statistics import dataset_miou, image_miou, mean_std, paired_bootstrap, pool


def images(shares: list[float] | np.ndarray, union: int = 1000) -> Images:
    intersection = np.array([[round(share * union)] for share in shares], dtype=np.int64)
    return Images(tuple(map(str, range(len(shares)))), intersection, np.full_like(intersection, union))


def test_mean_and_sample_deviation_of_seeds() -> None:
    found = mean_std([0.1, None, 0.3])
    assert found.mean == pytest.approx(0.2)
    assert found.std == pytest.approx(0.1 * 2**0.5)
    assert found.n == 2


def test_one_seed_has_no_deviation_and_none_has_no_mean() -> None:
    assert mean_std([0.5]).std is None
    assert (mean_std([None]).mean, mean_std([None]).n) == (None, 0)


def test_pooled_dilation_is_that_of_all_filters_together() -> None:
    random = np.random.default_rng(0)
    samples = [random.normal(3, 1, 40), random.normal(5, 2, 7)]
    cells = [Dilation("layer", "small", float(s.mean()), float(s.std()), len(s)) for s in samples]
    together = np.concatenate(samples)
    found = pool([*cells, Dilation("layer", "small", None, None, 0)])
    assert (found.mean, found.std, found.n) == (pytest.approx(together.mean()), pytest.approx(together.std()), 47)


def test_miou_of_counts_equals_the_definition_on_label_maps() -> None:
    random = np.random.default_rng(1)
    truth, found = random.integers(0, 3, (2, 50))  # of 4 classes, the last is nowhere
    intersection = np.array([[((truth == c) & (found == c)).sum() for c in range(4)]])
    union = np.array([[((truth == c) | (found == c)).sum() for c in range(4)]])
    by_hand = [intersection[0, c] / union[0, c] for c in range(3)]
    assert dataset_miou(intersection.sum(0), union.sum(0)) == pytest.approx(sum(by_hand) / 3)


def test_image_miou_is_one_number_for_each_image() -> None:
    assert image_miou(images([0.25, 0.5])).tolist() == [0.25, 0.5]
    unlabelled = Images(("a",), np.zeros((1, 2), np.int64), np.zeros((1, 2), np.int64))
    assert np.isnan(image_miou(unlabelled)).all()


def test_equal_gain_on_every_image_has_an_interval_of_no_width() -> None:
    shares = np.random.default_rng(2).uniform(0.1, 0.8, 30).round(2)
    assert paired_bootstrap([images(shares + 0.1)], [images(shares)]) == pytest.approx((0.1, 0.1))


def test_interval_of_many_images_is_the_normal_one() -> None:
    gains = np.random.default_rng(3).normal(0.05, 0.1, 400)
    low, high = paired_bootstrap([images(0.5 + gains, 10**6)], [images([0.5] * 400, 10**6)]) or (0, 0)
    half = 1.96 * gains.std() / 400**0.5
    assert (low, high) == pytest.approx((gains.mean() - half, gains.mean() + half), abs=0.15 * half)


def test_interval_of_three_images_matches_all_resamples() -> None:
    union = np.array([[100, 40], [30, 60], [80, 10]])
    ours = Images(("a", "b", "c"), np.array([[80, 10], [12, 50], [70, 1]]), union)
    theirs = Images(("a", "b", "c"), np.array([[70, 5], [15, 20], [60, 4]]), union)
    every = []
    for drawn in itertools.product(range(3), repeat=3):
        sides = [
            np.mean([sum(s.intersection[i, c] for i in drawn) / sum(union[i, c] for i in drawn) for c in range(2)])
            for s in (ours, theirs)
        ]
        every.append(sides[0] - sides[1])
    # each extreme has a probability of 1 / 27 or more, so that the 2.5 % quantiles are the extremes themselves
    centred = np.mean(ours.intersection.sum(0) / union.sum(0) - theirs.intersection.sum(0) / union.sum(0)) - np.mean(
        every
    )
    expected = min(every) + centred, max(every) + centred
    assert paired_bootstrap([ours], [theirs], resamples=100_000) == pytest.approx(expected, abs=0.001)


def test_a_difference_lies_in_its_interval_where_resamples_lose_rare_classes() -> None:
    number, common, rare = 40, 10, 60
    union = np.full((number, common + rare), 1000)
    union[:, common:] = 0
    union[np.arange(rare) % number, common + np.arange(rare)] = 100  # each in one image
    better = np.where(np.arange(common + rare) < common, 40, 90)
    sides = [Images(tuple(map(str, range(number))), union * share // 100, union) for share in (better, 40)]
    low, high = paired_bootstrap([sides[0]], [sides[1]]) or (0, 0)
    assert low < 0.5 * rare / (common + rare) < high


def test_the_spread_of_seeds_is_in_the_interval() -> None:
    """Two nets of one kind, each in five seeds, on so many images that their choice hardly counts."""
    random, outside = np.random.default_rng(6), 0
    for _ in range(200):
        values = random.normal(0.5, 0.02, (2, 5))
        sides = [[images(np.full(50, value).round(4), 10**4) for value in side] for side in values]
        low, high = paired_bootstrap(*sides, resamples=400) or (0, 0)
        outside += not low <= 0 <= high
    assert 0.02 * 200 < outside < 0.13 * 200, "5 % in the limit of many seeds"


def test_seeds_are_drawn_again_within_a_resample() -> None:
    shares = np.random.default_rng(4).uniform(0.3, 0.6, 20).round(2)
    ours = [images(shares + 0.2), images(shares - 0.1)]  # one of the two is drawn
    assert paired_bootstrap(ours, [images(shares)]) == pytest.approx((-0.1, 0.2), abs=0.01)


def test_bootstrap_repeats_exactly() -> None:
    random = np.random.default_rng(5)
    pair = [images(random.uniform(0, 1, 25))], [images(random.uniform(0, 1, 25))]
    assert paired_bootstrap(*pair) == paired_bootstrap(*pair)


def test_other_images_have_no_interval() -> None:
    assert paired_bootstrap([images([0.1, 0.2])], [images([0.1, 0.2, 0.3])]) is None
    assert paired_bootstrap([], [images([0.1])]) is None
    assert paired_bootstrap([images([0.1])], [images([0.3])]) is None, "of one image nothing is known"
