"""Fair measurements on a machine that is never quite quiet: contenders take turns, and medians are compared."""

import ctypes
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Run = Callable[[], object]
LEAST = 5  # rounds, however long they take


def medians(
    contenders: Mapping[str, Run],
    *,
    rounds: int = 40,
    seconds: float = 10.0,
    device: str = "cpu",
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each contender, all of them run once in every round, after one round to warm up.

    The order turns from round to round, so that nobody always follows the same neighbour. After `seconds` and at least
    5 rounds it ends early. clock: what is measured, by default elapsed time.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for run in contenders.values():
        run()
    start = time.perf_counter()
    for turn in range(rounds):
        if turn >= LEAST and time.perf_counter() - start > seconds:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            times[name].append(timed(contenders[name], device, clock))
    return {name: statistics.median(found) for name, found in times.items()}


def timed(run: Run, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one run, until the device has finished."""
    synchronize(device)
    start = clock()
    run()
    synchronize(device)
    return clock() - start


def synchronize(device: str) -> None:
    """Waits for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


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
