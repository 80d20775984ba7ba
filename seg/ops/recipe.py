"""How each kernel library is made: sources, compiler and the flags of every file. The only place with flags."""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

PATIENCE = 60.0  # seconds for a compiler that is asked about itself
KERNELS = Path(__file__).resolve().parents[2] / "kernels"

# libtorch's stable ABI as of 2.11: one source tree, and one library, serves every later torch
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
COMMON = ("-O3", "-std=c++20", "-DNDEBUG", STABLE_ABI)

# A file whose name ends in a processor's name is compiled for it, and only called where the processor has it.
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
PROCESSOR_FLAGS = {
    "_avx512_bf16": (*AVX512, "-mavx512bf16"),
    "_avx512": AVX512,
    "_avx2": AVX2,
    "_portable": (),
}


USUAL_TOOLKIT = "/usr/local/cuda"
OLDEST_GPU = (7, 0)  # compute capability: kernels' arguments are __grid_constant__


class Unavailable(RuntimeError):
    """There is no compiled library here; the text says why and what would help."""


@dataclass(frozen=True)
class Recipe:
    """One shared library: what it is made of and by which commands."""

    name: str  # also the namespace of its operators
    sources: tuple[Path, ...]
    headers: tuple[Path, ...]
    compiler: "tuple[str, ...] | Unavailable"  # or why there is none: a library from the cache needs none
    flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    target: str  # the processor or GPU that it is made for
    file_flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by the end of a file's stem

    def compile_command(self, source: Path, made: Path) -> list[str]:
        """The command that turns one source into one object file."""
        return [*self.command(), *self.flags, *self.flags_of(source), "-c", str(source), "-o", str(made)]

    def link_command(self, objects: list[Path], made: Path) -> list[str]:
        """The command that joins the object files into the shared library."""
        return [*self.command(), "-shared", *map(str, objects), *self.link_flags, "-o", str(made)]

    def command(self) -> tuple[str, ...]:
        """The compiler; raises Unavailable where there is none."""
        if isinstance(self.compiler, Unavailable):
            raise self.compiler
        return self.compiler

    def flags_of(self, source: Path) -> tuple[str, ...]:
        """The flags that this file has beyond those of all files."""
        for ending, flags in self.file_flags.items():
            if source.stem.endswith(ending):
                return flags
        return ()


def cpu_recipe(kernels: Path = KERNELS) -> Recipe:
    """The library of the CPU's operators, `seg_cpu`.

    CXX and CXXFLAGS are honoured, for another compiler or a sanitizer.
    raises: Unavailable without sources
    """
    x86 = platform.machine() in ("x86_64", "AMD64")
    sources = tuple(s for s in sorted((kernels / "cpu").glob("*.cpp")) if x86 or "_avx" not in s.stem)
    require_sources(sources, kernels / "cpu")
    extra = tuple(shlex.split(os.environ.get("CXXFLAGS", "")))
    return Recipe(
        name="seg_cpu",
        sources=sources,
        headers=headers(kernels, "cpu"),
        compiler=_or_reason(cxx),
        flags=(*COMMON, "-fPIC", *includes(kernels), *extra),
        link_flags=(f"-L{torch_folder() / 'lib'}", "-ltorch", "-ltorch_cpu", "-lc10", *extra),
        target=processor(),
        file_flags=PROCESSOR_FLAGS,
    )


def cuda_recipe(kernels: Path = KERNELS) -> Recipe:
    """The library of the GPU's operators, `seg_cuda`, for the GPUs that torch sees.

    raises: Unavailable without sources, a CUDA build of torch, a GPU, or for one that nvcc no longer knows
    """
    cuda = torch.version.cuda
    if cuda is None or not torch.cuda.is_available():
        raise Unavailable("this torch sees no CUDA device")
    sources = tuple(sorted([*(kernels / "cuda").glob("*.cu"), *(kernels / "cuda").glob("*.cpp")]))
    require_sources(sources, kernels / "cuda")
    compiler = _or_reason(lambda: (nvcc(cuda),))
    known = () if isinstance(compiler, Unavailable) else gpu_codes(compiler[0])
    gpus = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    codes = all_codes(gpus, known)
    return Recipe(
        name="seg_cuda",
        sources=sources,
        headers=headers(kernels, "cuda"),
        compiler=compiler,
        flags=(*cuda_flags(kernels), *codes),
        link_flags=(f"-L{torch_folder() / 'lib'}", "-ltorch", "-ltorch_cpu", "-ltorch_cuda", "-lc10", "-lc10_cuda"),
        target=" ".join(codes),
    )


def cuda_flags(kernels: Path = KERNELS) -> tuple[str, ...]:
    """The flags of all files of `seg_cuda`, but for the GPU that they are compiled for."""
    # hidden: the libraries of the CPU and the GPU have functions of the same names
    return (*COMMON, "-DUSE_CUDA", "-Xcompiler=-fPIC,-fvisibility=hidden", *includes(kernels))


def all_codes(gpus: Sequence[tuple[int, int]], known: Sequence[str]) -> tuple[str, ...]:
    """The -gencode flags for all of a machine's GPUs. One that is too old beside others, as it may only drive a screen,
    is left out with a notice; raises Unavailable where all are."""
    codes: dict[str, None] = {}
    refused: list[Unavailable] = []
    for capability in dict.fromkeys(gpus):
        try:
            codes[gpu_code(capability, known)] = None
        except Unavailable as error:
            refused.append(error)
    if refused and not codes:
        raise refused[0]
    for reason in refused:
        print(f"seg: {reason}; the others have them, and this one needs SEG_KERNELS=off", file=sys.stderr)
    return tuple(codes)


def gpu_code(capability: tuple[int, int], known: Sequence[str]) -> str:
    """The -gencode flag for a GPU: machine code where nvcc knows it, else PTX that the driver compiles at the start.

    known:  numbers of the architectures that nvcc compiles for, such as 80 or 90
    raises: Unavailable for a GPU that is older than all of them
    """
    number = f"{capability[0]}{capability[1]}"
    if capability < OLDEST_GPU:
        raise Unavailable(
            f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels are written for "
            f"{OLDEST_GPU[0]}.{OLDEST_GPU[1]} and later"
        )
    if number in known or not known:  # an nvcc that lists nothing says itself what it can't do
        return f"-gencode=arch=compute_{number},code=[sm_{number},compute_{number}]"
    older = [n for n in known if n.isdigit() and int(n) < int(number)]
    if not older:
        raise Unavailable(
            f"the GPU has compute capability {capability[0]}.{capability[1]}, which this nvcc no longer compiles for; "
            "use an older CUDA toolkit and its torch build"
        )
    newest = max(older, key=int)
    print(
        f"seg: nvcc does not know compute capability {capability[0]}.{capability[1]}; the kernels are built as PTX for "
        f"compute_{newest}, which the driver compiles (JIT) when they are loaded. A newer CUDA toolkit avoids that.",
        file=sys.stderr,
    )
    return f"-gencode=arch=compute_{newest},code=compute_{newest}"


def gpu_codes(compiler: str) -> tuple[str, ...]:
    """Numbers of the architectures that an nvcc compiles for."""
    return tuple(re.findall(r"sm_(\w+)", _said([compiler, "--list-gpu-code"])))


def cxx() -> tuple[str, ...]:
    """The C++ compiler: CXX, else the first that is installed."""
    if chosen := os.environ.get("CXX"):
        command = tuple(shlex.split(chosen))
        if shutil.which(command[0]) is None:
            raise Unavailable(f"CXX={chosen} is no command here; unset CXX or name an installed C++ compiler")
        return command
    for name in ("g++", "c++", "clang++"):
        if path := shutil.which(name):
            return (path,)
    raise Unavailable("there is no C++ compiler (g++, c++ or clang++); install one or name it in CXX")


def nvcc(cuda: str) -> str:
    """The CUDA compiler's path: of CUDA_HOME or CUDA_PATH, else of PATH, else the usual one, as torch looks for it; its
    major version has to be that of `cuda`."""
    name = next((name for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)), None)
    if name:
        path = shutil.which("nvcc", path=f"{os.environ[name]}/bin")
    else:
        path = shutil.which("nvcc") or shutil.which("nvcc", path=f"{USUAL_TOOLKIT}/bin")
    if path is None:
        where = f"in {name}={os.environ[name]}" if name else f"on PATH or in {USUAL_TOOLKIT}"
        raise Unavailable(f"there is no nvcc {where}; install the CUDA {cuda} toolkit and set CUDA_HOME to it")
    found = re.search(r"release (\d+)\.(\d+)", _said([path, "--version"]))
    if found is None:
        raise Unavailable(f"{path} --version names no CUDA release; set CUDA_HOME to a working toolkit {cuda}")
    if found[1] != cuda.split(".")[0]:
        raise Unavailable(
            f"{path} is of CUDA {found[1]}.{found[2]} but torch {torch.__version__} is built for CUDA {cuda}; "
            f"set CUDA_HOME to a toolkit {cuda.split('.')[0]}.x or install the torch build for CUDA {found[1]}"
        )
    return path


def _or_reason(find: Callable[[], tuple[str, ...]]) -> tuple[str, ...] | Unavailable:
    """The compiler that is found, or why there is none."""
    try:
        return find()
    except Unavailable as reason:
        return reason


def _said(command: list[str]) -> str:
    """What a compiler says of itself; raises Unavailable where it can't be run or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(
            f"{command[0]} says nothing of itself ({error}); set CUDA_HOME to a working toolkit"
        ) from error


def require_sources(sources: tuple[Path, ...], folder: Path) -> None:
    """Raises Unavailable where the package came without its kernels."""
    if not sources:
        raise Unavailable(f"there are no kernel sources in {folder}; they come with a clone: pip install -e .")


def headers(kernels: Path, device: str) -> tuple[Path, ...]:
    """The headers that a device's sources may read: the shared ones and its own."""
    return tuple(sorted([*kernels.glob("*.h"), *(kernels / device).glob("*.h"), *(kernels / device).glob("*.cuh")]))


def includes(kernels: Path) -> tuple[str, ...]:
    """The -I flags: ours and libtorch's."""
    include = torch_folder() / "include"
    return (f"-I{kernels}", "-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include"))


def torch_folder() -> Path:
    """Where torch is installed."""
    return Path(torch.__file__).resolve().parent


def processor() -> str:
    """The processor's name and abilities, as the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    told = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    return "\n".join([platform.machine(), *dict.fromkeys(told)])
