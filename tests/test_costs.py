"""Table 4's nets and what is counted of them; their times are for a quiet machine."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from costs import cost_cases, sizes_and_operations, whole_run  # noqa: E402

from seg.engine import Runtime  # noqa: E402
from seg.errors import ConfigError  # noqa: E402
from seg.models import DeepLab, Deform, tiny  # noqa: E402


@pytest.mark.parametrize("dataset, plain", [("voc", 44_619_861), ("cityscapes", 44_617_811)])
def test_deformable_layers_add_their_offset_convolutions_and_nothing_else(dataset: str, plain: int) -> None:
    counts = sizes_and_operations(dataset)
    # three offset convolutions of 9 x 512 x 18 weights and 18 biases
    assert counts["parameters"] == {"plain": plain, "deformable": plain + 3 * (9 * 512 * 18 + 18)}
    # at stride 16 with the release's pooling in ceil mode: 360 x 600 gives 23 x 38 cells, 1024 x 2048 gives 64 x 128
    cells = {"voc": 23 * 38, "cityscapes": 64 * 128}[dataset]
    assert counts["flops"]["deformable"] - counts["flops"]["plain"] == 2 * 3 * 9 * 512 * 18 * cells


def test_a_whole_run_labels_every_pixel_of_the_image() -> None:
    torch.manual_seed(0)
    runtime = Runtime(device="cpu", precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    with torch.inference_mode():
        label = whole_run(DeepLab(tiny(Deform), 5).eval(), pixels, (60, 80), runtime)
    assert (label.dtype, tuple(label.shape)) == (torch.uint8, (1, 30, 50))


def test_an_unknown_data_set_is_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="dataset is 'coco'; choose from voc, cityscapes"):
        next(cost_cases("coco", [], "cpu"))
