"""The page and its files: whole, safe, self-contained, and true to the numbers."""

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from seg.errors import ConfigError, DataError
from seg.report import html, panels, write_report
from seg.report.figures import as_svg
from seg.report.headline import headline, lead, notes
from seg.report.pictures import Photos, best_and_worst
from seg.report.reading import read_runs
from seg.report.theme import DARK, LIGHT
from seg.report.variants import find_baseline, gather
from tests.report.conftest import add_pictures, dilation_rows, per_image, result

Write = Callable[..., Path]
EVIL = "<script>alert(1)</script>"
VOID = {"meta", "input", "img", "br", "link", "hr", "path", "use", "circle"}


class Page(HTMLParser):
    """Elements with their attributes, the text of the tables, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


def render(folder: Path) -> str:
    runs = read_runs(folder)
    variants = gather(runs)
    return html.render(runs, variants, find_baseline(variants))


def small_sweep(write_run: Write, names: tuple[str, ...] = ("one", "two"), **changes: object) -> Path:
    for variant, miou in (("dilated 2", 0.8), ("deformable 3 layers", 0.9)):
        folder = write_run(variant, None)
        shares = [miou - 0.1, miou, miou + 0.05]
        document = add_pictures(folder, result(variant, 0, miou, per_image=per_image(shares), **changes), list(names))
        edges, counts = [0.0, 1.0, 2.0, 4.0], [1, 3, 2]
        rows = [{"layer": "layer4.0.conv2", "size": s, "edges": edges, "counts": counts} for s in ("small", "large")]
        document["effective_dilation_histogram"] = rows
        (folder / "result.json").write_text(json.dumps(document))
        lines = [
            {"kind": "train", "step": s, "loss": 1 / s, "offset": {"l": {"mean": 0.1, "max": s}}} for s in (1, 2, 3)
        ]
        lines.append({"kind": "evaluate", "step": 3, "miou": miou})
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return write_run("failed one", None, state="failed", error="out of memory", variant="dilated 2", seed=1).parent


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One report of everything, written once."""
    root = tmp_path_factory.mktemp("sweep")

    def write(name: str, document: dict | None, **status: object) -> Path:
        (root / name).mkdir()
        (root / name / "status.json").write_text(json.dumps({"state": "done", **status}))
        return root / name

    return write_report(small_sweep(write), root / "page")


def test_page_names_no_address_to_load_from(report: Path) -> None:
    text = report.read_text()
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    for tag, attributes in Page(text).elements:
        source = attributes.get("src") or (attributes.get("href") if tag != "a" else None)
        assert source is None or source.startswith(("data:image/", "#"))
        assert tag != "link"
    assert set(re.findall(r"url\((?!#)([^)]{0,11})", text)) == {"data:image/"}


def test_page_has_every_section_and_closes_every_element(report: Path) -> None:
    page = Page(report.read_text())
    sections = [attributes["id"] for tag, attributes in page.elements if tag == "section"]
    assert sections == ["result", "sizes", "dilation", "cost", "classes", "images", "sampling", "training", "runs"]
    assert page.open == []
    links = {attributes["href"] for tag, attributes in page.elements if tag == "a"}
    assert {f"#{section}" for section in sections} <= links


def test_ids_of_the_page_are_unique(report: Path) -> None:
    ids = [attributes["id"] for _, attributes in Page(report.read_text()).elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_drawings_are_well_formed_and_refer_to_themselves(report: Path) -> None:
    text = report.read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', drawing)) <= set(re.findall(r'id="([^"]+)"', drawing))


def test_every_colour_of_the_page_exists_in_both_themes(report: Path) -> None:
    text = report.read_text()
    used = set(re.findall(r"var\(--([\w-]+)\)", text)) - {"heat", "swatch"}
    assert used <= set(LIGHT) == set(DARK)
    assert "#0a0b" not in text  # a stand-in that was left over


def test_ablation_on_the_page_has_the_numbers(report: Path) -> None:
    table = Page(report.read_text()).tables[0]
    assert table[0] == ["variant", "mIoU", "vs dilated 2", "95 % interval", "pixel accuracy", "runs"]
    assert table[1] == ["dilated 2", "0.800", "baseline", "", "0.900", "1, 1 failed"]
    assert table[2] == ["deformable 3 layers", "0.900", "+0.100", "+0.100 to +0.100", "0.900", "1"]


def test_failed_run_is_on_the_page_with_its_reason(report: Path) -> None:
    table = next(table for table in Page(report.read_text()).tables if table[0][0] == "run")
    assert table[1] == ["failed one", "dilated 2", "failed", "out of memory"]


def test_page_draws_all_points_of_each_level(report: Path) -> None:
    text = report.read_text()
    for level in (1, 2, 3):
        dots = re.search(rf'level-{level}"><path class="halo" d="([^"]*)"', text)
        assert dots is not None
        assert dots[1].count("M") == 9**level


@pytest.mark.parametrize(("counts", "expected", "absent"), [([0, 1, 0, 1], "20+", "20"), ([0, 1, 0, 0], "10", "20+")])
def test_the_last_bin_of_a_distribution_has_no_upper_end(
    write_run: Write, counts: list[int], expected: str, absent: str
) -> None:
    rows = [{"layer": "a", "size": "small", "edges": [0.0, 5.0, 10.0, 15.0, 20.0], "counts": counts}]
    runs = read_runs(write_run("one", result("deformable 3 layers", effective_dilation_histogram=rows)))
    ticks = re.findall(r">([\d.+]+)</text>", as_svg(panels.distributions(gather(runs)[0])[0], "x"))
    assert expected in ticks
    assert absent not in ticks


def test_same_photograph_is_embedded_once(report: Path) -> None:
    text = report.read_text()
    assert text.count("data:image/jpeg") == 2
    assert len(re.findall(r'class="view photo-0', text)) > 2


def test_summary_json_has_the_numbers_and_the_failed_run(report: Path) -> None:
    summary = json.loads((report.parent / "summary.json").read_text())
    assert [v["miou"]["mean"] for v in summary["variants"]] == [0.8, 0.9]
    assert summary["variants"][1]["difference"] == pytest.approx({"mean": 0.1, "low": 0.1, "high": 0.1})
    assert summary["variants"][0]["iou"]["green"] == {"mean": None, "std": None, "n": 0}
    assert {"run": "failed one", "variant": "dilated 2", "seed": 1, "state": "failed", "error": "out of memory"} in (
        summary["runs"]
    )


def test_summary_csv_has_a_line_for_each_run(report: Path) -> None:
    with (report.parent / "summary.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["deformable 3 layers"]["miou"] == "0.9"
    assert rows["deformable 3 layers"]["cost: parameters"] == "208000"
    assert (rows["failed one"]["state"], rows["failed one"]["miou"]) == ("failed", "")


def test_summary_markdown_has_the_headline_and_both_tables(report: Path) -> None:
    text = (report.parent / "summary.md").read_text()
    assert text.startswith("**Deformable 3 layers reaches 0.900 mIoU, 0.100 above the best dilated net.**")
    assert "| layer4.0.conv2 | 1.50 ± 0.50 | 3.00 ± 0.50 | 4.50 ± 0.50 | 1.25 ± 0.50 |" in text


def test_figures_come_in_both_themes(report: Path) -> None:
    folder = report.parent / "figures"
    names = {path.stem for path in folder.iterdir() if not path.stem.endswith("-dark")}
    assert names >= {"overview", "accuracy", "sizes", "dilation", "cost", "training", "images", "sampling"}
    for name in names:
        corners = [Image.open(folder / f"{name}{end}.png").convert("L").getpixel((0, 0)) for end in ("", "-dark")]
        assert corners[0] > 200 > 50 > corners[1]


@pytest.mark.fault(69)
def test_fault_69_names_from_files_are_escaped(write_run: Write) -> None:
    names = {"iou": {EVIL: 0.5, "$x$": 0.4}, "protocol": EVIL, "command": EVIL, "versions": {EVIL: EVIL}}
    folder = small_sweep(write_run, (EVIL, '"><img src=x onerror=alert(1)>'), **names)
    write_run("evil", result(f"{EVIL} $\\frac$", 0, 0.7, device=EVIL))
    text = render(folder)
    page = Page(text)
    assert [tag for tag, _ in page.elements].count("script") == 2  # the theme's own
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert EVIL not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 5
    assert any(EVIL in row[0] for table in page.tables for row in table if row)


def test_missing_or_broken_picture_is_said_in_its_place(write_run: Write) -> None:
    folder = small_sweep(write_run)
    (folder / "dilated 2" / "examples" / "0-prediction.png").write_text("<html>")
    (folder / "deformable 3 layers" / "examples" / "1-prediction.png").unlink()
    text = render(folder)
    assert "0-prediction.png: not a picture" in text
    assert "No such file" in text


def test_picture_that_is_no_class_map_is_said_in_its_place(write_run: Write) -> None:
    folder = small_sweep(write_run)
    Image.new("RGB", (16, 12)).save(folder / "dilated 2" / "examples" / "0-prediction.png")
    assert "mode RGB; expected class ids" in render(folder)


def test_best_and_worst_stand_beside_what_the_other_nets_made_of_them(write_run: Write) -> None:
    names = {"dilated 2": ["one", "two"], "deformable 3 layers": ["one", "two", "three"]}
    for variant, kept in names.items():
        folder = write_run(variant, None)
        document = add_pictures(folder, result(variant, miou=0.1 * len(kept)), kept)
        (folder / "result.json").write_text(json.dumps(document))
    variants = gather(read_runs(folder.parent))
    best, worst = best_and_worst(variants[1], variants, Photos(), each=1)
    for row in (best, worst):
        assert [tile.caption for tile in row.tiles] == ["image", "ground truth", "deformable 3 layers", "dilated 2"]
    assert (best.tiles[-1].photo, best.tiles[-1].note) == (None, "–")
    assert worst.tiles[-1].photo is not None
    assert (best.title, worst.title) == ("best: three", "worst: one")


def test_page_of_one_run_with_the_least_it_can_have(write_run: Write) -> None:
    least = {"schema": 1, "data": {"name": "voc"}, "miou": 0.5, "variant": "dilated 2"}
    page = Page(render(write_run("only", least)))
    assert page.tables[0][1] == ["dilated 2", "0.500", "baseline", "", "–", "1"]
    assert page.open == []


def test_folder_of_failed_runs_makes_no_page(write_run: Write, tmp_path: Path) -> None:
    folder = write_run("a", None, state="failed", error="out of memory").parent
    with pytest.raises(DataError, match="out of memory"):
        write_report(folder, tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_output_that_cannot_be_written_is_named(write_run: Write, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken"):
        write_report(write_run("a", result("dilated 2")).parent, tmp_path / "taken")


@pytest.mark.parametrize(
    ("fixed", "adaptive", "sentence"),
    [
        (0.8, 0.9, "Deformable 3 layers reaches 0.900 mIoU, 0.100 above the best dilated net."),
        (0.9, 0.8, "Deformable 3 layers stays 0.100 mIoU below dilated 2, the best dilated net."),
        (0.8, 0.8001, "Deformable 3 layers and dilated 2 are level at 0.800 mIoU."),
        (0.8, None, "Dilated 2 reaches 0.800 mIoU."),
    ],
)
def test_headline_says_which_way_it_went(write_run: Write, fixed: float, adaptive: float | None, sentence: str) -> None:
    folder = write_run("a", result("dilated 2", miou=fixed)).parent
    write_run("b", result("deformable 3 layers", miou=adaptive))
    assert headline(gather(read_runs(folder))) == sentence


@pytest.mark.parametrize(
    ("large", "sentence"),
    [
        ((4.5, 2.5), "small to medium to large objects in 1 of 2 layers; on average 1.50 / 3.00 / 3.50 cells."),
        ((4.5, None), "small to medium to large objects in 1 of 1 layers; on average 1.50 / 3.00 / 4.50 cells."),
        ((None, None), None),
    ],
)
def test_growth_with_size_is_told_of_the_layers_that_have_all_sizes(
    write_run: Write, large: tuple[float | None, ...], sentence: str | None
) -> None:
    found = dilation_rows({"small": 1.5, "medium": 3.0})
    found += [{**found[2 * k], "size": "large", "mean": mean} for k, mean in enumerate(large) if mean is not None]
    folder = write_run("a", result("deformable 3 layers", effective_dilation=found)).parent
    told = [one for one in lead(gather(read_runs(folder))) if "effective dilation" in one]
    assert told == ([f"The effective dilation of deformable 3 layers grows from {sentence}"] if sentence else [])


def test_runs_of_one_seed_are_compared_with_each_other(write_run: Write) -> None:
    """Seed 3 was run once, and counts for no pair."""
    for variant, values in (("dilated 2", (0.7, 0.6, 0.5)), ("deformable 3 layers", (0.71, 0.63, 0.495, 0.9))):
        for seed, miou in enumerate(values):
            folder = write_run(f"{variant}{seed}", result(variant, seed, miou)).parent
    assert "Seed by seed it is above in 2 of 3 (−0.005 to +0.030)." in lead(gather(read_runs(folder)))
    single = write_run("alone/a", result("dilated 2")).parent
    write_run("alone/b", result("deformable 3 layers"))
    assert not [one for one in lead(gather(read_runs(single))) if "Seed by seed" in one]


def test_few_seeds_and_the_choice_of_the_best_are_said_beside_the_interval(write_run: Write) -> None:
    images = {"dilated 2": [0.5, 0.6, 0.7], "dilated 4": [0.4, 0.5, 0.6], "deformable 3 layers": [0.8, 0.9, 0.95]}
    for variant, shares in images.items():
        for seed in range(2):
            changes = {"miou": sum(shares) / 3, "per_image": per_image(shares)}
            folder = write_run(f"{variant}{seed}", result(variant, seed, **changes)).parent
    told = " ".join(lead(gather(read_runs(folder))))
    assert "excludes zero, though 2 seeds tell little of how far seeds lie apart." in told
    assert "The two were chosen by these numbers, of 1 adaptive and 2 fixed." in told


def test_runs_of_unequal_budget_are_pointed_out(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2")).parent
    write_run("b", result("deformable 3 layers", budget="1200 iterations of batch 16"))
    runs = read_runs(folder)
    assert any("training budget: 600 iterations" in note for note in notes(runs, gather(runs)))


def test_report_never_imports_torch() -> None:
    code = "import sys, seg.report; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
