"""Which body an operator has on a device: a compiled library, or the reference in plain torch."""

import functools
import os
import sys
from types import ModuleType
from typing import Any

import torch

from seg.ops.recipe import Unavailable, cpu_recipe, cuda_recipe

MODES = ("auto", "off", "require")
PATHS = ("plain", "fused")
RECIPES = {"cpu": cpu_recipe, "cuda": cuda_recipe}


def backend(device_type: str = "cpu") -> str:
    """ "compiled" or "reference": what the operators run on a device of this type.

    raises: ValueError for an unknown SEG_KERNELS, RuntimeError where it is `require` and there is no compiled library
    """
    return "reference" if kernels(device_type) is None else "compiled"


def kernels(device_type: str, operator: str | None = None) -> Any | None:
    """The compiled operators for a device type (torch.ops.seg_cpu, ...), or None for the reference.

    operator: one that has to be among them; not every library has all
    SEG_KERNELS decides: auto (compile on first use, fall back with a notice), off (reference), require (no fallback).
    raises: as `backend`
    """
    mode = os.environ.get("SEG_KERNELS", "auto")
    if mode not in MODES:
        raise ValueError(f"SEG_KERNELS={mode!r} is unknown; set it to one of {', '.join(MODES)}")
    if mode == "off":
        return None
    loaded = load(device_type)
    if operator is not None and not isinstance(loaded, str) and not hasattr(loaded, operator):
        loaded = f"its library has no {operator}"
    if not isinstance(loaded, str):
        return loaded
    if mode == "require":
        raise RuntimeError(f"SEG_KERNELS=require, but there are no compiled kernels for {device_type}: {loaded}")
    say_once(f"seg: the slower reference in plain torch serves {device_type}: {loaded}")
    return None


def cuda_path() -> str:
    """ "plain" or "fused": how the compiled deformable convolution works on a GPU, as SEG_CUDA_PATH chooses.

    The default is plain: samples in a bounded workspace, then torch's matrix products. Fused puts samples straight on
    the tensor cores (half precision, and float32 where torch allows TF32) and takes the plain path for what does not
    fit it; no test of it has passed on a GPU yet, hence it is never chosen by itself.
    raises: ValueError for another value
    """
    path = os.environ.get("SEG_CUDA_PATH", "plain")
    if path not in PATHS:
        raise ValueError(f"SEG_CUDA_PATH={path!r} is unknown; set it to one of {', '.join(PATHS)}")
    return path


def options(device_type: str, *, backward: bool = False) -> dict[str, bool]:
    """Arguments that the compiled operators of a device have beyond the common ones: torch's flags at this moment."""
    if device_type != "cuda":
        return {}
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    chosen = {"fused": cuda_path() == "fused", "tf32": tf32}
    if backward:
        chosen["deterministic"] = torch.are_deterministic_algorithms_enabled()
    return chosen


@functools.cache
def load(device_type: str) -> ModuleType | str:
    """The loaded library's operators, or the reason why there are none."""
    try:
        from seg.ops import build  # not at import: it is a program too, python -m seg.ops.build

        if device_type not in RECIPES:
            raise Unavailable("there are no kernels for this kind of device")
        recipe = RECIPES[device_type]()
        torch.ops.load_library(build.library(recipe))
    except Unavailable as reason:
        return str(reason)
    except ModuleNotFoundError as error:  # fcntl is not on Windows
        return f"the kernels can't be built on this system ({error})"
    except OSError as error:  # from the dynamic loader
        return f"the library can't be loaded ({error}); remove it from {build.cache_folder()}"
    return getattr(torch.ops, recipe.name)


@functools.cache
def say_once(text: str) -> None:
    """One line on stderr, the first time."""
    print(text, file=sys.stderr, flush=True)
