"""From configuration to objects: a config file is a saved call, so its schema is the signature that it names."""

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

import hydra
import pydantic
from arguments import did_you_mean
from expected import expected
from omegaconf import DictConfig, ListConfig, OmegaConf

from seg.errors import ConfigError, DataError


def _rising(lengths: tuple[float, float]) -> tuple[float, float]:
    if not 0 < lengths[0] <= lengths[1]:
        raise ValueError("two lengths in px, the smaller one first")
    return lengths


def _edges(edges: Sequence[float]) -> Sequence[float]:
    if len(edges) < 2 or sorted(set(edges)) != list(edges):
        raise ValueError("two edges or more in px, each larger than the one before, such as bins=[0,32,64]")
    return edges


def _resume(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("auto, never, or the path of a checkpoint")
    return value


def _saliency(value: Any) -> Any:
    if value is not False and not isinstance(value, dict):
        raise ValueError("false, or to be left as it is; its keys are saliency.bound and saliency.block")
    return value


ALLOWED = "seg."  # a configuration may call our own functions only, whatever file it came from
Count = Annotated[int, pydantic.Field(ge=1)]
Natural = Annotated[int, pydantic.Field(ge=0)]
Positive = Annotated[float, pydantic.Field(gt=0)]
# keys that are no argument of a call; null is what a command leaves to the run
PLAIN: dict[str, Any] = {
    "seed": Annotated[int, pydantic.Field(ge=0, lt=2**63)],
    "resume": Annotated[Any, pydantic.AfterValidator(_resume)],
    "evaluate": bool,
    "download": bool,
    "weights_bgr": bool,
    "official": bool,
    "opacity": Annotated[float, pydantic.Field(ge=0, le=1)],
    "examples": Natural,
    "data.batch_size": Count,
    "data.evaluate_batch_size": Count,
    "data.workers": Natural,
    "data.skip_limit": Natural,
    "data.on_bad_sample": Literal["raise", "skip"],
    "data.size_by": Literal["object", "box"],
    "data.thresholds": Annotated[tuple[float, float], pydantic.AfterValidator(_rising)],
    "every": Count,
    "by": Literal["length", "size", "seen"],
    "bins": Annotated[Sequence[float], pydantic.AfterValidator(_edges)],
    "shift": Count,
    "movement.steps": Count,
    "movement.every": Count,
    "movement.images": Count,
    "saliency": Annotated[Any, pydantic.AfterValidator(_saliency)],
    "saliency.bound": Positive,
    "saliency.block": Count,
    "opset": int,
    "tolerance": Positive,
    "threads": Count,
    "rounds": Count,
    "seconds": Positive,
    "size": tuple[Count, Count],
    "sides": Sequence[Count],
}


def check(config: DictConfig) -> None:
    """Raises ConfigError listing every key and value that does not fit the function it is an argument of."""
    given = OmegaConf.to_container(config, resolve=False)
    problems = [f"{key} is missing; give it as {key}=VALUE" for key in _missing(given, "")]
    if not problems:
        problems = [*_plain_problems(config), *_problems(OmegaConf.to_container(config, resolve=True), "", given)]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))


def build(config: DictConfig, *arguments: Any, **keywords: Any) -> Any:
    """Call what `config` names, with its other keys as arguments; a value out of range is a ConfigError."""
    try:
        return hydra.utils.instantiate(config, *arguments, **keywords)
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, (ConfigError, DataError)) or not isinstance(cause, (ValueError, TypeError)):
            raise (cause or error) from None
        raise ConfigError(_of_a_call(str(cause), str(error))) from None


def _of_a_call(cause: str, where: str) -> str:
    """What was wrong with a call; of an argument that it hasn't, or that the program gives it, by its key."""
    found = re.search(r"(unexpected keyword argument|multiple values for argument) '(\w+)'", cause)
    place = re.search(r"full_key: (\S+)", where)
    if not found:
        return cause
    key = f"{place[1]}.{found[2]}" if place else found[2]
    if found[1].startswith("multiple"):
        return f"{key} is given by the program itself; leave it out of the configuration ({cause})"
    return f"{key} is no argument here; leave it out, or run the version of this program that has it ({cause})"


def listed(value: Any) -> list[Any]:
    """The items of a key that takes a list: of a single value it is a list of one, of null an empty one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | ListConfig) else [value]


def chosen(key: str, value: Any, known: Iterable[str]) -> list[str]:
    """The names that a key chooses from those that are known, of null all; raises ConfigError for others or none."""
    choices = list(known)
    for name in listed(value):
        if name not in choices:
            hint = did_you_mean(str(name), choices)
            raise ConfigError(f"{key} has {name!r}; choose from {', '.join(choices)}{hint and f'; {hint}'}")
    if value is not None and not listed(value):
        raise ConfigError(f"{key} has nothing; choose from {', '.join(choices)}")
    return listed(value) or choices


def _plain_problems(config: DictConfig) -> Iterator[str]:
    for key, hint in PLAIN.items():
        value = OmegaConf.select(config, key)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if value is not None:
            yield from _type_problems(key, value, hint)


def _missing(node: Any, path: str) -> Iterator[str]:
    """Keys whose value is ???."""
    if node == "???":
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{path}.{key}" if path else str(key))


def _problems(node: Any, path: str, given: Any) -> Iterator[str]:
    """given: the whole configuration as it was given, before keys that name others took their values"""
    path = _given_as(path, given)
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _problems(item, f"{path}[{index}]", given)
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        yield from _call_problems(node, path, given)
    for key, value in node.items():
        yield from _problems(value, f"{path}.{key}" if path else str(key), given)


def _given_as(path: str, given: Any) -> str:
    """The key that a value was given by: its own, or the one that it names, as ${trainer.iterations} does."""
    for part in path.split("."):
        given = given.get(part) if isinstance(given, dict) else None
    named = re.fullmatch(r"\$\{(\w[\w.]*)\}", given) if isinstance(given, str) else None
    return named[1] if named else path


def _call_problems(node: dict[str, Any], path: str, given: Any) -> Iterator[str]:
    target = str(node["_target_"])
    if not target.startswith(ALLOWED):
        yield f"{path}._target_ is {target!r}; only functions and classes of `{ALLOWED}` may be called"
        return
    function = _find(target)
    if function is None:
        where = target.rpartition(".")[0]
        yield f"{path}._target_ is {target!r}: there is no such function or class in {where}; name the module it is in"
        return
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function, include_extras=True)
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in node.items():
        if key.startswith("_"):
            continue
        if key not in parameters and not passes_on:
            hint = did_you_mean(key, parameters) or f"it takes {', '.join(parameters)}"
            yield f"{path}.{key} is no argument of {target}; {hint}"
        elif key in hints and not _has_call(value):
            yield from _type_problems(_given_as(f"{path}.{key}", given), value, hints[key])


def _type_problems(path: str, value: Any, hint: Any) -> Iterator[str]:
    """Nothing for a value that the function may be called with as it is: it gets it unconverted."""
    try:
        adapter = pydantic.TypeAdapter(hint, config={"arbitrary_types_allowed": True})
        adapter.validate_python(_fixed(value), strict=True)
    except pydantic.ValidationError as error:
        own = error.errors()[0].get("ctx", {}).get("error")  # of a check that says itself what it expects
        yield f"{path} is {value!r}: expected {own or expected(hint, path, value)}"
    except pydantic.errors.PydanticSchemaGenerationError:
        pass  # a type that YAML can't spell: the call itself will judge


def _fixed(value: Any) -> Any:
    """A value with tuples for its lists, which stand for tuples and sequences alike."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value


def _has_call(value: Any) -> bool:
    if isinstance(value, dict):
        return "_target_" in value or any(map(_has_call, value.values()))
    return isinstance(value, list) and any(map(_has_call, value))


def _find(target: str) -> Callable[..., Any] | None:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        return None
    return found if callable(found) else None
