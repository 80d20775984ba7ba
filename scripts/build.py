"""From configuration to objects: a config file is a saved call, so its schema is the signature that it names."""

import difflib
import importlib
import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import hydra
import pydantic
from omegaconf import DictConfig, OmegaConf

from seg.errors import ConfigError, DataError


def _two_lengths(thresholds: list[float]) -> list[float]:
    if len(thresholds) != 2 or not 0 < thresholds[0] <= thresholds[1]:
        raise ValueError("two lengths in px are needed, the smaller one first")
    return thresholds


ALLOWED = "seg."  # a configuration may call our own functions only, whatever file it came from
Count = Annotated[int, pydantic.Field(ge=1)]
# keys that are no argument of a call; null is what a command leaves to the run
PLAIN: dict[str, Any] = {
    "seed": Annotated[int, pydantic.Field(ge=0, lt=2**63)],
    "evaluate": bool,
    "download": bool,
    "weights_bgr": bool,
    "official": bool,
    "opacity": Annotated[float, pydantic.Field(ge=0, le=1)],
    "examples": Annotated[int, pydantic.Field(ge=0)],
    "data.batch_size": Count,
    "data.evaluate_batch_size": Count,
    "data.workers": Annotated[int, pydantic.Field(ge=0)],
    "data.skip_limit": Annotated[int, pydantic.Field(ge=0)],
    "data.on_bad_sample": Literal["raise", "skip"],
    "data.size_by": Literal["object", "box"],
    "data.thresholds": Annotated[list[float], pydantic.AfterValidator(_two_lengths)],
}


def check(config: DictConfig) -> None:
    """Raises ConfigError listing every key and value that does not fit the function it is an argument of."""
    missing = _missing(OmegaConf.to_container(config, resolve=False), "")
    problems = [f"{key} is missing; give it as {key}=VALUE" for key in missing]
    if not problems:
        problems = [*_plain_problems(config), *_problems(OmegaConf.to_container(config, resolve=True), "")]
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
        raise ConfigError(str(cause)) from None


def _plain_problems(config: DictConfig) -> Iterator[str]:
    for key, hint in PLAIN.items():
        value = OmegaConf.select(config, key)
        value = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
        if value is not None:
            yield from _type_problems(key, value, hint, strict=True)


def _missing(node: Any, path: str) -> Iterator[str]:
    """Keys whose value is ???."""
    if node == "???":
        yield path
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{path}.{key}" if path else str(key))


def _problems(node: Any, path: str) -> Iterator[str]:
    if isinstance(node, list):
        for index, item in enumerate(node):
            yield from _problems(item, f"{path}[{index}]")
    if not isinstance(node, dict):
        return
    if "_target_" in node:
        yield from _call_problems(node, path)
    for key, value in node.items():
        yield from _problems(value, f"{path}.{key}" if path else str(key))


def _call_problems(node: dict[str, Any], path: str) -> Iterator[str]:
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
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    passes_on = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in node.items():
        if key.startswith("_"):
            continue
        if key not in parameters and not passes_on:
            close = difflib.get_close_matches(key, parameters, n=1)
            hint = f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(parameters)}"
            yield f"{path}.{key} is no argument of {target}{hint}"
        elif key in hints and not _has_call(value):
            yield from _type_problems(f"{path}.{key}", value, hints[key])


def _type_problems(path: str, value: Any, hint: Any, *, strict: bool = False) -> Iterator[str]:
    if wanted := _not_converted(value, set(typing.get_args(hint) or (hint,))):
        yield f"{path} is {value!r}: expected {wanted}"
        return
    try:
        adapter = pydantic.TypeAdapter(hint, config={"arbitrary_types_allowed": True})
        adapter.validate_python(value, strict=strict)
    except pydantic.ValidationError as error:
        yield f"{path} is {value!r}: {error.errors()[0]['msg'].lower()}"
    except pydantic.errors.PydanticSchemaGenerationError:
        pass  # a type that YAML can't spell: the call itself will judge


def _not_converted(value: Any, kinds: set[Any]) -> str | None:
    """What is wanted of a value that pydantic would convert, since the function gets it as it is; None if it fits."""
    if type(value) not in (bool, float, str) or type(value) in kinds:
        return None
    if isinstance(value, str) and bool in kinds:
        return "true or false"
    if int in kinds and float not in kinds:
        return "a whole number"
    return None if isinstance(value, float) or float not in kinds else "a number"


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
