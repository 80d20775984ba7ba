"""Several scales, mirror images and windows, against sums written out by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seg.data import Batch
from seg.engine import Inference, Runtime
from seg.errors import ConfigError, RunError
from seg.models import DeepLab, Dilated, tiny


def a_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3, padding=1).eval()


def a_batch(height: int = 17, width: int = 23, shape: tuple[int, int] | None = None) -> Batch:
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))
    label = torch.zeros(1, *(shape or (height, width)), dtype=torch.int64)
    return Batch(image, label, label.float(), ("a",))


def scores(net: nn.Module, batch: Batch, **options: object) -> Tensor:
    with torch.inference_mode():
        return Inference(**options).scores(net, batch, Runtime(device="cpu", precision="fp32"))


def test_plain_scores_are_the_logits_at_the_labels_resolution() -> None:
    net, batch = a_net(), a_batch(shape=(34, 46))
    expected = F.interpolate(net(batch.image), (34, 46), mode="bilinear", align_corners=False)
    assert torch.allclose(scores(net, batch), expected, atol=1e-6)


def test_scales_and_mirror_images_are_averaged_as_probabilities() -> None:
    net, batch = a_net(), a_batch()
    parts = []
    for shape in ((8, 12), (17, 23), (34, 46)):  # round(17 / 2) and round(23 / 2), to even
        image = F.interpolate(batch.image, shape, mode="bilinear", align_corners=False)
        for given in (image, image.flip(3)):
            found = net(given).softmax(1)
            found = found.flip(3) if given is not image else found
            parts.append(F.interpolate(found, (17, 23), mode="bilinear", align_corners=False))
    found = scores(net, batch, scales=[0.5, 1.0, 2.0], flip=True)
    assert torch.allclose(found, torch.stack(parts).mean(0), atol=1e-6)
    assert torch.allclose(found.sum(1), torch.ones(1, 17, 23), atol=1e-5)


def test_left_and_right_classes_change_places_in_the_mirror_image() -> None:
    class Columns(nn.Module):
        """Class k where the column's value is k: what it says of a mirror image, a left part is a right one."""

        def forward(self, image: Tensor) -> Tensor:
            return torch.where(image[:, :1] == torch.arange(4.0).view(1, 4, 1, 1), 50.0, 0.0)

    columns = torch.tensor([[1.0, 1.0, 3.0, 2.0, 0.0]])
    image = columns.expand(1, 3, 2, 5)
    batch = Batch(image, torch.zeros(1, 2, 5).long(), torch.zeros(1, 2, 5), ("a",), flip_pairs=((1, 3),))
    found = scores(Columns(), batch, flip=True)[0, :, 0]
    # by hand: half of each column's own class, half of what the net says of it when it is mirrored, exchanged
    expected = torch.tensor([[0, 0, 0, 0, 1], [0.5, 0.5, 0.5, 0, 0], [0, 0, 0, 1, 0], [0.5, 0.5, 0.5, 0, 0]])
    assert torch.allclose(found, expected, atol=1e-5)
    wrong = Batch(batch.image, batch.label, batch.size, batch.names, flip_pairs=((1, 4),))
    with pytest.raises(ValueError, match=r"flip_pairs has \(1, 4\), the scores are of 4 classes"):
        scores(Columns(), wrong, flip=True)


def test_windows_cover_every_pixel_and_overlaps_are_averaged() -> None:
    net, batch = a_net(), a_batch()
    total, count = torch.zeros(1, 4, 17, 23), torch.zeros(17, 23)
    for y in (0, 6, 9):  # the last one ends with the image: 17 - 8
        for x in (0, 9, 11):
            total[..., y : y + 8, x : x + 12] += net(batch.image[..., y : y + 8, x : x + 12]).softmax(1)
            count[y : y + 8, x : x + 12] += 1
    assert count.min() >= 1
    found = scores(net, batch, window=[8, 12], stride=[6, 9])
    assert torch.allclose(found, total / count, atol=1e-6)


def test_a_window_larger_than_the_image_is_the_image() -> None:
    net, batch = a_net(), a_batch()
    found = scores(net, batch, window=[99, 99])
    assert torch.allclose(found, net(batch.image).softmax(1), atol=1e-6)


def test_it_says_what_it_does() -> None:
    assert str(Inference()) == "single scale, no flip"
    assert str(Inference(scales=[0.5, 1], flip=True, window=[30, 60])) == (
        "scales 0.5, 1, with the mirror image, windows of 30x60 px every 20x40 px, mean of the probabilities"
    )
    assert str(Inference(output_stride=8)) == "single scale, no flip, evaluated at output stride 8"


def test_the_finer_net_is_asked_at_every_scale_and_follows_the_weights() -> None:
    model, batch = DeepLab(tiny(Dilated), 3).eval(), a_batch(40, 56)
    assert torch.allclose(scores(model, batch, output_stride=4), model.finer(4)(batch.image), atol=1e-6)
    mirrored = scores(model, batch, output_stride=4, flip=True)
    assert torch.allclose(mirrored, scores(model.finer(4), batch, flip=True), atol=1e-6)
    inference, runtime = Inference(output_stride=4), Runtime(device="cpu", precision="fp32")
    assert not inference.plain
    with torch.inference_mode():
        before = inference.scores(model, batch, runtime)
        nn.init.ones_(model.head.score.bias)
        assert not torch.allclose(inference.scores(model, batch, runtime), before)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"scales": []}, "scales is"),
        ({"scales": [0.0]}, "scales is"),
        ({"stride": [3, 3]}, "without a window"),
        ({"window": [0, 3]}, "window is"),
        ({"window": [4, 4], "stride": [5, 4]}, "leaves gaps"),
    ],
)
def test_values_out_of_range_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Inference(**options)


def test_logits_that_are_not_finite_are_named() -> None:
    net = a_net()
    nn.init.constant_(net.bias, torch.inf)
    for options in ({}, {"flip": True}):
        with pytest.raises(RunError, match="logits of a are not finite"):
            scores(net, a_batch(), **options)
