"""explore and analyze as commands, on one tiny run, and what they say to bad usage."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

pytest.importorskip("cv2")
from chosen import chosen_images
from exploration import parts_apart

from seg.errors import ConfigError

Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., None]) -> Path:
    """A deformable and a dilated net, one step old."""
    folder = tmp_path_factory.mktemp("runs")
    train_tiny(folder, "trainer.iterations=1", "evaluate=false", "++data.train.images=2", "++data.evaluate.images=3")
    return folder


def test_explore_writes_both_nets_on_named_images_and_files(command: Command, runs: Path, tmp_path: Path) -> None:
    photo, page = tmp_path / "my & photo.png", tmp_path / "new folder" / "page.html"
    Image.new("RGB", (50, 37), (90, 120, 60)).save(photo)
    asked = f"images=[val_00001,'{photo}']"
    code, said = command(
        "explore", f"run={runs / 'deform_3'}", f"compare={runs / 'dilated_2'}", asked, f"output={page}"
    )
    assert code == 0, said
    assert "open it in a browser" in said
    data = re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    assert data is not None
    document = json.loads(data[1])
    assert [image["name"] for image in document["images"]] == ["val_00001", "my & photo"]
    assert [(image["height"], image["width"]) for image in document["images"]][1] == (37, 50)
    assert document["images"][0]["truth"]
    assert document["images"][1]["truth"] is None
    for image in document["images"]:
        assert [net["label"] for net in image["nets"]] == ["deformable 3 layers", "dilated 2"]
        assert [len(net["layers"]) for net in image["nets"]] == [3, 3]
        assert all(layer["offset"] is None for layer in image["nets"][1]["layers"])


def test_a_name_that_a_command_line_reads_as_a_number_is_found(tmp_path: Path) -> None:
    """VOC's 2007_000033 is 2007000033 to Hydra."""
    for kind in ("images", "labels"):
        for name in ("2007_000033", "000139", "photo"):
            path = tmp_path / kind / "val" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB" if kind == "images" else "L", (8, 8), 0).save(path)
    (tmp_path / "classes.txt").write_text("ground\nbird\n")
    config = OmegaConf.create({"data": {"evaluate": {"_target_": "seg.data.Folder", "root": str(tmp_path)}}})
    config.data.evaluate.split = "val"

    def chosen(given: str) -> list[str]:
        asked = OverridesParser.create().parse_override(given).value()
        wanted = OmegaConf.create({"images": asked}).images
        return [data.names[index] for data, index in chosen_images(config, wanted)]

    assert chosen("images=2007_000033") == ["2007_000033"]
    assert chosen("images=[photo,2007_000033,000139]") == ["photo", "2007_000033", "000139"]
    assert chosen("images=000139") == ["000139"]
    assert chosen("images=2") == ["000139", "2007_000033"]
    for kind in ("images", "labels"):
        (tmp_path / kind / "val" / "photo.png").rename(tmp_path / kind / "val" / "2.png")
    assert chosen("images=2") == ["000139", "2"]
    assert chosen("images=[2]") == ["2"]
    with pytest.raises(ConfigError, match=r"images: 1\.5 is neither a file nor an image"):
        chosen("images=1.5")


def test_files_are_looked_at_where_the_runs_data_are_gone(command: Command, runs: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(runs / "deform_3", tmp_path / "moved")
    config = OmegaConf.load(moved / "config.yaml")
    config.data.evaluate = {"_target_": "seg.data.Folder", "root": "/nowhere"}
    OmegaConf.save(config, moved / "config.yaml")
    photo, page = tmp_path / "photo.png", tmp_path / "page.html"
    Image.new("RGB", (40, 40), (90, 120, 60)).save(photo)
    code, said = command("explore", f"run={moved}", f"images={photo}", f"output={page}")
    assert code == 0, said
    code, said = command("explore", f"run={moved}", "images=1", f"output={page}")
    assert (code, "/nowhere" in said) == (3, True), said


@pytest.mark.fault(72)
@pytest.mark.parametrize("script", ["predict", "explore", "study", "analyze", "export", "evaluate"])
def test_fault_72_a_strangers_run_calls_nothing_but_ours(
    script: str, command: Command, runs: Path, tmp_path: Path
) -> None:
    """Its pickle would make a file."""
    strange, made = shutil.copytree(runs / "deform_3", tmp_path / "strange"), tmp_path / "made"

    class Harmful:
        def __reduce__(self) -> tuple:
            return Path.touch, (made,)

    (strange / "extra.npy").write_bytes(pickle.dumps(Harmful()))
    config = OmegaConf.load(strange / "config.yaml")
    called = {"_target_": "numpy.load", "file": str(strange / "extra.npy"), "allow_pickle": True}
    config.data.normalization = called
    OmegaConf.save(config, strange / "config.yaml")
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40)).save(photo)
    output = tmp_path / ("net.onnx" if script == "export" else "out")
    code, said = command(
        script, f"run={strange}", f"output={output}", *([f"input={photo}"] if script == "predict" else [])
    )
    assert (code, "data.normalization._target_ is 'numpy.load'" in said) == (2, True), said
    assert not made.exists()


def test_a_node_whose_cells_are_not_the_last_layers_is_refused(command: Command, runs: Path, tmp_path: Path) -> None:
    given = (f"run={runs / 'deform_3'}", f"output={tmp_path / 'out'}", "images=1", "saliency=null")
    for node, words in (
        ("trunk.layer1", "node is 'trunk.layer1', whose map has 80x80 cells where the last layer's has 20x20"),
        ("nothing", "node is 'nothing': the model has no such module"),
    ):
        code, said = command("analyze", *given, f"node={node}")
        assert (code, words in said) == (2, True), said


def test_two_runs_of_one_label_are_told_apart(command: Command, runs: Path, tmp_path: Path) -> None:
    same, page = shutil.copytree(runs / "deform_3", tmp_path / "again"), tmp_path / "page.html"
    given = [f"run={runs / 'deform_3'}", f"compare={same}", "images=[val_00001]", f"output={page}"]
    code, said = command("explore", *given)
    assert code == 0, said
    assert "deformable 3 layers, deform_3" in page.read_text()
    assert "deformable 3 layers, again" in page.read_text()


def test_runs_of_one_label_are_told_apart_by_what_their_folders_names_have_alone() -> None:
    assert parts_apart(["/runs/b/lr=1,seed=0,x=[1,2]", "/runs/a/lr=1,seed=1,x=[1,2]"]) == [["seed=0"], ["seed=1"]]
    assert parts_apart(["/runs/a/seed=0", "/runs/b/seed=0"]) == [["a"], ["b"]]
    assert parts_apart(["/runs/a", "/runs/a"]) == [[], []]


def test_analyze_lists_the_pictures_that_it_writes(command: Command, runs: Path, tmp_path: Path) -> None:
    code, said = command(
        "analyze", f"run={runs / 'deform_3'}", "images=1", "saliency.block=64", f"output={tmp_path / 'out'}"
    )
    assert code == 0, said
    rows = json.loads((tmp_path / "out" / "analysis.json").read_text())["rows"]
    assert f"{len(rows)} units" in said
    assert rows[0]["title"] == "val_00000: background"
    captions = [tile["caption"] for tile in rows[0]["tiles"]]
    points = ["1 layer", "2 layers", "3 layers"]
    assert captions[:-1] == [*points, "effective sampling locations", "effective receptive field"]
    assert re.fullmatch(r"saliency region, \d+%", captions[-1])
    for tile in (tile for row in rows for tile in row["tiles"]):
        assert max(Image.open(tmp_path / "out" / tile["picture"]).size) == 480
    assert (tmp_path / "out" / "overview.png").exists()


def test_analyze_looks_at_the_middle_of_a_file_without_a_truth(command: Command, runs: Path, tmp_path: Path) -> None:
    Image.new("RGB", (48, 40)).save(tmp_path / "photo.png")
    given = [f"run={runs / 'dilated_2'}", f"images={tmp_path / 'photo.png'}", "saliency=false", f"output={tmp_path}"]
    code, said = command("analyze", *given)
    assert code == 0, said
    (row,) = json.loads((tmp_path / "analysis.json").read_text())["rows"]
    assert row["title"] == "photo: middle"
    assert len(row["tiles"]) == 5


@pytest.mark.parametrize("script", ["explore", "analyze"])
@pytest.mark.parametrize(
    ("given", "expected", "message"),
    [
        (["run=nowhere"], 2, "nowhere is no run folder: it has no config.yaml"),
        (["run=null"], 2, "run is missing"),
        (["run={run}", "images=[nobody]"], 2, "'nobody' is neither a file nor an image of creatures val (such as val_"),
        (["run={run}", "images=[]"], 2, "no image is asked for"),
        (["run={run}", "images=-1"], 2, "expected at least one image"),
        (["run={run}", "images={page}"], 3, "page.png: the file is a web page"),
        (["run={run}", "image=1"], 2, "image"),
    ],
)
def test_bad_usage_is_one_clear_error(
    script: str, given: list[str], expected: int, message: str, command: Command, runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "page.png").write_bytes(b"<html>404</html>")
    filled = [text.format(run=runs / "deform_3", page=tmp_path / "page.png") for text in given]
    code, said = command(script, *filled, f"output={tmp_path / 'out'}")
    assert (code, said.count("error:")) == (expected, 1), said
    assert message in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_a_net_without_a_layer_to_look_at_is_refused(command: Command, runs: Path, tmp_path: Path) -> None:
    given = (
        "head.hidden=8",
        "data.batch_size=2",
        "trunk.replaced=0",
        "trainer.iterations=1",
        "evaluate=false",
        "++data.train.images=2",
    )
    code, said = command("train", *given, f"run={tmp_path / 'plain'}")
    assert code == 0, said
    output = f"output={tmp_path / 'page.html'}"
    for nets in ([f"run={tmp_path / 'plain'}"], [f"run={runs / 'deform_3'}", f"compare={tmp_path / 'plain'}"]):
        code, said = command("explore", *nets, output, "images=1")
        assert (code, "plain has no dilated or deformable layer to look at" in said) == (2, True), said
    assert not (tmp_path / "page.html").exists()


def test_explore_refuses_what_a_page_cannot_hold_or_compare(command: Command, runs: Path, tmp_path: Path) -> None:
    run, output = f"run={runs / 'deform_3'}", f"output={tmp_path / 'page.html'}"
    code, said = command("explore", run, output, f"images=[{','.join(['val_00000'] * 17)}]")
    assert (code, "17 of them are too many for one page; choose at most 16" in said) == (2, True), said
    code, said = command("explore", run)
    assert (code, "output is missing" in said) == (2, True), said
    code, said = command("explore", run, output, f"compare={tmp_path}")
    assert (code, "is no run folder" in said) == (2, True), said
    code, said = command("explore", run, f"output={tmp_path}", "images=1")
    assert (code, "can't be written" in said) == (2, True), said
