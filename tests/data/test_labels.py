import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seg.data.labels import Classes, read_classes, voc_palette
from seg.errors import ConfigError, DataError


def classes_file(folder: Path, content: Any) -> Path:
    path = folder / "classes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_voc_palette_is_the_published_one() -> None:
    palette = voc_palette()
    published = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {k: tuple(palette[k].tolist()) for k in published} == published


@pytest.mark.fault(37)
@pytest.mark.parametrize("value", [21, 254, 100])
def test_fault_37_a_value_beyond_the_classes_is_refused_with_file_and_value(value: int) -> None:
    classes = Classes(tuple(f"c{i}" for i in range(21)), voc_palette(21))
    mask = np.array([[0, 20, 255], [value, value, 1]], dtype=np.uint8)
    expected = rf"^a/mask\.png: 2 pixels have the value {value}, expected 0 to 20 \(21 classes\), or 255"
    with pytest.raises(DataError, match=expected):
        classes.label(mask, "a/mask.png")


def test_many_wrong_values_are_not_all_listed() -> None:
    classes = Classes(("a", "b"), voc_palette(2))
    with pytest.raises(DataError, match=r"have the value 2, 3, 4, 5, 6, 7, 8, 9, \.\.\., expected"):
        classes.label(np.arange(200, dtype=np.uint8)[None], "m.png")


def test_files_may_number_classes_otherwise() -> None:
    classes = Classes(("a", "b"), voc_palette(2), ids={7: 0, 8: 1, 0: 255})
    assert classes.label(np.array([[7, 8, 0]], dtype=np.uint8), "m.png").tolist() == [[0, 1, 255]]
    with pytest.raises(DataError, match="1 pixels have the value 1, expected one of 0, 7, 8"):
        classes.label(np.array([[7, 1]], dtype=np.uint8), "m.png")


def test_a_text_file_has_one_name_a_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeffbackground\r\n\r\ncat \r\ndog".encode())
    classes = read_classes(path)
    assert classes.names == ("background", "cat", "dog")
    assert classes.things == (1, 2)


def test_a_json_file_may_say_colours_ignored_id_things_and_pairs(tmp_path: Path) -> None:
    entries = [{"id": 0, "name": "sky", "color": [1, 2, 3]}, {"name": "left"}, {"name": "right"}, {"name": "void"}]
    content = {"classes": entries, "ignore_id": 3, "things": [1], "left_right_pairs": [[1, 2]]}
    classes = read_classes(classes_file(tmp_path, content))
    assert classes.names == ("sky", "left", "right")
    assert classes.palette.tolist() == [[1, 2, 3], [128, 0, 0], [0, 128, 0]]
    assert (classes.things, classes.flip_pairs) == ((1,), ((1, 2),))
    by_name = {**content, "left_right_pairs": [["right", "left"]]}
    assert read_classes(classes_file(tmp_path, by_name)).flip_pairs == ((2, 1),)
    assert classes.label(np.array([[0, 2, 3]], dtype=np.uint8), "m.png").tolist() == [[0, 2, 255]]


@pytest.mark.parametrize(("background", "things"), [(1, (0, 2)), ("b", (0, 2)), (None, (0, 1, 2))])
def test_the_background_is_an_id_or_a_name(tmp_path: Path, background: Any, things: tuple[int, ...]) -> None:
    content = {"classes": [{"name": name} for name in "abc"], "background": background}
    assert read_classes(classes_file(tmp_path, content)).things == things


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ([1], "expected an object"),
        ({"names": []}, '"classes" must be a list'),
        ({"classes": [{"name": "a"}]}, "1 classes, expected 2 to"),
        ({"classes": [{"name": "a"}, {"name": "a"}]}, "a stands there twice"),
        ({"classes": [{"name": "a"}, {"id": 5, "name": "b"}]}, "class 'b' has id 5, expected 1"),
        ({"classes": [{"name": "a"}, {"name": "b", "color": [0, 0, 256]}]}, "colour .* of class 'b'"),
        ({"classes": [{"name": "a"}, {"name": "b"}], "things": [2]}, '"things" has'),
        ({"classes": [{"name": "a"}, {"name": "b"}], "background": "c"}, '"background" has .*c.*, expected class ids'),
        ({"classes": [{"name": "a"}, {"name": "b"}], "background": 2}, '"background" has .*2.*, expected class ids'),
        ({"classes": [{"name": "a"}, {"name": "b"}], "left_right_pairs": [[0, 1, 1]]}, "expected two class ids"),
        ({"classes": [{"name": "a"}, {"name": "b"}], "left_right_pairs": [0, 1]}, "has the entry 0, expected two"),
        ({"classes": [{"name": "a"}, {"name": "b"}], "left_right_pairs": {"a": "b"}}, "expected a list of pairs"),
        ({"classes": [{"name": "a"}, {"name": "b"}], "left_right_pairs": [["a", "c"]]}, "class ids from 0 to 1"),
        ({"classes": [{"name": "a"}, {"name": "b"}], "left_right_pairs": [[1, 1]]}, "has b twice"),
        (
            {"classes": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "left_right_pairs": [[0, 1], [2, 0]]},
            "has a twice, expected each class once",
        ),
        ({"classes": [{"name": "a"}, {"name": "b"}, {"name": "c"}], "ignore_index": 1}, "ignored id 1"),
    ],
)
def test_a_bad_list_of_classes_is_refused_with_file_and_entry(tmp_path: Path, content: Any, message: str) -> None:
    path = classes_file(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_classes(path)
    assert str(caught.value).startswith(str(path))


def test_an_empty_list_of_classes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n")
    with pytest.raises(DataError, match="0 classes"):
        read_classes(tmp_path / "classes.txt")


def test_unknown_things_are_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"things=\['cow'\]: the classes are a, b"):
        Classes(("a", "b"), voc_palette(2)).numbers(["cow"])
