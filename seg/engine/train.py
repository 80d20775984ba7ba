"""The training loop, written out."""

import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from seg.data.sample import Batch
from seg.engine import checkpoint
from seg.engine.optimizer import Schedule, parameters_of
from seg.engine.progress import Progress
from seg.engine.run_folder import RunFolder
from seg.engine.runtime import Runtime, Stop
from seg.errors import ConfigError, DataError, Preempted, RunError
from seg.metrics import IGNORE

Observe = Callable[[nn.Module], AbstractContextManager[dict[str, dict[str, float]]]]


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels whose label is not 255; 0, with zero gradients, where there are none.

    logits: [N, C, H, W]; label: [N, H, W] class ids. F.cross_entropy alone gives NaN for a batch without labels.
    """
    total = F.cross_entropy(logits.float(), label, ignore_index=IGNORE, reduction="sum")
    return total / (label != IGNORE).sum().clamp(min=1)


class Trainer:
    """How long to train, how often to look, and what to do when a step goes wrong.

    iterations: optimiser steps in all.
    accumulate: batches whose mean gradient makes one step.
    clip:       largest norm of the gradient, None for no clipping.
    save_every: steps between checkpoints; the last step is always saved. keep: checkpoints that stay on disk.
    patience:   steps in a row with a loss or gradient that is not finite, each skipped, before the run gives up.
    devices:    processes that share a step's batches.
    """

    def __init__(
        self,
        *,
        iterations: int,
        accumulate: int = 1,
        clip: float | None = None,
        log_every: int = 20,
        save_every: int = 500,
        keep: int = 2,
        patience: int = 20,
        devices: int = 1,
    ) -> None:
        counts = {"iterations": iterations, "accumulate": accumulate, "log_every": log_every, "keep": keep}
        counts |= {"save_every": save_every, "patience": patience, "devices": devices}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"trainer.{name} is {value}; expected at least 1")
        if clip is not None and not clip > 0:
            raise ValueError(f"trainer.clip is {clip}; expected a positive norm, or null for no clipping")
        if devices != 1:
            raise ValueError(f"trainer.devices is {devices}; training on several devices is not there yet, use 1")
        self.iterations, self.accumulate, self.clip = iterations, accumulate, clip
        self.log_every, self.save_every, self.keep, self.patience = log_every, save_every, keep, patience

    def train(
        self,
        model: nn.Module,
        loader: Any,
        optimizer: Optimizer,
        schedule: Schedule,
        *,
        folder: RunFolder,
        runtime: Runtime,
        resume: str = "auto",
        config: dict[str, Any] | None = None,
        observe: Observe | None = None,
    ) -> None:
        """Train to the last step, saving on the way; raises Preempted after saving when asked to stop.

        loader:  `len(loader)` batches an epoch, `loader.epoch(number, start)` iterates over them.
        resume:  "auto" goes on from the newest good checkpoint, "never" starts over, a path starts from that file.
        config:  what a resumed run must agree on, as plain values; a difference is an error that lists the keys.
        observe: measures the offsets while a step that will be logged runs.
        """
        run = _Run(self, model, loader, optimizer, schedule, folder, runtime, config or {}, observe)
        run.restore(resume)
        with Stop().listen() as stop, Progress(self.iterations, run.step, "training") as progress:
            run.loop(stop, progress)


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        trainer: Trainer,
        model: nn.Module,
        loader: Any,
        optimizer: Optimizer,
        schedule: Schedule,
        folder: RunFolder,
        runtime: Runtime,
        config: dict[str, Any],
        observe: Observe | None,
    ) -> None:
        self.trainer, self.model, self.loader = trainer, model, loader
        self.optimizer, self.schedule = optimizer, schedule
        self.folder, self.runtime, self.config = folder, runtime, config
        self.observe = observe or (lambda model: nullcontext({}))
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16")
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.seconds = 0.0
        self.losses: deque[Tensor] = deque(maxlen=trainer.log_every)

    # -- the loop ---------------------------------------------------------------------------------------------------

    def loop(self, stop: Stop, progress: Progress) -> None:
        self.model.train()
        batches = self.batches()
        start, before = time.monotonic(), self.seconds
        while self.step < self.trainer.iterations:
            group = [next(batches) for _ in range(self.trainer.accumulate)]
            logged = (self.step + 1) % self.trainer.log_every == 0 or self.step + 1 == self.trainer.iterations
            with self.observe(self.model) if logged else nullcontext({}) as offsets:
                factor = self.take_step(group)
            self.step += 1
            self.seconds = before + time.monotonic() - start
            if logged:
                self.log(factor, offsets, progress)
            progress.update(self.step)
            if self.step % self.trainer.save_every == 0 or self.step == self.trainer.iterations or stop:
                self.save()
            if stop and self.step < self.trainer.iterations:
                raise Preempted(f"stopped by a signal at step {self.step}; run the same command again to go on")

    def batches(self) -> Iterator[Batch]:
        """Batches from where the run stands: an exact skip into the middle of an epoch."""
        epoch, start = divmod(self.step * self.trainer.accumulate, len(self.loader))
        while True:
            yield from self.loader.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def take_step(self, group: list[Batch]) -> float:
        factor = self.schedule.apply(self.optimizer, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.runtime.device)
        for batch in group:
            with self.runtime.autocast():
                logits = self.model(self.runtime.image(batch.image))
            loss = cross_entropy(logits, batch.label.to(self.runtime.device, non_blocking=True)) / len(group)
            self.scaler.scale(loss).backward()
            total += loss.detach()
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters_of(self.optimizer), self.trainer.clip or math.inf)
        if self.runtime.precision != "fp16" and not torch.isfinite(total + norm):
            self.skip(group, float(total))  # fp16's scaler skips such steps by itself
            return factor
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.skipped_in_a_row = 0
        self.losses.append(total)
        return factor

    def skip(self, group: list[Batch], loss: float) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        names = [name for batch in group for name in batch.names]
        self.folder.log({"kind": "skipped", "step": self.step + 1, "loss": str(loss), "names": names})
        if self.skipped_in_a_row >= self.trainer.patience:
            raise RunError(
                f"{self.skipped_in_a_row} steps in a row had a loss or gradient that is not finite, the last at step "
                f"{self.step + 1} on {', '.join(names)}; lower optimizer.lr or optimizer.offset_lr, or set trainer.clip"
            )

    def log(self, factor: float, offsets: dict[str, dict[str, float]], progress: Progress) -> None:
        loss = float(torch.stack(list(self.losses)).mean()) if self.losses else None
        self.losses.clear()
        record = {
            "kind": "train",
            "step": self.step,
            "epoch": self.step * self.trainer.accumulate // len(self.loader),
            "loss": loss,
            "lr": self.optimizer.param_groups[0]["base_lr"] * factor,
            "seconds": round(self.seconds, 3),
        }
        if offsets:
            record["offset"] = offsets
        if self.skipped:
            record["skipped"] = self.skipped
        self.folder.log(record)
        progress.say("no finite loss" if loss is None else f"loss {loss:.4f}")

    # -- what survives ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "config": self.config,
            "random": _random_state(self.runtime.device),
        }
        checkpoint.save(self.folder.checkpoints, self.step, state, keep=self.trainer.keep)

    def restore(self, resume: str) -> None:
        state = self.find_state(resume)
        if state is None:
            self.folder.rewind_metrics(0)
            return
        _check_config(state.get("config", {}), self.config)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"the checkpoint in {self.folder.path} is of another model: {error}") from error
        self.scaler.load_state_dict(state["scaler"])
        _restore_random_state(state["random"], self.runtime.device)
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        self.folder.rewind_metrics(self.step)

    def find_state(self, resume: str) -> dict[str, Any] | None:
        if resume == "never":
            checkpoint.remove(checkpoint.list_checkpoints(self.folder.checkpoints))
            return None
        if resume != "auto":
            return checkpoint.load(_existing(resume))
        state, problems = checkpoint.newest(self.folder.checkpoints)
        for problem in problems:
            print(f"passed over: {problem}", flush=True)
        if state is None and problems:
            raise DataError(f"no checkpoint in {self.folder.checkpoints} can be read; resume=never starts over")
        if state is not None:
            print(f"going on from step {state['step']} in {self.folder.path}", flush=True)
        return state


def _existing(resume: str) -> Path:
    path = Path(resume)
    if not path.is_file():
        raise ConfigError(f"resume is {resume!r}; expected auto, never, or the path of a checkpoint")
    return path


def _check_config(saved: dict[str, Any], current: dict[str, Any]) -> None:
    differing = [key for key in sorted({*saved, *current}) if saved.get(key) != current.get(key)]
    if differing:
        lines = [f"  {key}: {saved.get(key)!r} in the checkpoint, {current.get(key)!r} now" for key in differing]
        raise ConfigError(
            "the configuration changed since the checkpoint was written:\n"
            + "\n".join(lines)
            + "\nuse the saved values, choose another folder with run=FOLDER, or start over with resume=never"
        )


def _random_state(device: torch.device) -> dict[str, Any]:
    """States of the generators that training draws from, as plain values and tensors, which weights-only loading reads.

    Augmentation needs none: it is seeded by (seed, epoch, index).
    """
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {"python": [version, list(internal), gauss], "torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
