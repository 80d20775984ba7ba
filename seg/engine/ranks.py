"""The processes that share a run's batches: started here or by torchrun, joined by torch.distributed."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from seg.engine.runtime import Runtime
from seg.errors import ConfigError, RunError


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; the first one owns the run folder and the display."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every rank's `value`, on all ranks; in place."""
        if self.world > 1:
            distributed.all_reduce(value)
        return value

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank the first one's values; in place."""
        for tensor in tensors if self.world > 1 else ():
            distributed.broadcast(tensor, 0)

    def any(self, flag: bool) -> bool:
        """Whether one of the ranks says yes."""
        return bool(self.sum(torch.tensor(int(flag)))) if self.world > 1 else flag

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in order, on the first rank; [] on the others."""
        if self.world == 1:
            return [value]
        values = [None] * self.world if self.first else None
        distributed.gather_object(value, values)
        return values or []

    def broadcast(self, value: Any) -> Any:
        """The first rank's value, on all ranks."""
        if self.world == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values)
        return values[0]

    def share(self, batch_size: int) -> int:
        """This rank's part of a batch. Raises ConfigError where it can't be divided."""
        if batch_size % self.world:
            raise ConfigError(
                f"data.batch_size is {batch_size}, shared by {self.world} processes; choose a multiple of {self.world}"
            )
        return batch_size // self.world

    def parallel(self, model: nn.Module, runtime: Runtime) -> nn.Module:
        """The model with its gradients averaged over the ranks; on GPUs its batch norms see the batches of all."""
        if self.world == 1:
            return model
        trained = [module for module in model.modules() if type(module) is nn.BatchNorm2d]
        if runtime.device.type == "cuda":
            _synchronize_norms(model)
            return DistributedDataParallel(model, device_ids=[runtime.device])
        if trained:
            print(
                f"{len(trained)} batch norms see {self.world} separate parts of each batch: torch synchronizes them on "
                "GPUs only; trunk.norm=frozen leaves out those of the trunk",
                flush=True,
            )
        return DistributedDataParallel(model)


def unsynchronized(model: nn.Module) -> AbstractContextManager[None]:
    """A block whose backward passes leave the averaging over ranks to a later one."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


@contextmanager
def joined(runtime: Runtime) -> Iterator[Ranks]:
    """The ranks that the environment names, as torchrun sets it; a process alone where it names none.

    Each takes a GPU of its own, where the run is on GPUs; all but the first print nothing.
    raises: RunError where another rank is gone, or silent for longer than runtime.timeout
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Ranks()
        return
    if missing := {"RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"} - set(os.environ):
        names = ", ".join(sorted(missing))
        raise ConfigError(f"WORLD_SIZE is {world}, but not set: {names}; use torchrun, or unset WORLD_SIZE")
    ranks = Ranks(int(os.environ["RANK"]), world)
    if runtime.device.type == "cuda":
        runtime.take_gpu(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if runtime.device.type == "cuda" else "gloo"
    try:
        distributed.init_process_group(backend, timeout=timedelta(seconds=runtime.timeout))
        with nullcontext() if ranks.first else redirect_stdout(None):
            yield ranks
    except RuntimeError as error:
        if isinstance(error, RunError) or not _is_of_the_network(error):
            raise
        if "Duplicate GPU" in str(error):
            raise ConfigError(
                f"rank {ranks.rank} of {world} shares its GPU with another; ask for as many GPUs as ranks, and show "
                "each task its own or all of them"
            ) from error
        raise RunError(
            f"rank {ranks.rank} of {world} lost the others ({str(error).splitlines()[0][:200]}); "
            "run the same command again to go on from the last checkpoint"
        ) from error
    finally:
        if distributed.is_initialized() and sys.exc_info()[0] is None:
            distributed.destroy_process_group()


def _is_of_the_network(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _synchronize_norms(model: nn.Module) -> None:
    """SyncBatchNorm in place of each trained batch norm; frozen ones are subclasses, and stay as they are."""
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is nn.BatchNorm2d:
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(module))
