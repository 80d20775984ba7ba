"""Charts: their names find room, and nets keep their colours."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from seg.report import panels, published
from seg.report.curves import curve_of, offset_panels, training
from seg.report.figures import as_svg, in_lines, spread
from seg.report.reading import read_runs
from seg.report.studies import by_length, classes
from seg.report.theme import DARK, LIGHT, variant_roles
from seg.report.variants import gather
from tests.report.conftest import dilation_rows, result

Write = Callable[..., Path]


def test_labels_move_apart_and_keep_their_order() -> None:
    places = spread([0.5, 0.52, 0.1, 0.51], [0.1] * 4)
    assert sorted(range(4), key=places.__getitem__) == [2, 0, 3, 1]
    assert places[2] == pytest.approx(0.1)
    assert sorted(places)[1:] == pytest.approx([0.41, 0.51, 0.61])


def test_labels_stay_below_the_top_and_push_those_under_them_down() -> None:
    assert spread([0.99, 0.98, 0.8], [0.1] * 3, top=1) == pytest.approx([1.0, 0.9, 0.8])
    assert spread([0.99, 0.98, 0.95], [0.1] * 3, top=1) == pytest.approx([1.0, 0.9, 0.8])
    assert spread([1.2, 0.2], [0.1] * 2, top=1) == [1.2, 0.2], "where the line ends, there its name is"


def test_a_label_of_two_lines_keeps_the_others_further_away() -> None:
    assert spread([0.5, 0.5, 0.5], [0.1, 0.2, 0.1]) == pytest.approx([0.35, 0.5, 0.65])
    assert spread([0.5, 0.3], [0.1, 0.2]) == [0.5, 0.3]


def test_long_names_are_broken_at_commas_and_short_ones_stay_whole() -> None:
    assert in_lines("dilated 4, wider") == "dilated 4, wider"
    assert in_lines("deformable 3 layers, 2 offset groups") == "deformable 3 layers,\n2 offset groups"
    assert in_lines("a name of more than one line without commas") == "a name of more than one line\nwithout commas"


NETS = {f"dilated {d}": False for d in (2, 4, 6, 8)} | {f"deformable {n} layers": True for n in (1, 2, 3, 4)}
NETS |= {"modulated 3 layers": True}


def test_four_dilations_and_five_adaptive_nets_have_colours_of_their_own() -> None:
    roles = variant_roles(NETS)
    for theme in (LIGHT, DARK):
        assert len({theme[role] for role in roles.values()}) == 9


def test_a_net_keeps_its_colour_from_chart_to_chart() -> None:
    roles = variant_roles(NETS)
    for chosen in (("dilated 8", "deformable 4 layers"), ("dilated 4", "deformable 3 layers", "modulated 3 layers")):
        assert variant_roles({net: NETS[net] for net in chosen}) == {net: roles[net] for net in chosen}


def test_a_curve_is_thinned_to_its_highest_points_or_its_last() -> None:
    rows = [{"step": step, "value": 1.0 + 9 * (step == 500)} for step in range(1, 1001)]
    last, highest = (curve_of(rows, lambda row: row["value"], 1, peaks=peaks) for peaks in (False, True))
    assert len(last) == len(highest) == 300
    assert last[-1].tolist() == [1000, 1]
    assert [500, 10] in highest.tolist()


@pytest.mark.parametrize("count", [3, 40])
def test_names_stay_within_their_chart_however_many(write_run: Write, count: int) -> None:
    for index in range(count):
        folder = write_run(f"r{index}", result(f"dilated {index}, of a name", 0, 0.5 + index / 1000))
    variants = gather(read_runs(folder.parent))
    found = panels.by_size(variants, "accuracy_by_size", "Accuracy")
    for panel in (found, panels.seeds(variants)):
        heights = [float(y) for y in re.findall(r'y="([\d.-]+)"', as_svg(panel, "x"))]
        height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', as_svg(panel, "x"))[1])
        assert height == pytest.approx(72 * panel.height)
        assert not heights or (min(heights) >= 0 and max(heights) <= height)
        assert all(0 <= float(y) <= height for y in re.findall(r"translate\([\d.-]+ ([\d.-]+)\)", as_svg(panel, "x")))


def test_evaluations_after_the_training_are_no_part_of_its_curve(write_run: Write) -> None:
    rows = [(2, 0.5, "val"), (4, 0.75, "val"), (4, 0.7, "val"), (4, 0.1, "test"), (3, 0.2, "test")]
    lines = [{"kind": "evaluate", "step": step, "miou": miou, "split": split} for step, miou, split in rows]
    folder = write_run("a", result("dilated 2", 0))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (panel,) = training(gather(read_runs(folder.parent)))
    axes = Figure().subplots()
    panel.draw(axes, LIGHT)
    assert panel.title == "mIoU during training"
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[2, 0.5], [4, 0.75]]]


def test_a_label_without_a_number_takes_no_numbered_nets_colour() -> None:
    assert variant_roles({**NETS, "mine": True, "plain": False}).items() >= variant_roles(NETS).items()


def test_a_tenth_net_changes_no_colour_of_the_first_nine() -> None:
    more = {"deformable 3 layers, 2 offset groups": True, "modulated 3 layers, wider": True, "dilated 12": False}
    assert variant_roles({**NETS, **more}).items() >= variant_roles(NETS).items()
    first = {"dilated 2": "#8b9fb1", "dilated 8": "#1f3346", "deformable 3 layers": "#d9480f"}
    assert {net: LIGHT[variant_roles(NETS)[net]] for net in first} == first


def test_nets_of_one_number_differ_in_colour_as_long_as_there_are_colours() -> None:
    groups = {f"deformable 3 layers, {groups} offset groups": True for groups in range(9)}
    dilated = {f"dilated 2, optimizer.lr={rate}": False for rate in range(8)}
    for theme in (LIGHT, DARK):
        assert len({theme[role] for role in variant_roles({**groups, **dilated}).values()}) == 17
    assert len(set(variant_roles({**groups, "deformable 1 layer": True}).values())) == 9
    assert set(variant_roles({"dilated": False, "wide": False})) == {"dilated", "wide"}


@pytest.mark.parametrize("means, shown", [((1.5, 3.5), (2, 4)), ((1.5, 1.75), (2,)), ((5, 9), (2, 4, 6, 8))])
def test_far_dilations_do_not_press_the_layers_of_a_net_together(
    write_run: Write, means: tuple[float, float], shown: tuple[int, ...]
) -> None:
    """Of the fixed nets those within the layers' range are drawn, and the next one above."""
    sizes = ("small", "medium", "large", "background")
    for fixed in (2, 4, 6, 8):
        rows = dilation_rows(dict.fromkeys(sizes, float(fixed)), std=0.0)
        write_run(f"dilated {fixed}", result(f"dilated {fixed}", effective_dilation=rows))
    own = dict(zip(sizes, (means[0], means[0], means[1], means[0]), strict=True))
    folder = write_run("deformable", result("deformable", effective_dilation=dilation_rows(own)))
    variants = gather(read_runs(folder.parent))
    text = as_svg(panels.dilation(variants[-1], variants), "dilation")
    assert [fixed for fixed in (2, 4, 6, 8) if f"dilated {fixed}" in text] == list(shown)


def test_lines_are_labelled_where_there_are_no_large_objects(write_run: Write) -> None:
    found = dilation_rows({"small": 1.5, "medium": 3.0}) + dilation_rows({"large": 0.0}, count=0)
    found.append({"layer": "layer4.2.conv2", "size": "background", "mean": 2.0, "std": 0.5, "count": 7})
    sizes = {"small": 0.5, "medium": 0.75}
    folder = write_run("a", result("deformable", effective_dilation=found, accuracy_by_size=sizes))
    variants = gather(read_runs(folder.parent))
    for panel, names in (
        (panels.by_size(variants, "accuracy_by_size", "Accuracy"), ["deformable"]),
        (panels.dilation(variants[0], variants), [f"layer4.{k}.conv2" for k in range(3)]),
    ):
        panel.draw(axes := Figure().subplots(), LIGHT)
        assert [text.get_text() for text in axes.texts] == names


def test_a_fixed_net_is_drawn_at_the_mean_of_the_layers_that_it_shares(write_run: Write) -> None:
    for name, layers in (("dilated 4", {"a": 2.0, "b": 4.0, "c": 8.0}), ("deformable", {"b": 7.0, "c": 6.0})):
        found = [{"layer": k, "size": "small", "mean": mean, "std": 0.5, "count": 5} for k, mean in layers.items()]
        folder = write_run(name, result(name, effective_dilation=found))
    fixed, adapts = gather(read_runs(folder.parent))
    panels.dilation(adapts, [fixed, adapts]).draw(axes := Figure().subplots(), LIGHT)
    assert axes.lines[0].get_ydata() == [6, 6]


@pytest.mark.parametrize("kind", ["sizes", "steps"])
def test_thirty_layers_have_room_for_their_names(write_run: Write, kind: str) -> None:
    layers = [f"layer3.{k}.conv2" for k in range(30)]
    rows = [{"layer": layer, "size": "small", "mean": 2.0, "std": 0.5, "count": 9} for layer in layers]
    folder = write_run("a", result("deformable", effective_dilation=rows))
    records = [{"step": step, "offset": {layer: {"mean": 0.1, "max": 1.0} for layer in layers}} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    (net,) = gather(read_runs(folder.parent))
    panel = panels.dilation(net, [net]) if kind == "sizes" else offset_panels(net)[0]
    assert panel.height >= 0.22 * len(layers)
    assert all(layer in as_svg(panel, "x") for layer in layers)


def test_a_bin_from_zero_has_its_place_on_a_logarithmic_axis() -> None:
    ends = {"low": None, "high": None}
    bins = [{"from": 0, "to": 40, "accuracy": 0.85, **ends}, {"from": 40, "to": 150, "accuracy": 0.98, **ends}]
    panel = by_length([{"variant": "dilated 2", "by": "size", "bins": bins}], "accuracy")
    figure = Figure()
    panel.draw(axes := figure.subplots(), LIGHT)
    x, y = axes.lines[0].get_data()
    assert x == pytest.approx([20, 77.5], rel=0.03)
    assert list(y) == [0.85, 0.98]


def test_a_class_without_a_filter_in_one_layer_is_shown_in_the_others() -> None:
    rows = [
        {"class": kind, "layer": layer, "mean": mean, "std": 0.1, "count": 0 if mean is None else 5}
        for kind, layer, mean in (("road", "a", 2.0), ("road", "b", 3.0), ("pole", "a", 1.5), ("pole", "b", None))
    ]
    assert "pole" in as_svg(classes({"rows": rows}), "a")
    assert as_svg(classes({"rows": []}), "b")
    study = {"sweep": "roads", "study": "classes", "of": "study", "variant": "deformable", "seed": 0, "rows": rows}
    table = published.classes({"name": "roads", "studies": [study]}, "study")
    assert "| pole | 1.50 ± 0.10 | – | 0 |" in table


def test_the_offsets_shown_are_of_a_run_that_counts(write_run: Write) -> None:
    for name, mean, document in (("a", 500.0, None), ("b", 0.5, result("deformable"))):
        folder = write_run(name, document, **({} if document else {"state": "failed", "variant": "deformable"}))
        records = [{"step": step, "offset": {"l": {"mean": mean, "max": mean}}} for step in (1, 2)]
        (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    (net,) = gather(read_runs(folder.parent))
    offset_panels(net)[0].draw(axes := Figure().subplots(), LIGHT)
    assert list(axes.lines[0].get_ydata()) == [0.5, 0.5]


def test_many_classes_and_layers_have_room_in_a_studys_charts() -> None:
    layers = [f"layer3.{k}.conv2" for k in range(30)]
    rows = [{"class": f"class {k}", "layer": layer, "mean": k, "count": 1} for k in range(171) for layer in layers]
    panel = classes({"rows": rows})
    assert panel.height > 0.22 * 171
    svg = as_svg(panel, "x")
    assert all(f"class {k}" in svg for k in range(171))
    assert [layer in svg for layer in layers] == [layer in (layers[0], layers[-1]) for layer in layers]
