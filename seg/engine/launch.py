"""Start the ranks of a run on this host, pass signals on to them, and end all when one dies."""

import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import distributed
from torch.multiprocessing import start_processes
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException

from seg.engine.runtime import Stop, handling, held_back, preemptible
from seg.errors import ConfigError, DataError, Preempted, RunError

PATIENCE = 20.0  # seconds that ranks have to end by themselves once one of them is dead
KINDS = {kind.__name__: kind for kind in (ConfigError, DataError, RunError, Preempted)}


def started_outside() -> bool:
    """Whether this process is a rank already, of torchrun or of `launch`."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def leave(code: int) -> NoReturn:
    """End this rank without Python's finalization, in which torch's threads can abort the process.

    A DistributedDataParallel keeps its group's threads beyond destroy_process_group (torch 2.14). One that frees the
    last tensor while the interpreter is being torn down ends a run that has saved all its work with SIGABRT.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def launch(function: Callable[..., Any], *arguments: Any, count: int) -> None:
    """Run `function(*arguments)` in `count` new processes, whose environment names them as torchrun would.

    raises: what a rank raised first; RunError where a rank died without a word
    """
    # the store lives here, on a port that the system picks: no rank has to be the first to listen
    store = distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # one message is enough: the first rank's
    relay = _Relay()
    with handling(relay.take):
        with held_back():  # a rank would die of what it gets before it can handle it
            ranks = start_processes(
                _rank, (count, store.port, errors, function, arguments), nprocs=count, join=False, start_method="spawn"
            )
        assert ranks is not None
        relay.reach(ranks.processes)
        try:
            while not ranks.join(timeout=1, grace_period=PATIENCE):
                pass
        except ProcessException as error:
            raise _first(errors) or _death(error) from None
    told = _first(errors)
    if told is not None:
        raise told


def _rank(
    index: int, count: int, port: int, errors: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.setpgrp()  # a Ctrl-C reaches the starter alone, which passes it on once
    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(max(1, torch.get_num_threads() // count))  # of the cores that this process may use
    try:
        with preemptible():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, Stop.SIGNALS)
            function(*arguments)
    except BaseException as error:
        kind, text = type(error).__name__, str(error)
        if kind not in KINDS:
            kind, text = "RunError", f"rank {index}: {traceback.format_exc()}"
        errors.put((kind, text[:20_000]))
        if not isinstance(error, Preempted):  # the others are saving too: they end by themselves
            leave(1)
    leave(0)


def _first(errors: Any) -> BaseException | None:
    if errors.empty():
        return None
    kind, text = errors.get()
    return KINDS[kind](text)


def _death(error: ProcessException) -> RunError:
    cause = f"exit code {error.exit_code}" if isinstance(error, ProcessExitedException) else "an error"
    if isinstance(error, ProcessExitedException) and error.signal_name:
        cause = error.signal_name
    return RunError(
        f"rank {error.error_index} died ({cause}); run the same command again to go on from the last checkpoint"
    )


class _Relay:
    """Passes signals on to processes; what comes before they are there waits for them."""

    def __init__(self) -> None:
        self.processes: list[Any] = []
        self.waiting: list[int] = []

    def take(self, number: int, _: Any) -> None:
        self.waiting.append(number)
        self.reach(self.processes)

    def reach(self, processes: list[Any]) -> None:
        self.processes = processes
        while processes and self.waiting:
            number = self.waiting.pop(0)
            for process in processes:
                if process.is_alive():
                    os.kill(process.pid, number)
