"""Lists of classes as text: the forms that people and labelling tools write."""

from pathlib import Path

import pytest

from seg.data.labels import read_classes
from seg.errors import DataError

FORMS = {
    "by spaces": "road 128 64 128\ntraffic light 0 0 192\n",
    "by commas, with a head": "name,r,g,b\nroad,128,64,128\ntraffic light,0,0,192\n",
    "CVAT's": "# label:color_rgb:parts:actions\nroad:128,64,128::\ntraffic light:0,0,192::\n",
    "CamVid's": "128 64 128\troad\r\n0 0 192\t\ttraffic light\r\n",
    "numbered": "0: road 128 64 128\n1: traffic light 0 0 192\n",
}


@pytest.mark.parametrize("text", FORMS.values(), ids=FORMS)
def test_a_line_may_have_a_colour(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text, newline="")
    classes = read_classes(tmp_path / "classes.txt")
    assert classes.names == ("road", "traffic light")
    assert classes.palette.tolist() == [[128, 64, 128], [0, 0, 192]]
    assert classes.colours == {(128, 64, 128): 0, (0, 0, 192): 1}


@pytest.mark.parametrize("text", ["0: a b\n1: c\n", "0 a b\n1 c\n", "0,a b\n1,c\n", "0\ta b\n1\tc\n"])
def test_numbers_before_the_names_are_ids(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    assert read_classes(tmp_path / "classes.txt").names == ("a b", "c")


def test_numbers_that_belong_to_the_names_stay(tmp_path: Path) -> None:
    for names in (("3 doors", "5 doors"), ("car 1", "car 2"), ("0 wheels", "2 wheels"), ("1 wheel", "none")):
        (tmp_path / "classes.txt").write_text("\n".join(names))
        assert read_classes(tmp_path / "classes.txt").names == names


def test_a_last_line_ignored_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("a 0 0 0\nb 1 1 1\nignored 2 2 2\n")
    classes = read_classes(tmp_path / "classes.txt")
    assert classes.names == ("a", "b")
    assert classes.colours == {(0, 0, 0): 0, (1, 1, 1): 1, (2, 2, 2): 255}
    assert dict(classes.ids) == {0: 0, 1: 1, 2: 255, 255: 255}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: a\n2: b\n", "class 'a' has id 1, expected 0: ids must run from 0"),
        ("a 0 0 0\nb\n", "'b' has no colour, but other lines have; write NAME R G B in each"),
        ("a 0 0 0\nb 0 0 0\n", "a and b have the same colour 0 0 0"),
        ("a 0 0 0\nb 0 0 256\n", r"colour \[0, 0, 256\] of class 'b', expected three numbers from 0 to 255"),
        ("car\n", "1 classes, expected 2 to 254; the background, id 0, is one too"),
    ],
)
def test_a_list_that_can_mean_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=rf"classes\.txt: {message}"):
        read_classes(tmp_path / "classes.txt")
