"""The folder of a run: its state, its metrics, its checkpoints, and the lock that keeps a second run out."""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from seg.engine.checkpoint import write_text
from seg.engine.rows import append_row, write_rows
from seg.engine.runtime import held_back, preemptible
from seg.errors import ConfigError, Preempted

_locks: set[TextIO] = set()  # that this process holds
# a forked data worker would hold them for some seconds after the death of the run
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _locks])


class RunFolder:
    """Paths and small files of one run.

    status.json says what became of it; metrics.jsonl has a line for each logged step and each evaluation, and
    metrics.csv the same as rows.
    owned:     whether this process writes them; of several that share a run one does, the others only look.
    listeners: are called with every record, too.
    """

    def __init__(self, path: str | Path, *, owned: bool = True) -> None:
        self.path, self.owned = Path(path).resolve(), owned
        self.checkpoints = self.path / "checkpoints"
        self.metrics, self.rows = self.path / "metrics.jsonl", self.path / "metrics.csv"
        self.listeners: list[Callable[[dict[str, Any]], None]] = []
        self.result = self.path / "result.json"
        self.events = self.path / "tensorboard"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            cause = "it is a file" if self.path.is_file() else error.strerror
            raise ConfigError(f"can't make the run folder {self.path}: {cause}; give another folder") from error

    def require_writable(self, key: str = "run") -> None:
        """Raises ConfigError where nothing can be written; `key` is the argument that names another folder."""
        if not os.access(self.path, os.W_OK):
            raise ConfigError(f"the folder {self.path} is not writable; choose another with {key}=FOLDER")

    def status(self) -> dict[str, Any]:
        """What status.json says; {} where there is none, or it is unreadable."""
        with contextlib.suppress(OSError, json.JSONDecodeError):
            return json.loads((self.path / "status.json").read_text())
        return {}

    def write_status(self, state: str, **fields: Any) -> None:
        if not self.owned:
            return
        kept = {key: value for key, value in self.status().items() if key != "error"}
        self._put_status({**kept, "state": state, "pid": os.getpid(), **fields})

    def _put_status(self, status: dict[str, Any]) -> None:
        write_text(self.path / "status.json", json.dumps(status, indent=1) + "\n")

    @contextlib.contextmanager
    def running(self) -> Iterator["RunFolder"]:
        """Hold the folder's lock and keep status.json true: running, then done, preempted or failed."""
        if not self.owned:
            yield self
            return
        self.require_writable()
        with (self.path / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = self.status().get("pid", "unknown")
                raise ConfigError(f"another run (process {owner}) works in {self.path}; choose run=FOLDER") from error
            except OSError as error:  # some file systems of clusters have no locks
                print(f"note: no lock on {self.path} ({error.strerror}): start no second run in it", file=sys.stderr)
            start, before = time.monotonic(), self.status()
            self.write_status("running")
            _locks.add(lock)
            try:
                with preemptible():
                    yield self
            except BaseException as error:
                if isinstance(error, ConfigError) and before.get("state") in ("done", "preempted"):
                    self._put_status(before)  # a command that is refused changes nothing of what there is
                    raise
                stopped = isinstance(error, (Preempted, KeyboardInterrupt))
                # a full disk must not hide the error that is on its way
                with contextlib.suppress(OSError), held_back():
                    self.write_status("preempted" if stopped else "failed", error=_one_line(error))
                raise
            finally:
                _locks.discard(lock)
            self.write_status("done", seconds=round(time.monotonic() - start, 3))

    def mark_failed(self, error: BaseException) -> None:
        """Say of a run that was refused, or whose owner was killed, that it failed, and of what."""
        if self.status().get("state", "running") == "running":
            self.write_status("failed", error=_one_line(error))

    def mark_done(self) -> None:
        """Say of a finished training that it was evaluated after all; a run that works here says so itself."""
        with (self.path / ".lock").open("a+") as lock, contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.status().get("state") != "done":
                self.write_status("done")

    def log(self, record: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl and to metrics.csv, and tell the listeners."""
        if not self.owned:
            return
        with self.metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")
        if not append_row(self.rows, record):
            write_rows(self.rows, self.read_metrics())
        for listener in self.listeners:
            listener(record)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Records of metrics.jsonl; a last line that a crash cut short is left out."""
        if not self.metrics.exists():
            return []
        records = []
        for line in self.metrics.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return records

    def rewind_metrics(self, step: int) -> None:
        """Drop the records after a step, which a resumed run will write again."""
        if not self.owned:
            return
        kept = [record for record in self.read_metrics() if record.get("step", 0) <= step]
        if self.metrics.exists():
            write_text(self.metrics, "".join(json.dumps(record) + "\n" for record in kept))
            write_rows(self.rows, kept)

    def write_result(self, result: dict[str, Any]) -> None:
        write_text(self.result, json.dumps(result, indent=1, allow_nan=False) + "\n")


def _one_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
