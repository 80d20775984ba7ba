"""Checkpoints that survive a crash: written beside, flushed, renamed into place, and checked by a hash when read."""

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from seg.errors import DataError, RunError

NAME = re.compile(r"step_(\d+)\.pt")


def save(folder: Path, step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write `state` as step_N.pt with its sha256 beside it, durably; then delete older ones, so that `keep` are left.

    The old checkpoints stay until the new one is on disk. A later step's file, which a run passes over where it is
    damaged, does not count: the run comes to it again. Raises RunError, naming the file, when it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".*.tmp"):
        stale.unlink(missing_ok=True)
    path = folder / f"step_{step:08d}.pt"
    path.with_suffix(".sha256").unlink(missing_ok=True)  # of the same step's file, which the new one replaces
    try:
        digest = _write_durably(path, state)
        write_text(path.with_suffix(".sha256"), f"{digest}  {path.name}\n")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError of its zip writer
        raise RunError(
            f"could not write the checkpoint {path} ({error}); earlier checkpoints are untouched. "
            "Free some space and run the same command again to go on"
        ) from error
    older = [path for path in list_checkpoints(folder) if step_of(path) < step]
    remove(older[keep - 1 :])
    return path


def remove(checkpoints: list[Path]) -> None:
    """Delete checkpoints with their hashes."""
    for path in checkpoints:
        path.unlink(missing_ok=True)
        path.with_suffix(".sha256").unlink(missing_ok=True)


def _write_durably(path: Path, state: dict[str, Any]) -> str:
    with replacing(path, "wb") as file:
        torch.save(state, file)
        _flush(file)
        digest = file_hash(Path(file.name))
    return digest


def write_text(path: Path, text: str) -> None:
    """Replace a small text file in one step, so that a reader sees the old or the new one, never half of it."""
    with replacing(path, "w") as file:
        file.write(text)


@contextmanager
def replacing(path: Path, mode: str) -> Iterator[Any]:
    """A file beside `path` that takes its place once it is on disk, or is gone if the block fails: nobody sees half."""
    with tempfile.NamedTemporaryFile(mode, dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
        try:
            yield file
            _flush(file)
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    _flush_folder(path.parent)


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, newest first."""
    found = [path for path in folder.glob("step_*.pt") if NAME.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    return int(NAME.fullmatch(path.name)[1])  # type: ignore[index]


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint of ours. Raises DataError for a file that is missing, damaged, or no checkpoint."""
    try:
        digest_file = path.with_suffix(".sha256")
        if digest_file.exists() and digest_file.read_text().split()[:1] != [file_hash(path)]:
            raise DataError(f"{path} differs from its recorded sha256: it is damaged; delete it to use an older one")
        # weights_only: a checkpoint from a stranger can't run code
        state = torch.load(path, map_location="cpu", weights_only=True)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"there is no checkpoint {path}") from error
    except Exception as error:
        cause = f"{type(error).__name__} {error}".splitlines()[0][:200]  # of some there is hardly a message
        raise DataError(f"{path} can't be read as a checkpoint ({cause}); give another one") from error
    if not isinstance(state, dict) or "model" not in state:
        raise DataError(f"{path} is no checkpoint of this toolkit: it has no entry 'model'")
    return state


def newest(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """State of the newest checkpoint that can be read, None if there is none, and what was wrong with newer ones."""
    problems: list[str] = []
    for path in list_checkpoints(folder):
        try:
            return load(path), problems
        except DataError as error:
            problems.append(str(error))
    return None, problems
