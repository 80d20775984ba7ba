"""Compiled kernels from a cache, built there on first use. `python -m seg.ops.build` builds ahead of time."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from seg.ops.recipe import Recipe, Unavailable, cpu_recipe, cuda_recipe

PATIENCE = 600.0  # seconds for each of our commands, and twice that for another process's build: never wait for ever
POLL = 0.1


def library(recipe: Recipe) -> Path:
    """The path of the recipe's library, verified; it is built first where the cache has none or a damaged one.

    Of several processes that ask at once, one builds and the others wait for it. A cache that is complete is only
    read, so that it may be on a read-only disk.
    raises: Unavailable, with the reason, when it can't be had
    """
    made = library_path(recipe)
    if is_intact(made):
        return made
    recipe.command()  # says now what is missing
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        with locked(made.with_suffix(".lock")):
            if not is_intact(made):  # another process may have built it while we waited
                build(recipe, made)
    except OSError as error:
        raise Unavailable(
            f"the cache {made.parent} can't be written ({error}); set SEG_CACHE to another folder"
        ) from error
    return made


def library_path(recipe: Recipe) -> Path:
    """Where the recipe's library is in the cache."""
    return cache_folder() / f"{recipe.name}-{key(recipe)}.so"


def cache_folder() -> Path:
    """SEG_CACHE, else seg in XDG_CACHE_HOME, else ~/.cache/seg; raises Unavailable where there is no home folder."""
    try:
        if chosen := os.environ.get("SEG_CACHE"):
            return Path(chosen).expanduser().absolute()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seg"
    except RuntimeError as error:
        raise Unavailable(f"there is no folder for the cache ({error}); set SEG_CACHE to one") from error


def key(recipe: Recipe) -> str:
    """A name for all that the library depends on: sources, flags, torch, and the processor or GPU.

    The compiler is left out on purpose: an image may carry the cache and no compiler.
    """
    parts = [torch.__version__, recipe.target, *recipe.flags, *recipe.link_flags]
    for path in (*recipe.sources, *recipe.headers):
        parts += [path.name, *recipe.flags_of(path), sha256(path)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def is_intact(made: Path) -> bool:
    """Whether the library is there and is what its builder wrote, by the checksum beside it."""
    try:
        return checksum_path(made).read_text(errors="replace").strip() == sha256(made)
    except OSError:
        return False


def checksum_path(made: Path) -> Path:
    """The file beside a library that holds its SHA-256."""
    return made.with_suffix(".so.sha256")


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file. The system frees it when its holder dies, so a killed build blocks nobody."""
    with path.open("a") as file:
        limit = time.monotonic() + 2 * PATIENCE
        while not try_lock(file.fileno()):
            if time.monotonic() > limit:
                raise Unavailable(f"another process has held {path} for {2 * PATIENCE:.0f} s; end it or set SEG_CACHE")
            time.sleep(POLL)
        yield


def try_lock(descriptor: int) -> bool:
    """Whether the lock is now ours."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


def build(recipe: Recipe, made: Path) -> None:
    """Compiles all sources at once and puts the library and its checksum in place; the caller holds the lock."""
    print(f"seg: compiling {recipe.name} into {made.parent}, once", file=sys.stderr, flush=True)
    remove_leftovers(made)
    with tempfile.TemporaryDirectory(prefix=f"{made.stem}.", suffix=".tmp", dir=made.parent) as folder:
        objects = [Path(folder, f"{source.stem}.o") for source in recipe.sources]
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            list(pool.map(run, map(recipe.compile_command, recipe.sources, objects)))
        linked = Path(folder, made.name)
        run(recipe.link_command(objects, linked))
        checksum = Path(folder, checksum_path(made).name)
        checksum.write_text(sha256(linked) + "\n")
        # the library last: until it is there, a checksum alone is no library
        os.replace(checksum, checksum_path(made))
        os.replace(linked, made)


def remove_leftovers(made: Path) -> None:
    """Removes what builds of this library that were killed have left behind."""
    for folder in made.parent.glob(f"{made.stem}.*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def run(command: list[str]) -> None:
    """Runs one compiler command; raises Unavailable with the first error that it printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"{command[0]} took more than {PATIENCE:.0f} s") from None
    except OSError as error:
        raise Unavailable(f"{command[0]} can't be run ({error})") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        told = next((line for line in lines if "error" in line or "No space" in line), lines[-1] if lines else "")
        raise Unavailable(
            f"{Path(command[0]).name} failed with {done.returncode}: {told.strip()} (run: {' '.join(command)})"
        )


def main() -> int:
    """Builds every library that can be built here, and prints where they are."""
    print(library(cpu_recipe()))
    try:
        print(library(cuda_recipe()))
    except Unavailable as reason:
        print(f"seg: no CUDA kernels: {reason}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as reason:
        sys.exit(f"seg: no CPU kernels: {reason}")
