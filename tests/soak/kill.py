"""Kill a training run at random moments, over and over: what was reported as saved is there, and the end is the same.

python tests/soak/kill.py [KILLS [SEED]]    one line of figures; exit code 1 and the folder's name where it is not so

A round trains a small net with the engine's own loop, saving at every step, in a child that is killed with SIGKILL
after a random time and started again until it is done. Its weights are then compared, bit by bit, with those of an
uninterrupted run. Rounds are repeated until there were enough kills.
"""

import contextlib
import os
import random
import select
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from seg.data.sample import Batch
from seg.engine import RunFolder, Runtime, Schedule, Trainer, checkpoint, sgd

STEPS = 150
LONGEST_LIFE = 0.5  # seconds; the shortest is 0, so that kills fall on start, restore, steps and saves alike


class Batches:
    """Seven batches an epoch, the same for the same (epoch, batch)."""

    def __len__(self) -> int:
        return 7

    def epoch(self, number: int, start: int = 0):
        for index in range(start, len(self)):
            image = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(100 * number + index))
            yield Batch(image, (image[:, 0] > 0.5).long(), torch.zeros(2, 8, 8), ("a", "b"))


def train(folder: Path, report: int) -> None:
    """Train to the last step from where the folder stands; the number of every saved step goes to `report`."""
    save = checkpoint.save

    def save_and_report(where: Path, step: int, *arguments: object, **keywords: object) -> Path:
        path = save(where, step, *arguments, **keywords)
        os.write(report, f"{step}\n".encode())
        return path

    checkpoint.save = save_and_report
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.2), nn.Conv2d(4, 2, 1))
    trainer = Trainer(iterations=STEPS, log_every=3, save_every=1, keep=2)
    with RunFolder(folder).running() as run:
        trainer.train(
            model,
            Batches(),
            sgd(model, lr=0.1),
            Schedule(STEPS),
            folder=run,
            runtime=Runtime(device="cpu", precision="fp32"),
            config={},
        )


def live(folder: Path, seconds: float | None) -> tuple[bool, int]:
    """Train in a child for so long; whether it was killed, and the last step that it reported as saved (0: none)."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        code = 1
        with contextlib.suppress(BaseException):
            train(folder, write)
            code = 0
        os._exit(code)
    os.close(write)
    told = listen(read, seconds)
    os.kill(child, signal.SIGKILL)  # a child that has ended stays until it is waited for: the id is still its own
    told += drain(read)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"training failed by itself in {folder}: exit code {code}")
    steps = told.decode().split("\n")[:-1]  # a number without its line end was cut short
    return code != 0, int(steps[-1]) if steps else 0


def listen(pipe: int, seconds: float | None) -> bytes:
    """What comes out of a pipe until it is closed, or the time is over."""
    told, end = b"", None if seconds is None else time.monotonic() + seconds
    while True:
        left = None if end is None else max(0.0, end - time.monotonic())
        if not select.select([pipe], [], [], left)[0]:
            return told
        if not (more := os.read(pipe, 4096)):
            return told
        told += more


def drain(pipe: int) -> bytes:
    """What is still in a pipe whose writer is gone."""
    told = b""
    while more := os.read(pipe, 4096):
        told += more
    os.close(pipe)
    return told


def final_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights after the last step."""
    state, problems = checkpoint.newest(folder / "checkpoints")
    if state is None or state["step"] != STEPS or problems:
        raise SystemExit(f"{folder} did not end as it should: {problems}")
    return state["model"]


def round_of_kills(folder: Path, expected: dict[str, torch.Tensor], rng: random.Random, kills: int) -> tuple[int, int]:
    """Train to the end under at most so many kills; their number, and after how many a half-written file lay there."""
    done = torn = saved = 0
    killed = True
    while killed:
        killed, told = live(folder, rng.uniform(0, LONGEST_LIFE) if done < kills else None)
        saved = max(saved, told)
        done += killed
        torn += len(list((folder / "checkpoints").glob(".*.tmp"))) > 0
        state, problems = checkpoint.newest(folder / "checkpoints")
        if saved and (state is None or state["step"] < saved):
            raise SystemExit(f"step {saved} was reported as saved but is lost in {folder}: {problems}")
    for name, value in final_weights(folder).items():
        if not torch.equal(value, expected[name]):
            raise SystemExit(f"{name} differs from the uninterrupted run's in {folder}")
    return done, torn


def soak(kills: int, seed: int) -> str:
    """Rounds until there were so many kills; a line of figures."""
    torch.set_num_threads(1)
    rng, done, torn, rounds = random.Random(seed), 0, 0, 0
    top = Path(tempfile.mkdtemp(prefix="soak"))
    live(top / "whole", None)
    expected = final_weights(top / "whole")
    while done < kills:
        more, halves = round_of_kills(top / f"round_{rounds}", expected, rng, kills - done)
        done, torn, rounds = done + more, torn + halves, rounds + 1
    return (
        f"{done} kills in {rounds} runs of {STEPS} steps, {torn} of them left a half-written file: nothing "
        "saved was lost, all final weights equal the uninterrupted run's"
    )


if __name__ == "__main__":
    print(soak(*(int(value) for value in [*sys.argv[1:], *("200", "0")[len(sys.argv) - 1 :]])))
