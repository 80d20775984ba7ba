"""What the tables say, parsed back from their text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from seg.engine import Inference
from seg.errors import ConfigError
from seg.report import html, paper, tables
from seg.report.reading import read_runs
from seg.report.results import Run
from seg.report.table import Cell, Table, as_markdown, as_text, best_of
from seg.report.tables import comparison_table
from seg.report.variants import Variant, find_baseline, gather
from seg.report.write import markdown
from tests.report.conftest import dilation_rows, per_image, result

Write = Callable[..., Path]


@pytest.fixture
def runs(write_run: Write) -> list[Run]:
    """Two dilated nets and a deformable one with two seeds, a third of which failed."""
    baseline = per_image([0.4, 0.5, 0.6, 0.7])
    folder = write_run("a", result("dilated 2", 0, 0.5, per_image=baseline)).parent
    write_run("b", result("dilated 10", 0, 0.625, per_image=baseline))
    for seed, miou in enumerate((0.75, 0.85)):
        write_run(f"c{seed}", result("deformable 3 layers", seed, miou, per_image=per_image([0.6, 0.7, 0.8, 0.9])))
    write_run("c2", None, state="failed", error="out of memory", variant="deformable 3 layers", seed=2)
    return read_runs(folder)


def rows(table: Table) -> dict[str, dict[str, Cell]]:
    names = [f"{group} {name}".strip() for group, name in table.columns]
    return {label: dict(zip(names, cells, strict=True)) for label, cells in table.rows}


def only(variants: list[Variant], label: str) -> Variant:
    return next(variant for variant in variants if variant.label == label)


def test_variants_come_fixed_first_and_numbers_by_value(runs: list[Run]) -> None:
    assert [v.label for v in gather(runs)] == ["dilated 2", "dilated 10", "deformable 3 layers"]


def test_small_numbers_are_ordered_by_value_as_well(write_run: Write) -> None:
    names = [f"dilated 2, learning rate {rate}" for rate in ("6.25e-05", "0.000125", "0.001")]
    for index, name in enumerate(reversed(names)):
        folder = write_run(f"r{index}", result(name)).parent
    assert [v.label for v in gather(read_runs(folder))] == names


def test_whether_a_net_adapts_is_read_from_the_spread_of_its_dilation(runs: list[Run]) -> None:
    assert [v.adapts for v in gather(runs)] == [False, False, True]


def test_comparison_has_mean_deviation_and_difference(runs: list[Run]) -> None:
    variants = gather(runs)
    found = rows(tables.comparison(variants, find_baseline(variants)))["deformable 3 layers"]
    assert found["mIoU"].text == "0.800 ± 0.071"
    assert found["vs dilated 2"].text == "+0.300"
    assert found["IoU by object size small"].text == "0.500"
    assert found["effective dilation (cells) large"].text == "4.50"
    assert found["parameters"].text == "208,000"


def test_comparison_as_text_is_aligned_and_lists_what_is_not_counted(runs: list[Run]) -> None:
    lines = comparison_table(runs).splitlines()
    table, rest = lines[:-1], lines[-1]
    assert len({len(line) for line in table[1:]}) == 1
    assert "IoU by object size" in table[0]
    assert rest == "not counted: c2: failed (out of memory)"


def test_difference_of_a_worse_net_is_negative(runs: list[Run]) -> None:
    variants = gather(runs)
    found = rows(tables.comparison(variants, find_baseline(variants, "deformable 3 layers")))
    assert found["dilated 2"]["vs deformable 3 layers"].text == "−0.300"
    assert found["deformable 3 layers"]["vs deformable 3 layers"].text == "baseline"


def test_ablation_has_the_interval_where_all_runs_count_the_same_images(runs: list[Run]) -> None:
    variants = gather(runs)
    found = rows(tables.ablation(variants, variants[0], "creatures"))
    assert found["deformable 3 layers"]["95 % interval"].text == "+0.200 to +0.200"
    assert found["dilated 10"]["95 % interval"].text == "+0.000 to +0.000"


def test_ablation_without_image_counts_has_no_interval(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2", per_image=per_image([0.5]))).parent
    write_run("b", result("deformable 3 layers"))
    variants = gather(read_runs(folder))
    assert rows(tables.ablation(variants, variants[0], "x"))["deformable 3 layers"]["95 % interval"].text == "–"


def test_unknown_baseline_names_the_choices(runs: list[Run]) -> None:
    with pytest.raises(ConfigError, match=r"baseline=dilated 3.*dilated 2, dilated 10"):
        find_baseline(gather(runs), "dilated 3")


@pytest.mark.fault(70)
def test_fault_70_failed_run_and_missing_number_are_shown(write_run: Write) -> None:
    folder = write_run("a", result("dilated 2", miou=None, cost=None, iou_by_size=None)).parent
    write_run("b", None, state="failed", error="out of memory", variant="deformable 3 layers", seed=0)
    runs = read_runs(folder)
    found = rows(tables.comparison(gather(runs), gather(runs)[0]))
    assert found["deformable 3 layers"]["seeds"].text == "failed"
    assert found["deformable 3 layers"]["mIoU"].text == "–"
    assert [found["dilated 2"][name].text for name in ("mIoU", "parameters", "IoU by object size small")] == ["–"] * 3
    assert "failed (out of memory)" in comparison_table(runs)


def test_failed_seed_is_counted_beside_the_finished_ones(runs: list[Run]) -> None:
    assert tables.runs_cell(only(gather(runs), "deformable 3 layers")).text == "2, 1 failed"


@pytest.mark.fault(68)
def test_fault_68_size_without_objects_reads_n_0(write_run: Write) -> None:
    measured = dilation_rows({"small": 2.0, "medium": 3.0}) + dilation_rows({"large": 0.0}, std=0.0, count=0)
    folder = write_run("a", result("deformable 3 layers", effective_dilation=measured)).parent
    variants = gather(read_runs(folder))
    found = rows(tables.dilation(variants[0]))["layer4.0.conv2"]
    assert [found[size].text for size in ("small", "large", "background")] == ["2.00 ± 0.50", "n=0", "n=0"]
    assert (
        rows(tables.comparison(variants, variants[0]))["deformable 3 layers"]["effective dilation (cells) large"].text
        == "n=0"
    )


def test_nets_of_other_layers_are_compared_over_those_that_all_have(write_run: Write) -> None:
    def dilated(layers: dict[str, float]) -> list[dict]:
        found = {
            layer: dilation_rows(dict.fromkeys(("small", "medium", "large"), mean)) for layer, mean in layers.items()
        }
        return [{**rows[size], "layer": layer} for layer, rows in found.items() for size in range(3)]

    nets = {"dilated 4": {"b": 4.0, "c": 2.0}, "deformable 3 layers": {"a": 9.0, "b": 3.0, "c": 5.0}, "gone": {}}
    for name, layers in nets.items():
        folder = write_run(name, result(name, effective_dilation=dilated(layers))).parent
    variants = gather(read_runs(folder))
    table = tables.comparison(variants, variants[0])
    texts = {label: cells["effective dilation (cells) in b, c small"].text for label, cells in rows(table).items()}
    assert texts == {"dilated 4": "3.00", "deformable 3 layers": "4.00", "gone": "–"}
    other = write_run("z", result("modulated", effective_dilation=dilated({"z": 1.0}))).parent
    variants = gather(read_runs(other))
    found = rows(tables.comparison(variants, variants[0]))
    assert {cells["effective dilation (cells) in no shared layer small"].text for cells in found.values()} == {"–"}


def test_sizes_are_compared_over_the_same_layers(write_run: Write) -> None:
    """Else large objects, on which the first layer has no filter, would seem to have the larger dilation."""
    measured = [
        {"layer": layer, "size": size, "mean": mean, "std": 0.5, "count": 9}
        for layer, size, mean in (("a", "small", 1.0), ("b", "small", 5.0), ("b", "large", 4.0))
    ]
    folder = write_run("a", result("deformable", effective_dilation=measured)).parent
    variants = gather(read_runs(folder))
    found = rows(tables.comparison(variants, variants[0]))["deformable"]
    assert [found[f"effective dilation (cells) {size}"].text for size in ("small", "large")] == ["3.00", "–"]


def test_dilation_table_has_the_papers_layout_and_pools_seeds(runs: list[Run]) -> None:
    table = tables.dilation(only(gather(runs), "deformable 3 layers"))
    assert [name for _, name in table.columns] == ["small", "medium", "large", "background"]
    assert [label for label, _ in table.rows] == ["layer4.0.conv2", "layer4.1.conv2"]
    assert (table.rows[0][1][2].text, table.rows[0][1][2].title) == ("4.50 ± 0.50", "200 filters")


def test_class_that_is_nowhere_has_no_iou(runs: list[Run]) -> None:
    assert {cell.text for cell in rows(tables.by_class(gather(runs)))["green"].values()} == {"–"}


def test_best_marks_the_highest_and_what_prints_the_same() -> None:
    cells = [Cell("0.900 ± 0.010", 0.9001), Cell("0.900 ± 0.020", 0.8999), Cell("0.899", 0.8991), Cell("–")]
    assert [cell.best for cell in best_of(cells)] == [True, True, False, False]
    assert not best_of([Cell("0.900", 0.9), Cell("–")])[0].best
    assert not any(cell.best for cell in best_of([Cell("0.000", 0.0), Cell("0.000", 0.0), Cell("–")]))


@pytest.mark.parametrize(("data", "expected"), [("PASCAL VOC", "0.731"), ("cityscapes", "0.719")])
def test_papers_column_stands_under_its_name(write_run: Write, data: str, expected: str) -> None:
    folder = write_run("a", result("dilated 4")).parent
    table = tables.ablation(gather(read_runs(folder)), gather(read_runs(folder))[0], data)
    assert "paper" in table.columns[-1][0]
    assert table.rows[0][1][-1].text == expected


@pytest.mark.parametrize(
    ("name", "classes", "images", "how", "expected"),
    [
        ("PASCAL VOC", 21, 1449, {}, "PASCAL VOC"),
        ("PASCAL VOC", 21, 100, {}, ""),
        ("cityscapes", 19, 500, {}, "cityscapes"),
        ("cityscapes", 11, 500, {}, ""),
        ("my pictures", 21, 1449, {}, ""),
        ("PASCAL VOC", 21, 1449, {"scales": (0.5, 1.0)}, ""),
        ("PASCAL VOC", 21, 1449, {"flip": True}, ""),
        ("cityscapes", 19, 500, {"window": (768, 1024)}, ""),
        ("cityscapes", 19, 500, {"output_stride": 8}, ""),
    ],
)
def test_papers_numbers_stand_beside_its_whole_val_split_read_once_only(
    write_run: Write, name: str, classes: int, images: int, how: dict, expected: str
) -> None:
    facts = {"data": {"name": name, "split": "val", "images": images}, "protocol": f"{Inference(**how)}, 255 ignored"}
    runs = read_runs(write_run("a", result("dilated 4", **facts, iou={str(k): 0.5 for k in range(classes)})).parent)
    assert paper.subject(runs) == expected


def test_other_data_has_no_column_of_the_paper(runs: list[Run]) -> None:
    table = tables.ablation(gather(runs), gather(runs)[0], "creatures")
    assert not any("paper" in group for group, _ in table.columns)


def test_variant_that_the_paper_lacks_has_no_number_of_it(write_run: Write) -> None:
    variants = gather(read_runs(write_run("a", result("dilated 3")).parent))
    assert tables.ablation(variants, variants[0], "PASCAL VOC").rows[0][1][-1].text == "–"


def test_markdown_escapes_what_would_break_a_table() -> None:
    table = Table("t", (("", "a|b"),), (("<b>x\ny", (Cell("1|2", 1.0),)),))
    assert as_markdown(table).splitlines()[2] == "| &lt;b>x y | 1\\|2 |"


def test_text_columns_of_a_group_share_a_heading() -> None:
    table = Table("t", (("", "n"), ("group", "first"), ("group", "second")), (("row", (Cell("1"),) * 3),))
    head, names = as_text(table).splitlines()[:2]
    assert names.index("first") <= head.index("group") < len(names)


@pytest.mark.parametrize(("seconds", "text"), [(41.4, "41 s"), (200, "3 min 20 s"), (18120, "5 h 02 min")])
def test_duration_reads_as_a_person_says_it(seconds: float, text: str) -> None:
    assert tables.duration(seconds) == text


def test_a_long_label_of_the_baseline_does_not_head_a_column(write_run: Write) -> None:
    for rate in (0.001, 0.002):
        config = {"conv._target_": "seg.models.Dilated", "optimizer.lr": rate}
        folder = write_run(str(rate), result("dilated 2", config=config)).parent
    variants = gather(read_runs(folder))
    assert variants[0].label == "dilated 2, optimizer.lr=0.001"
    for table in (tables.comparison(variants, variants[0]), tables.ablation(variants, variants[0], "creatures")):
        assert ("", "vs baseline") in table.columns


def test_why_effective_dilation_is_missing_is_said_once_and_where_it_is_missing_alone(
    runs: list[Run], write_run: Write
) -> None:
    words = "evaluate.py run=FOLDER without inference.scales"
    assert words not in comparison_table(runs)
    for seed in range(2):
        folder = write_run(f"several{seed}", result("several scales", seed, effective_dilation=[])).parent
    table, variants = comparison_table(read_runs(folder)), gather(read_runs(folder))
    assert table.count(words) == 1
    assert table.index("several scales") < table.index(words) < table.index("not counted")
    assert words in markdown(read_runs(folder), variants, variants[0])
    assert words in html.render(read_runs(folder), variants, variants[0])
