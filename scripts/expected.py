"""What a key expects, in words made from its argument's type: "two whole numbers, such as KEY=[256,320]"."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

ONE = {int: "a whole number", float: "a number", bool: "true or false", str: "a name", Path: "a path", NoneType: "null"}
SEVERAL = {int: "whole numbers", float: "numbers", str: "names"}
SAMPLES: dict[Any, list[Any]] = {int: [256, 320], float: [0.5, 2.0], str: ["car"]}
LIMITS = {"ge": "at least", "gt": "more than", "le": "at most"}


def expected(hint: Any, key: str, value: Any) -> str:
    """What fits a type; where that is a list, with an example of the numbers that were given."""
    kinds = sorted(_kinds(hint), key=lambda kind: kind is NoneType)
    text = _either([_words(kind) for kind in kinds])
    for kind in filter(_is_list, map(_plain, kinds)):
        return f"{text}, such as {key}=[{','.join(map(str, _items(kind, value)))}]"
    return text


def _kinds(hint: Any) -> Iterator[Any]:
    """The types that a type is the union of."""
    if get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from _kinds(part)
    else:
        yield hint


def _plain(hint: Any) -> Any:
    """A type without its limits."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (list, tuple, Sequence)


def _length(kind: Any) -> int | None:
    """How many items a list has to have; None for any number."""
    parts = get_args(kind)
    return None if get_origin(kind) is not tuple or ... in parts else len(parts)


def _words(hint: Any) -> str:
    kind = _plain(hint)
    if get_origin(kind) is Literal:
        return _either([str(choice) for choice in get_args(kind)])
    if _is_list(kind):
        item, length = get_args(kind)[0], _length(kind)
        several = SEVERAL.get(_plain(item), "values") + _limits(item)
        return f"a list of {several}" if length is None else f"{ {2: 'two', 3: 'three'}.get(length, length) } {several}"
    return ONE.get(kind, getattr(kind, "__name__", str(kind))) + _limits(hint)


def _either(words: list[str]) -> str:
    """ "a, b or c" """
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _limits(hint: Any) -> str:
    """The bounds of a number."""
    limits = [limit for part in get_args(hint)[1:] for limit in getattr(part, "metadata", ())]
    told = [f"{words} {getattr(one, name)}" for one in limits for name, words in LIMITS.items() if hasattr(one, name)]
    return f", {' and '.join(told)}" if told else ""


def _items(kind: Any, value: Any) -> list[Any]:
    """As many items as a list has to have, of those given as far as they are of its type."""
    item = _plain(get_args(kind)[0])
    fits = (int, float) if item is float else item
    own = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, fits) and one is not True]
    items = own or SAMPLES.get(item, ["..."])
    length = _length(kind) or len(items)
    return (items + items[-1:] * length)[:length]
