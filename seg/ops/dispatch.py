"""Which body an operator has on a device: a compiled library, or the reference in plain torch."""

import functools
import os
import sys
from types import ModuleType
from typing import Any

import torch

from seg.ops.recipe import Unavailable, cpu_recipe, cuda_recipe

MODES = ("auto", "off", "require")
RECIPES = {"cpu": cpu_recipe, "cuda": cuda_recipe}


def backend(device_type: str = "cpu") -> str:
    """ "compiled" or "reference": what the operators run on a device of this type.

    raises: ValueError for an unknown SEG_KERNELS, RuntimeError where it is `require` and there is no compiled library
    """
    return "reference" if kernels(device_type) is None else "compiled"


def kernels(device_type: str) -> Any | None:
    """The compiled operators for a device type (torch.ops.seg_cpu, ...), or None for the reference.

    SEG_KERNELS decides: auto (compile on first use, fall back with a notice), off (reference), require (no fallback).
    raises: as `backend`
    """
    mode = os.environ.get("SEG_KERNELS", "auto")
    if mode not in MODES:
        raise ValueError(f"SEG_KERNELS={mode!r} is unknown; set it to one of {', '.join(MODES)}")
    if mode == "off":
        return None
    loaded = load(device_type)
    if not isinstance(loaded, str):
        return loaded
    if mode == "require":
        raise RuntimeError(f"SEG_KERNELS=require, but there are no compiled kernels for {device_type}: {loaded}")
    say_once(f"seg: the slower reference in plain torch serves {device_type}: {loaded}")
    return None


@functools.cache
def load(device_type: str) -> ModuleType | str:
    """The loaded library's operators, or the reason why there are none."""
    from seg.ops import build  # not at import: it is a program too, python -m seg.ops.build

    try:
        if device_type not in RECIPES:
            raise Unavailable("there are no kernels for this kind of device")
        recipe = RECIPES[device_type]()
        torch.ops.load_library(build.library(recipe))
    except Unavailable as reason:
        return str(reason)
    except OSError as error:  # from the dynamic loader
        return f"the library can't be loaded ({error}); remove it from {build.cache_folder()}"
    return getattr(torch.ops, recipe.name)


@functools.cache
def say_once(text: str) -> None:
    """One line on stderr, the first time."""
    print(text, file=sys.stderr, flush=True)
