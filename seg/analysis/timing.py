"""Fair measurements on a machine that is never quite quiet: contenders take turns, and medians are compared."""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

Run = Callable[[], object]
LEAST = 5  # rounds, however long they take


class Clock(Protocol):
    """What measures a run."""

    def seconds(self, run: Run) -> float: ...


class WallClock:
    """Seconds of a run, until the device has finished. read: what is measured, by default elapsed time."""

    def __init__(self, device: str = "cpu", read: Callable[[], float] = time.perf_counter) -> None:
        self.device = device
        self.read = read

    def seconds(self, run: Run) -> float:
        self.wait()
        start = self.read()
        run()
        self.wait()
        return self.read() - start

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class EventClock:
    """Seconds that a GPU takes for a run, between two events in the current stream.

    The GPU idles for `cycles` first, about 2 ms, in which the host queues the run: what it takes to launch kernels is
    not counted, as it is not in a net that keeps the GPU busy.
    """

    def __init__(self, cycles: int = 4_000_000) -> None:
        self.cycles = cycles

    def seconds(self, run: Run) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(self.cycles)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


class Rotation:
    """The same work on several sets of tensors: every call takes the next set."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.runs = runs
        self.turn = 0

    def __call__(self) -> object:
        run = self.runs[self.turn]
        self.turn = (self.turn + 1) % len(self.runs)
        return run()


def sets_beyond(cache: int, size: int) -> int:
    """How many sets of `size` bytes take turns so that a cache of `cache` bytes holds nothing of the next one."""
    return 1 if cache == 0 else 1 + -(-cache // size)


def medians(
    contenders: Mapping[str, Run], *, rounds: int = 40, seconds: float = 10.0, clock: Clock | None = None
) -> dict[str, float]:
    """Median seconds of each contender, all of them run once in every round, after one round to warm up.

    The order turns from round to round, so that nobody always follows the same neighbour. After `seconds` and at least
    5 rounds it ends early. clock: by default elapsed time on the CPU.
    """
    measured = clock or WallClock()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for run in contenders.values():
        run()
    start = time.perf_counter()
    for turn in range(rounds):
        if turn >= LEAST and time.perf_counter() - start > seconds:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(measured.seconds(contenders[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def extra_memory(run: Run, device: str = "cpu") -> int | None:
    """Bytes that a run needs at its peak beyond what is there before it; None where the system does not tell.

    On the CPU the largest resident size, after a first run and with freed memory handed back; on a GPU torch's count.
    """
    run()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        run()
        return max(0, resident("VmHWM") - before)
    except (OSError, AttributeError):  # no Linux, or no glibc
        return None


def resident(key: str) -> int:
    """Bytes of this process in memory: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
