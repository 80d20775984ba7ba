"""The training loop, written out."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from seg.alarms import LARGEST, MEAN, bad_samples, exploded
from seg.data.sample import Batch
from seg.engine import checkpoint
from seg.engine.optimizer import Schedule, parameters_of
from seg.engine.progress import Progress
from seg.engine.ranks import Ranks, unsynchronized
from seg.engine.resume import check_config, find_state, random_state, restore_random_state, start_from
from seg.engine.run_folder import RunFolder
from seg.engine.runtime import Runtime, Stop, listening
from seg.errors import ConfigError, DataError, Preempted, RunError
from seg.metrics import IGNORE

Observe = Callable[[nn.Module], AbstractContextManager[dict[str, dict[str, float]]]]
Validate = Callable[[nn.Module], dict[str, Any]]


def cross_entropy(logits: Tensor, label: Tensor, count: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels whose label is not 255; 0, with zero gradients, where there are none.

    logits: [N, C, H, W]; label: [N, H, W] class ids. F.cross_entropy alone gives NaN for a batch without labels.
    count:  labelled pixels to divide by, where these are only part of a step's; by default the label's own.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # the loss's own sum is not deterministic on a GPU, and is refused there
    reduction = "none" if torch.are_deterministic_algorithms_enabled() else "sum"
    total = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction=reduction).sum()
    return total / (labelled(label) if count is None else count).clamp(min=1)


def labelled(label: Tensor) -> Tensor:
    """int64 []: the pixels whose label is not 255."""
    return (label != IGNORE).sum()


class Trainer:
    """How long to train, how often to look, and what to do when a step goes wrong.

    iterations: optimiser steps in all; 0 saves the net as it is, to evaluate weights that are given.
    accumulate: batches that make one step, as one large batch would: the mean over all their labelled pixels.
    clip:       largest norm of the gradient, None for no clipping.
    save_every: steps between checkpoints; the last step is always saved. keep: checkpoints that stay on disk.
    patience:   steps in a row with a loss or gradient that is not finite, each skipped, before the run gives up.
                In fp16 those count by which the scale of the loss is found: some at the start, each halves it.
    devices:    processes on this host that share each batch; they are started by the command (see `launch`).
    average:    decay of the exponential average of the weights that is evaluated in their place, None for none; after
                n steps it is at most (1 + n) / (10 + n), so that the first nets are soon forgotten.
    evaluate_every: steps between evaluations on the way, each after a checkpoint; None for none. The last step is left
                to the evaluation of the trained net.
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
        average: float | None = None,
        evaluate_every: int | None = None,
    ) -> None:
        counts = {"iterations": iterations, "accumulate": accumulate, "log_every": log_every, "keep": keep}
        counts |= {"save_every": save_every, "patience": patience, "devices": devices}
        counts |= {} if evaluate_every is None else {"evaluate_every": evaluate_every}
        for name, value in counts.items():
            if value < (least := 0 if name == "iterations" else 1):
                raise ValueError(f"trainer.{name} is {value}; expected at least {least}")
        if clip is not None and not clip > 0:
            raise ValueError(f"trainer.clip is {clip}; expected a positive norm, or null for no clipping")
        if average is not None and not 0 < average < 1:
            raise ValueError(f"trainer.average is {average}; expected a decay between 0 and 1, or null for no average")
        self.iterations, self.accumulate, self.clip = iterations, accumulate, clip
        self.log_every, self.save_every, self.keep, self.patience = log_every, save_every, keep, patience
        self.devices, self.average, self.evaluate_every = devices, average, evaluate_every

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
        validate: Validate | None = None,
        ranks: Ranks | None = None,
    ) -> nn.Module:
        """Train to the last step, saving on the way; raises Preempted after saving when asked to stop.

        Gives the net to evaluate: `model`, or the one that holds the average of its weights.

        loader:  `len(loader)` batches an epoch, `loader.epoch(number, start)` iterates over them; what it may have
                 passed over is in `loader.skipped`, and is told and recorded once.
        resume:  "auto" goes on from the newest good checkpoint, "never" starts over, a path starts from that file.
        config:  what a resumed run must agree on, as plain values; a difference is an error that lists the keys.
        observe: measures the offsets while a step that will be logged runs.
        validate: gives the scores of a net, such as {"miou": 0.5}, for `evaluate_every`.
        ranks:   the processes that share each batch; `loader` then gives this rank's part.
        """
        if self.evaluate_every is not None and validate is None:
            raise ConfigError(
                f"trainer.evaluate_every is {self.evaluate_every}, but nothing evaluates this net on its way"
            )
        ranks = ranks or Ranks()
        given = (folder, runtime, resume, config or {}, observe, validate, ranks)
        run = _Run(self, model, loader, optimizer, schedule, *given)
        run.restore()
        with listening() as stop, Progress(self.iterations, run.step, "training", shown=ranks.first) as progress:
            run.loop(stop, progress)
        optimizer.zero_grad(set_to_none=True)  # they take the memory of a net
        return run.agreed()


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
        resume: str,
        config: dict[str, Any],
        observe: Observe | None,
        validate: Validate | None,
        ranks: Ranks,
    ) -> None:
        self.ranks = ranks
        self.trainer, self.model, self.loader = trainer, model, loader
        self.optimizer, self.schedule = optimizer, schedule
        self.folder, self.runtime, self.config = folder, runtime, config
        self.observe = observe or (lambda model: nullcontext({}))
        self.validate = validate or (lambda model: {})
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == "fp16")
        self.resume = resume
        self.step = self.skipped = self.skipped_in_a_row = 0
        self.seconds = 0.0  # of training in all
        self.waited = 0.0  # of them for batches, since the last record
        self.alarmed: set[str] = set()  # layers whose offsets exploded
        self.told: set[str] = set()  # what was wrong with samples that were passed over
        self.losses: deque[Tensor] = deque(maxlen=trainer.log_every)
        self.average = None if trainer.average is None else _average(model, trainer.average)
        self.parallel = ranks.parallel(model, runtime)
        self.buffers = list(model.buffers())
        self.before = [buffer.clone() for buffer in self.buffers]  # of the step
        if not ranks.first:  # dropout draws differently on each rank
            torch.manual_seed(hash((torch.initial_seed(), ranks.rank)))

    def agreed(self) -> nn.Module:
        """The net whose scores count, the same on all ranks: the average of the weights, where there is one."""
        model = self.model if self.average is None else self.average.module
        self.ranks.agree(model.buffers())  # batch norms of ranks that see parts of each batch
        return model

    # -- the loop ---------------------------------------------------------------------------------------------------

    def loop(self, stop: Stop, progress: Progress) -> None:
        self.told = {*bad_samples(self.folder.read_metrics())}
        self.parallel.train()
        batches = self.batches()
        start, before = time.monotonic(), self.seconds
        if self.trainer.iterations == 0:
            self.save()
        if self.looks() and self.ranks.broadcast(not self.looked()):
            start += self.look(progress)  # a signal came before it, or amid it
        while self.step < self.trainer.iterations:
            asked = time.monotonic()
            group = self.group(batches, progress)
            self.waited += time.monotonic() - asked
            logged = (self.step + 1) % self.trainer.log_every == 0 or self.step + 1 == self.trainer.iterations
            with self.observe(self.model) if logged else nullcontext({}) as offsets:
                factor = self.take_step(group)
            self.step += 1
            self.seconds = before + time.monotonic() - start
            if logged:
                self.log(factor, offsets, progress)
            progress.update(self.step)
            stopping = self.ranks.any(bool(stop))
            last, look = self.step == self.trainer.iterations, self.looks()
            saving = self.step % self.trainer.save_every == 0 or last or stopping or look
            if logged or saving:
                self.tell_of_bad_samples(progress)
            if saving:
                self.save()
            if stopping:
                self.ranks.any(False)  # until the first rank has saved, else its starter may end it for our end
                raise self.preempted()
            if look:
                start += self.look(progress)
        if self.ranks.any(bool(stop)):  # while the last step was saved
            raise self.preempted()

    def preempted(self) -> Preempted:
        again = "run the same command again" + ("" if self.resume == "auto" else " with resume=auto")
        return Preempted(f"stopped by a signal at step {self.step}; {again} to go on")

    def batches(self) -> Iterator[Batch]:
        """Batches from where the run stands: an exact skip into the middle of an epoch."""
        epoch, start = divmod(self.step * self.trainer.accumulate, len(self.loader))
        while True:
            yield from self.loader.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def group(self, batches: Iterator[Batch], progress: Progress) -> list[Batch]:
        """The batches of one step. Where they can't be had, what was trained so far is saved first."""
        try:
            return [next(batches) for _ in range(self.trainer.accumulate)]
        except (DataError, RunError):
            if self.step and self.ranks.world == 1:  # else the other ranks would be waited for
                self.save()
                progress.note(f"saved at step {self.step}; the same command goes on from there")
            raise

    def take_step(self, group: list[Batch]) -> float:
        factor = self.schedule.apply(self.optimizer, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        _copy(self.before, self.buffers)
        total = self.ranks.sum(self.backward(group))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(parameters_of(self.optimizer), self.trainer.clip or math.inf)
        finite = bool(torch.isfinite(total + norm))
        if finite:
            self.scaler.step(self.optimizer)
        self.scaler.update()  # in fp16 a step that overflowed halves the scale
        if not finite:
            self.skip(group, float(total))
            return factor
        self.skipped_in_a_row = 0
        self.losses.append(total)
        if self.average is not None:
            self.average.update_parameters(self.model)
        return factor

    def backward(self, group: list[Batch]) -> Tensor:
        """This rank's part of the loss, a mean over the labelled pixels of the step; leaves the mean's gradients."""
        labels = [batch.label.to(self.runtime.device, non_blocking=True) for batch in group]
        count = self.ranks.sum(torch.stack([labelled(label) for label in labels]).sum())
        losses = []
        for index, (batch, label) in enumerate(zip(group, labels, strict=True)):
            last = index == len(group) - 1
            with nullcontext() if last else unsynchronized(self.parallel):
                with self.runtime.autocast():
                    logits = self.forward(batch)
                loss = cross_entropy(logits, label, count)
                # gradients are averaged over the ranks, the loss is a sum of their parts
                self.scaler.scale(loss * self.ranks.world).backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def forward(self, batch: Batch) -> Tensor:
        """The net's logits; raises ConfigError where batch norm gets one value a channel, which has no variance."""
        try:
            return self.parallel(self.runtime.image(batch.image))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            count, _, height, width = batch.image.shape
            raise ConfigError(
                f"a batch of {count} ({height}x{width} px) leaves a batch norm one value a channel, and it needs more; "
                "raise data.batch_size or data.train_transform.crop (trainer.accumulate changes nothing here)"
            ) from None

    def skip(self, group: list[Batch], loss: float) -> None:
        """Count a step that leaves no trace: neither in the weights nor in the statistics of batch norm."""
        _copy(self.buffers, self.before)
        self.skipped += 1
        self.skipped_in_a_row += 1
        names = [name for batch in group for name in batch.names]
        self.folder.log({"kind": "skipped", "step": self.step + 1, "loss": str(loss), "names": names})
        if self.skipped_in_a_row >= self.trainer.patience:
            learns_offsets = any("offset" in name.split(".") for name, _ in self.model.named_parameters())
            of_offsets = " or optimizer.offset_lr" if learns_offsets else ""
            raise RunError(
                f"{self.skipped_in_a_row} steps in a row had a loss or gradient that is not finite, the last at step "
                f"{self.step + 1} on {', '.join(names)}; lower optimizer.lr{of_offsets}, or set trainer.clip"
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
            "waited": round(self.waited, 3),
            "precision": self.runtime.precision,
        }
        self.waited = 0.0
        if offsets:
            record["offset"] = offsets
        if self.skipped:
            record["skipped"] = self.skipped
        self.folder.log(record)
        for layer, alarm in exploded([record]).items():
            if layer not in self.alarmed:
                self.alarmed.add(layer)
                limits = f"limits: mean {MEAN:g}, largest {LARGEST:g}"
                progress.note(f"{alarm} ({limits}); lower optimizer.lr or optimizer.offset_lr")
        progress.say("no finite loss" if loss is None else f"loss {loss:.4f}")

    def tell_of_bad_samples(self, progress: Progress) -> None:
        """Say and record, once, what was wrong with each sample that the ranks' loaders passed over."""
        found = [problem for part in self.ranks.gather([*getattr(self.loader, "skipped", ())]) for problem in part]
        for problem in found:
            if problem not in self.told:
                self.told.add(problem)
                self.folder.log({"kind": "bad_sample", "step": self.step, "problem": problem})
                progress.note(f"passed over: {problem}")

    def looks(self) -> bool:
        """Whether the net is to be evaluated at this step, on the way."""
        every = self.trainer.evaluate_every
        return every is not None and self.step % every == 0 and 0 < self.step < self.trainer.iterations

    def looked(self) -> bool:
        """Whether this step's evaluation is recorded."""
        return any(row["kind"] == "evaluate" and row["step"] == self.step for row in self.folder.read_metrics())

    def look(self, progress: Progress) -> float:
        """Evaluate the net as it is, without a trace in the training; the seconds that took."""
        began = time.monotonic()
        devices = [self.runtime.device] if self.runtime.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # loaders draw a seed
            scores = self.validate(self.agreed())
        self.parallel.train()
        self.folder.log({"kind": "evaluate", "step": self.step, **scores})
        progress.note(f"step {self.step}: " + ", ".join(f"{name} {_short(value)}" for name, value in scores.items()))
        return time.monotonic() - began

    # -- what survives ----------------------------------------------------------------------------------------------

    def save(self) -> None:
        random_states = self.ranks.gather(random_state(self.runtime.device))
        if not self.ranks.first:
            return
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "seconds": self.seconds,
            "config": self.config,
            "precision": self.runtime.precision,
            "losses": [loss.cpu() for loss in self.losses],
            "random": random_states,
        }
        if self.average is not None:
            state["average"] = self.average.module.state_dict()
            state["averaged"] = self.average.n_averaged
        checkpoint.save(self.folder.checkpoints, self.step, state, keep=self.trainer.keep)

    def restore(self) -> None:
        state = self.ranks.broadcast(find_state(self.folder, self.resume) if self.ranks.first else None)
        if state is None:
            self.folder.rewind_metrics(0)
            return
        check_config(state.get("config", {}), self.config)
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.module.load_state_dict(state["average"])
                self.average.n_averaged.copy_(state["averaged"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConfigError(f"the checkpoint in {self.folder.path} is of another model: {error}") from error
        if state["scaler"]:  # else saved in a precision that needs none
            self.scaler.load_state_dict(state["scaler"])
        restore_random_state(state["random"], self.ranks, self.runtime.device)
        if (before := state.get("precision", self.runtime.precision)) != self.runtime.precision:
            print(f"trained in {before} so far; goes on in {self.runtime.precision} here", flush=True)
        self.step, self.skipped, self.seconds = state["step"], state["skipped"], state["seconds"]
        self.losses.extend(loss.to(self.runtime.device) for loss in state.get("losses", []))  # older files have none
        if self.step < self.trainer.iterations and self.ranks.first:
            self.folder.result.unlink(missing_ok=True)  # of weights that will not be the last
        if self.resume != "auto" and self.ranks.first:
            start_from(self.folder, self.step)
        self.folder.rewind_metrics(self.step)


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _copy(to: list[Tensor], source: list[Tensor]) -> None:
    for dtype in {tensor.dtype for tensor in to}:  # tensors of one type are copied at once
        torch._foreach_copy_([t for t in to if t.dtype == dtype], [s for s in source if s.dtype == dtype])


def _average(model: nn.Module, decay: float) -> AveragedModel:
    """The running average of a model's parameters; its buffers (batch norm's statistics) are the model's own.

    With the decay alone, a thousand steps at 0.999 would leave the first step's net a weight of 0.37.
    """

    def blend(averaged: Any, current: Any, _: Any) -> None:
        count = int(net.n_averaged)  # it lies with the CPU; what is given may be a copy that a GPU has to hand over
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + count) / (10 + count)))

    net = AveragedModel(model, multi_avg_fn=blend)
    return net
