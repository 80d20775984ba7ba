"""What a run needs beside its weights to go on as if it had never stopped, and where it finds it."""

import random
import shutil
from pathlib import Path
from typing import Any

import torch

from seg.counts import counted
from seg.engine import checkpoint
from seg.engine.ranks import Ranks
from seg.engine.run_folder import RunFolder
from seg.errors import ConfigError, DataError

FREED = (  # keys that older checkpoints hold, and that no longer have to agree
    "runtime.device", "trainer.devices", "data.train.sbd_root", "data.size_by", "data.evaluate_batch_size",
    "data.evaluate_transform._target_", "data.evaluate_transform.resize", "data.evaluate_transform.truth",
)  # fmt: skip

LONGER = (
    "\na longer training is another one from its start, as the schedule spreads its learning rates over all steps; "
    "weights=CHECKPOINT begins a new run with the weights of this one"
)
ADDED = ("images",)  # keys that older checkpoints lack


def find_state(folder: RunFolder, resume: str) -> dict[str, Any] | None:
    """The checkpoint that `resume` (auto, never, or a path) asks for; None to start from the beginning."""
    if resume == "never":
        start_from(folder, 0)
        return None
    if resume != "auto":
        return checkpoint.load(_existing(resume))
    state, problems = checkpoint.newest(folder.checkpoints)
    for problem in problems:
        print(f"passed over: {problem}", flush=True)
    if state is None and problems:
        raise DataError(f"no checkpoint in {folder.checkpoints} can be read; resume=never starts over")
    if state is not None:
        print(f"going on from step {state['step']} in {folder.path}", flush=True)
    return state


def start_from(folder: RunFolder, step: int) -> None:
    """Take away what another training made beyond a step: it would be taken for this one's."""
    found = checkpoint.list_checkpoints(folder.checkpoints)
    checkpoint.remove([path for path in found if checkpoint.step_of(path) > step])
    folder.result.unlink(missing_ok=True)
    if step == 0:  # after a checkpoint events are purged from its step on; here all are
        shutil.rmtree(folder.events, ignore_errors=True)


def _existing(resume: str) -> Path:
    path = Path(resume)
    if not path.is_file():
        raise ConfigError(f"resume is {resume!r}; expected auto, never, or the path of a checkpoint")
    return path


def differing_keys(saved: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """The keys in which a checkpoint's configuration is not the current one; one that is absent is None.

    Files of weights are one by their names, as they may have moved.
    """
    keys = {*saved, *current} - {*FREED} - ({*ADDED} - {*saved})
    return [key for key in sorted(keys) if _compared(key, saved) != _compared(key, current)]


def _compared(key: str, config: dict[str, Any]) -> Any:
    value = config.get(key)
    return Path(value).name if key == "weights" and value else value


def check_config(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raises ConfigError with the keys that differ."""
    differing = differing_keys(saved, current)
    if differing:
        lines = [f"  {key}: {saved.get(key)!r} in the checkpoint, {current.get(key)!r} now" for key in differing]
        raise ConfigError(
            "the configuration changed since the checkpoint was written:\n"
            + "\n".join(lines)
            + "\nuse the saved values, choose another folder with run=FOLDER, or start over with resume=never"
            + (LONGER if "trainer.iterations" in differing else "")
        )


def random_state(device: torch.device) -> dict[str, Any]:
    """States of the generators that training draws from, as plain values and tensors, which weights-only loading reads.

    Augmentation needs none: it is seeded by (seed, epoch, index).
    """
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(internal), gauss], "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(states: list[dict[str, Any]] | dict[str, Any], ranks: Ranks, device: torch.device) -> None:
    """Take up this rank's generators; where the number of ranks changed they start anew, and that is said."""
    if isinstance(states, dict):  # of one process, as older checkpoints have it
        states = [states]
    if len(states) != ranks.world:
        print(
            f"the checkpoint was written by {counted(len(states), 'process')} and goes on with {ranks.world}: the same "
            "batches, but sums are rounded and dropout is drawn differently, so the run is not the same bit for bit",
            flush=True,
        )
        return
    state = states[ranks.rank]
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
