"""Where and how the arithmetic runs: device, precision, threads, seeds, and the wish to stop."""

import contextlib
import os
import platform
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from seg.counts import counted
from seg.errors import ConfigError, Preempted

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Runtime:
    """Device, number type and memory layout of a run.

    device:        "auto" takes a GPU where there is one.
    precision:     number type of the heavy operators, in training and out of it; "auto" is bf16 on a GPU or processor
                   that multiplies in bf16, else fp32. Weights, losses and counts are not in it; offsets are, as a
                   convolution emits them, and positions are summed from them in fp32.
    channels_last: memory layout that convolutions like best, on CPU and GPU alike.
    deterministic: whether two runs on one machine have the same bits on a GPU as well; slower there.
    threads:       CPU threads; 0 leaves the choice to torch.
    timeout:       seconds that one of several processes waits for the others before the run ends.
    """

    def __init__(
        self,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        channels_last: bool = True,
        compile: bool = False,
        deterministic: bool = False,
        threads: int = 0,
        timeout: float = 600.0,
    ) -> None:
        self.device = _device(device)
        if precision not in ("auto", *DTYPES):
            raise ValueError(f"runtime.precision is {precision!r}; expected auto, {', '.join(DTYPES)}")
        self.precision = _fastest_precision(self.device) if precision == "auto" else precision
        self.channels_last, self.compile, self.deterministic = channels_last, compile, deterministic
        if threads < 0:
            raise ValueError(f"runtime.threads is {threads}; expected 0 (torch's choice) or more")
        if not timeout > 0:
            raise ValueError(f"runtime.timeout is {timeout}; expected a positive number of seconds")
        self.threads, self.timeout = threads, timeout

    def start(self, seed: int) -> None:
        """Seed every generator, and settle."""
        if seed < 0:
            raise ValueError(f"seed is {seed}; expected 0 or more")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        self.settle()

    def settle(self) -> None:
        """Set what is the process's: threads, determinism, and how a GPU rounds fp32."""
        if self.threads:
            torch.set_num_threads(self.threads)
            cv2.setNumThreads(self.threads)
        if self.device.type == "cuda":
            if self.device.index is not None:
                torch.cuda.set_device(self.device)  # for what asks for no other, as the thread that pins memory
            round_alike()
        if self.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # a GPU's products are not without it
        torch.use_deterministic_algorithms(self.deterministic)

    def take_gpu(self, index: int) -> None:
        """Use the GPU of this number, as one of several processes on this host."""
        count = torch.cuda.device_count()
        tasks = os.environ.get("SLURM_STEP_NUM_TASKS", 1) if os.environ.get("SEG_RANKS") == "slurm" else 1
        if count == 1 and int(tasks) > 1:  # Slurm shows each task its own where it binds them
            index = 0
        if index >= count:
            raise ConfigError(
                f"process {index} on this host finds {count} GPUs; use trainer.devices={count}, or ask for more of them"
            )
        torch.cuda.set_device(index)
        self.device = torch.device("cuda", index)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on its device, in its memory layout, compiled if asked for; what is the process's is set, too."""
        self.settle()
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model = model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        if self.compile:
            # offsets are recorded by hooks that come and go, which a compiled net does not notice without guards
            torch._dynamo.config.skip_nnmodule_hook_guards = False
            model.compile(dynamic=True)
        return model

    def image(self, image: Tensor) -> Tensor:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return image.to(self.device, memory_format=layout, non_blocking=True)

    def autocast(self) -> contextlib.AbstractContextManager:
        return torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32")

    def describe(self) -> str:
        """What the numbers were computed on: "AMD EPYC, 2 threads, fp32"; says so of bf16 where "auto" keeps off it."""
        count = torch.get_num_threads()
        threads = f", {counted(count, 'thread')}" if self.device.type == "cpu" else ""
        against = self.precision == "bf16" != _fastest_precision(self.device)
        note = " (runtime.precision=auto is fp32 here)" if against else ""
        return f"{device_name(self.device)}{threads}, {self.precision}{note}"


def round_alike() -> None:
    """Let a GPU's convolutions round fp32 to TF32 only where its products may.

    torch has a switch for each, and only that of the convolutions is on: a plain layer would be given the tensor cores
    that a deformable one, which is a product, is not.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"runtime.device is {name!r}; expected auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"runtime.device is {name!r} but torch sees no GPU here; use runtime.device=cpu")
    if device.type == "cuda" and device.index is not None and device.index >= (count := torch.cuda.device_count()):
        raise ValueError(f"runtime.device is {name!r} but torch sees {count} GPUs here, from cuda:0; or use auto")
    return device


def _fastest_precision(device: torch.device) -> Precision:
    """bf16 where the hardware multiplies in it, fp32 where it would be emulated, which is slower than fp32.

    source: docs/SCALING.md, measured with AVX512_BF16: a half to three quarters of fp32's time, the same scores
    """
    if device.type == "cuda":
        with torch.cuda.device(device):  # torch asks about the current one
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    found: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch cannot tell: fp32
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") else "fp32"


def device_name(device: torch.device) -> str:
    """The maker's name of a GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "numpy": np.__version__,
    }


def commit() -> str:
    """Commit of this checkout, "+changes" where files differ from it, "unknown" outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


class Stop:
    """Set by SIGINT, SIGTERM or SIGUSR1; the loop looks at it between steps. A second signal exits at once.

    What comes within a second of the first is the same wish: clusters signal every process of a job, and the one that
    started the others passes it on to them.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    APART = 1.0  # seconds

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0

    def __bool__(self) -> bool:
        return self.signal is not None

    def take(self, number: int) -> bool:
        """Whether this is the first signal."""
        if self.signal is None:
            self.signal, self.since = number, time.monotonic()
            return True
        if time.monotonic() - self.since >= self.APART:
            os._exit(128 + number)
        return False

    @contextlib.contextmanager
    def listen(self) -> Iterator["Stop"]:
        """Catch the signals inside the block, where this is the main thread; restore their handlers after it."""
        with handling(lambda number, frame: self.take(number)):
            yield self


_heard: list[Stop] = []  # that listen now


@contextlib.contextmanager
def listening() -> Iterator[Stop]:
    """The Stop of the loop around this one, where there is one: a wish that came to it holds here; else a new one."""
    if _heard:
        yield _heard[-1]
        return
    with Stop().listen() as stop:
        _heard.append(stop)
        try:
            yield stop
        finally:
            _heard.remove(stop)


@contextlib.contextmanager
def preemptible() -> Iterator[None]:
    """Raise Preempted where a signal comes inside the block but outside of a loop that listens and saves first."""

    owner, stop = os.getpid(), Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a data worker that was forked inside the block
            os._exit(128 + number)
        if stop.take(number):
            raise Preempted("stopped by a signal; run the same command again to go on")

    with handling(handle):
        yield


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals that come inside the block strike after it; processes that start in it begin with them held back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, Stop.SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def handling(handle: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Take the signals by `handle` inside the block; nowhere but in the main thread, which alone gets them."""
    try:
        previous = {number: signal.signal(number, handle) for number in Stop.SIGNALS}
    except ValueError:  # not the main thread, as in some launchers: signals stay with their owner
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
