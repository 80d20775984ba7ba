"""Constant, position and content, against offsets that were made of known parts."""

import pytest
import torch

from seg.analysis import Recorded
from seg.analysis.variation import Following, Variation
from seg.models import Cells


def recorded(offset: torch.Tensor) -> dict[str, Recorded]:
    return {"a": Recorded(offset, (3, 3), (1, 1), (2, 2), (2, 2), Cells(8))}


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_offsets_made_of_three_parts_are_taken_apart_into_them() -> None:
    """Mean squares 4, 1 and 9 of constant, position and content."""
    position = normal(1, 18, 12, 12, seed=1)
    position = (position - position.mean((2, 3), keepdim=True)) / position.std(correction=0)
    variation = Variation()
    for seed in range(40):
        variation.add(recorded(2 + position + 3 * normal(2, 18, 12, 12, seed=10 + seed)))
    (row,) = variation.rows()
    assert row["images"] == 80
    assert row["rms"] == pytest.approx(14**0.5, rel=0.02)
    assert [row[part] for part in ("constant", "position", "content")] == [
        pytest.approx(4 / 14, abs=0.01), pytest.approx(1 / 14, abs=0.01), pytest.approx(9 / 14, abs=0.01)
    ]  # fmt: skip


def test_few_images_of_pure_noise_show_no_position() -> None:
    """The mean of 3 images varies over positions by a third of the noise, which is no effect of position."""
    variation = Variation()
    variation.add(recorded(normal(3, 18, 20, 20, seed=0)))
    (row,) = variation.rows()
    assert row["position"] < 0.02
    assert row["content"] > 0.97


def test_equal_images_leave_nothing_to_content() -> None:
    variation = Variation()
    for _ in range(3):
        variation.add(recorded(normal(1, 18, 9, 9, seed=0)))
    assert variation.rows()[0]["content"] == pytest.approx(0, abs=1e-9)


def test_zero_offsets_and_a_single_image_have_no_shares() -> None:
    variation = Variation()
    variation.add(recorded(torch.zeros(2, 18, 3, 3)))
    assert variation.rows()[0]["content"] is None
    variation = Variation()
    variation.add(recorded(torch.ones(1, 18, 3, 3)))
    assert variation.rows()[0]["constant"] is None


def test_images_of_two_sizes_are_refused() -> None:
    variation = Variation()
    variation.add(recorded(torch.ones(1, 18, 3, 3)))
    with pytest.raises(ValueError, match="images of one size"):
        variation.add(recorded(torch.ones(1, 18, 3, 4)))


def test_offsets_that_move_with_the_image_follow_and_those_of_a_place_stay() -> None:
    field, place = normal(1, 18, 22, 22, seed=0), normal(1, 18, 20, 20, seed=1)
    moving, staying = Following(16), Following(16)
    moving.add(recorded(field[..., :20, :20]), recorded(field[..., 2:, 2:]))
    staying.add(recorded(place), recorded(place))
    assert moving.rows()[0]["follows"] == pytest.approx(1)
    assert abs(moving.rows()[0]["stays"]) < 0.05
    assert staying.rows()[0]["stays"] == pytest.approx(1)
    assert abs(staying.rows()[0]["follows"]) < 0.05


def test_the_cuts_show_the_same_content_a_shift_apart() -> None:
    image = normal(1, 3, 40, 50, seed=0)
    first, second = Following(16).cuts(image)
    assert first.shape == second.shape == (1, 3, 24, 34)
    assert torch.equal(first[..., 16:, 16:], second[..., :-16, :-16])


@pytest.mark.parametrize("shift, words", [(0, "at least 1"), (12, "multiple of 8")])
def test_a_shift_of_no_whole_cells_is_refused(shift: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Following(shift).add(recorded(torch.ones(1, 18, 3, 3)), recorded(torch.ones(1, 18, 3, 3)))
