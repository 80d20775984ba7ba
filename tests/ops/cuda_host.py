"""The CUDA sources compiled for the host, where every thread of a kernel runs as a fiber; see host/device.h."""

import ctypes
import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from seg.ops import build, recipe

HOST = Path(__file__).resolve().parent / "host"
CUDA = recipe.KERNELS / "cuda"
ON_DEVICE = ("current.cpp", "library.cpp", "roi_library.cpp")  # that host/library.cpp stands for


def host_recipe() -> recipe.Recipe:
    """The library `seg_cuda_on_host`: the kernels and operators of `seg_cuda` for tensors of the CPU.

    raises: Unavailable without a C++ compiler or the headers of a CUDA toolkit
    """
    include = toolkit() / "include"
    ours = [path for path in (*CUDA.glob("*.cu"), *CUDA.glob("*.cpp")) if path.name not in ON_DEVICE]
    torch_lib = recipe.torch_folder() / "lib"
    return recipe.Recipe(
        name="seg_cuda_on_host",
        sources=tuple(sorted([*ours, *HOST.glob("*.cpp")], key=lambda path: path.name)),
        headers=(*recipe.headers(recipe.KERNELS, "cuda"), *sorted(HOST.glob("*.h"))),
        compiler=recipe.cxx(),
        flags=(
            *("-O1", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-w", recipe.STABLE_ABI, "-DUSE_CUDA"),
            *(f"-I{CUDA}", "-isystem", str(include), *recipe.includes(recipe.KERNELS)),
            *("-x", "c++", "-include", str(HOST / "device.h")),
        ),
        # -Bsymbolic: what stands for libtorch's CUDA functions here must serve this library alone
        link_flags=("-x", "none", f"-L{torch_lib}", "-Wl,-Bsymbolic", "-ltorch", "-ltorch_cpu", "-lc10"),
        target=recipe.processor(),
    )


def toolkit() -> Path:
    """The CUDA toolkit: CUDA_HOME, else nvcc's, else the usual place."""
    path = shutil.which("nvcc")
    nvccs = [] if path is None else [Path(path).resolve().parents[1]]
    for folder in (Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")), *nvccs, Path("/usr/local/cuda")):
        if (folder / "include/cuda_bf16.h").is_file():
            return folder
    raise recipe.Unavailable("there is no CUDA toolkit in CUDA_HOME, with nvcc or in /usr/local/cuda")


@functools.cache
def library() -> Path:
    """The built library; skips the test where it can't be built for want of a tool."""
    try:
        made = host_recipe()
    except recipe.Unavailable as reason:
        pytest.skip(str(reason))
    return build.library(made)


def operators():
    """The operators, for tensors of the CPU."""
    torch.ops.load_library(library())
    return torch.ops.seg_cuda_on_host


def arithmetic() -> ctypes.CDLL:
    """The functions of host/arithmetic.cpp."""
    return ctypes.CDLL(str(library()))


@contextmanager
def backwards() -> Iterator[None]:
    """A block in which blocks and threads come last to first and asynchronous copies arrive at once."""
    arithmetic().seg_run_backwards(ctypes.c_int64(1))
    try:
        yield
    finally:
        arithmetic().seg_run_backwards(ctypes.c_int64(0))


@contextmanager
def device(multiprocessors: int = 8, shared_bytes: int = 227 << 10, major: int = 9) -> Iterator[None]:
    """A block in which the kernels find another device."""
    use = arithmetic().seg_use_device
    use(*map(ctypes.c_int64, (multiprocessors, shared_bytes, major)))
    try:
        yield
    finally:
        use(*map(ctypes.c_int64, (8, 227 << 10, 9)))
