"""The explorer in a headless Chromium: what it draws is what Python computes."""

import base64
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seg.analysis import Recorded, effective_dilation, sampling_points
from seg.errors import RunError
from seg.models import Cells
from seg.report import explorer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from exploration import layers_of

HEIGHT, WIDTH = 96, 128
CLASSES = {"</script><b>background</b>": "#000000", "dog": "#d63c34"}
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
LONG = "dilated 2, " + "data.train_transform.scale=0.5_" * 4


def recorded(seed: int, scale: float) -> dict[str, Recorded]:
    """Three layers in a row, the second of stride 2, with offset groups and a map that starts off the corner."""
    generator = torch.Generator().manual_seed(seed)
    kinds = (("a", 1, 24, 32, Cells(4, 2)), ("b", 2, 12, 16, Cells(4, 2)), ("c", 1, 12, 16, Cells(8, 2)))
    layers = {}
    for name, stride, h, w, cells in kinds:
        offset = scale * torch.randn(1, 36, h, w, generator=generator)
        layers[name] = Recorded(offset, (3, 3), (stride, stride), (2, 2), (2, 2), cells)
    return layers


def read_back(layers: dict[str, Recorded]) -> dict[str, Recorded]:
    """The layers with the offsets that the page holds."""
    found = {}
    for stored in layers_of(layers):
        layer = layers[stored.name]
        offset = torch.zeros_like(layer.offset)
        if stored.offset is not None:
            whole = np.frombuffer(base64.b64decode(stored.offset), "<i2").astype(np.float32)
            offset = torch.from_numpy(whole * np.float32(stored.unit)).view_as(layer.offset)
        found[stored.name] = replace(layer, offset=offset)
    return found


@pytest.fixture(scope="module")
def nets() -> list[dict[str, Recorded]]:
    return [recorded(0, 1.5), recorded(1, 0.0)]


@pytest.fixture(scope="module")
def page_file(nets: list[dict[str, Recorded]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(0)
    images = []
    for name in ("first", "<i>second</i>"):
        label = explorer.ids(random.integers(0, 2, (HEIGHT, WIDTH)))
        found = [explorer.Net(kind, label, layers_of(net)) for kind, net in zip(("moves", LONG), nets, strict=True)]
        grey = explorer.photo(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        images.append(explorer.Shown(name, HEIGHT, WIDTH, grey, None if images else label, found))
    path = tmp_path_factory.mktemp("explorer") / "page.html"
    path.write_text(explorer.render(images, CLASSES), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: extra `browser`")
    if not CHROMIUM:
        pytest.skip("there is no chromium on PATH")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, page_file: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1000, "height": 800}, has_touch=True)
    found = context.new_page()
    problems: list[str] = []
    found.on("pageerror", lambda error: problems.append(str(error)))
    found.on("request", lambda request: problems.append(request.url) if request.url.startswith("http") else None)
    found.goto(page_file.as_uri())
    yield found
    assert not problems
    context.close()


def test_offsets_survive_to_half_a_thousandth_of_a_cell(nets: list[dict[str, Recorded]]) -> None:
    for layer, back in zip(nets[0].values(), read_back(nets[0]).values(), strict=True):
        assert (layer.offset - back.offset).abs().max() < 5e-4
        assert not torch.equal(back.offset, torch.zeros_like(back.offset))


def test_an_offset_that_is_not_finite_is_refused() -> None:
    with pytest.raises(RunError, match=r"not finite.*smaller optimizer\.offset_lr"):
        explorer.quantised(np.array([1.0, np.nan]))


@pytest.mark.parametrize("net", [0, 1])
def test_points_equal_those_of_python(page: Any, nets: list[dict[str, Recorded]], net: int) -> None:
    layers = read_back(nets[net])
    for at in ((0, 0), (40.0, 61.5), (95, 127), (13, 90)):
        for last in range(3):
            chain = list(layers.values())[: last + 1]
            for group in (0, 1):
                expected = sampling_points(chain, at, group=group)
                for level, points in expected.items():
                    ask = f"explorer.points(0, {net}, {last}, {level}, {list(at)}, {group})"
                    found = np.array(page.evaluate(ask))
                    np.testing.assert_allclose(found, points.numpy(), atol=1e-4)


def test_hovering_draws_the_points_of_that_pixel(page: Any, nets: list[dict[str, Recorded]]) -> None:
    page.keyboard.press("1")
    box = page.locator(".stage").first.bounding_box()
    scale = box["width"] / WIDTH
    page.mouse.move(box["x"] + 64.5 * scale, box["y"] + 40.5 * scale)
    page.wait_for_function("Math.abs(explorer.state.at[0] - 40) < 1")
    at = page.evaluate("explorer.state.at")
    points = sampling_points(list(read_back(nets[0]).values()), at)[1]
    unit = min(points.tolist(), key=lambda p: np.hypot(p[0] - at[0], p[1] - at[1]))
    seen = 0
    for y, x in points.tolist():
        if [y, x] == unit or not (1 < y < HEIGHT - 2 and 1 < x < WIDTH - 2):
            continue
        where = f"{(x + 0.5) * scale}, {(y + 0.5) * scale}"
        ask = (
            f"[...document.querySelector('.stage canvas:last-child').getContext('2d').getImageData({where}, 1, 1).data]"
        )
        assert page.evaluate(ask) == [255, 59, 31, 255]
        seen += 1
    assert seen >= 5
    assert page.locator("figcaption span").first.inner_text().startswith("9 points")


def test_dilation_at_a_pixel_equals_that_of_python(page: Any, nets: list[dict[str, Recorded]]) -> None:
    page.keyboard.press("d")
    page.evaluate("explorer.state.at = [42, 58]")
    page.keyboard.press("3")
    value = effective_dilation(read_back(nets[0])["c"].positions)[0, :, 5, 7].mean()
    cells = page.locator("tr.now td").all_inner_texts()
    assert cells == [f"{value:.2f}", "2.00"]
    assert "Effective dilation, cells" in page.locator("#legend").inner_text()


def test_keys_and_touch_move_the_unit(page: Any) -> None:
    box = page.locator(".stage").nth(1).bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    row, column = page.evaluate("explorer.state.at")
    assert (row, column) == (pytest.approx(HEIGHT / 2, abs=1), pytest.approx(WIDTH / 4, abs=1))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    moved = page.evaluate("explorer.state.at")
    assert (moved[0] - row, moved[1] - column) == (pytest.approx(32, abs=4.1), pytest.approx(8, abs=4.1))
    page.keyboard.press("n")
    assert page.evaluate("explorer.state.image") == 1
    assert page.get_by_role("radio", name="Ground truth").is_disabled()


def test_names_are_text_and_the_truth_can_be_seen(page: Any) -> None:
    page.keyboard.press("t")
    page.wait_for_function("!document.querySelector('.over').hidden")
    assert "</script><b>background</b>" in page.locator("#legend").inner_text()
    assert page.locator("b").count() == 0


@pytest.mark.parametrize("width", [390, 1000])
def test_nothing_overflows_on_a_phone_or_elsewhere_and_no_title_its_image(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('figcaption')].every(t => t.scrollWidth <= t.clientWidth)")
    tops = {round(stage.bounding_box()["y"]) for stage in page.locator(".stage").all()}
    assert len(tops) == (1 if width == 1000 else 2), "side by side, images begin at one height"


def test_four_images_of_two_nets_stay_below_10_mb() -> None:
    random = np.random.default_rng(0)
    layer = Recorded(torch.randn(1, 18, 32, 40), (3, 3), (1, 1), (2, 2), (2, 2), Cells(16))
    net = explorer.Net(
        "net", explorer.ids(random.integers(0, 21, (500, 640))), layers_of(dict.fromkeys("abcdef", layer))
    )
    noise = explorer.photo(random.integers(0, 255, (500, 640, 3)).astype(np.uint8))
    page = explorer.render([explorer.Shown("x", 500, 640, noise, net.prediction, [net, net])] * 4, CLASSES)
    assert len(page) < 10 * 2**20
    assert not re.search(r"(?:src|href)=.?https?:", page)
