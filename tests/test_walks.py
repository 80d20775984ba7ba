"""Two of the three walks through the house, each as short as a walk should be; the third is in test_conf."""

import pytest
import torch

from seg.analysis import DilationBySize, effective_dilation, record_offsets
from seg.data import Creatures, evaluate_loader, evaluation_transform
from seg.engine import Runtime, evaluate
from seg.engine.inference import forward
from seg.metrics import Confusion
from seg.models import DeepLab, Deform, Dilated, tiny


def test_an_image_goes_from_the_data_set_to_the_metric() -> None:
    data = Creatures(split="val", images=3)
    loader = evaluate_loader(data, evaluation_transform(), batch_size=2)
    model = DeepLab(tiny(Dilated), classes=len(data.classes))
    runtime = Runtime(device="cpu", precision="fp32")
    result = evaluate(model, loader, classes=5, thresholds=(32, 64), runtime=runtime, images=len(data))

    by_hand = Confusion(5)
    with torch.no_grad():
        for batch in loader:
            by_hand.add(forward(model, batch, runtime).argmax(1), batch.label)
    assert torch.equal(result.confusion.counts, by_hand.counts)
    assert result.confusion.counts.sum() == sum((data[index].label != 255).sum() for index in range(3))
    assert torch.equal(sum(part.counts for part in result.by_size), by_hand.counts)
    scores = result.scores(data.classes)
    assert scores["miou"] == by_hand.mean_iou()
    assert [row["name"] for row in scores["per_image"]] == data.names


def test_an_offset_goes_from_the_layer_to_the_table() -> None:
    data = Creatures(split="val", images=2)
    batch = next(iter(evaluate_loader(data, evaluation_transform(), batch_size=2)))
    model = DeepLab(tiny(Deform), classes=5).eval()
    for layer in (module for module in model.modules() if isinstance(module, Deform)):
        torch.nn.init.normal_(layer.offset.bias, std=0.7)
    dilation = DilationBySize((32, 64))
    with torch.no_grad(), record_offsets(model) as recorded:
        model(batch.image)
        dilation.add(recorded, batch.size, batch.image.shape[-2:])
    rows = dilation.rows()
    assert len(rows) == 3 * 4
    for name, layer in recorded.items():
        local = effective_dilation(layer.positions)
        counted = [row for row in rows if row["layer"] == name and row["count"]]
        assert sum(row["count"] for row in counted) == local.numel()
        total = sum(row["mean"] * row["count"] for row in counted)
        assert total / local.numel() == pytest.approx(float(local.mean()), rel=1e-5)
