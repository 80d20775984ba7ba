"""What shows a run elsewhere while it goes on: TensorBoard, Weights & Biases, MLflow, each an extra to install.

A tracker gets every record of metrics.jsonl. Keys and servers come from the environment, as these programs read it
themselves (WANDB_API_KEY, MLFLOW_TRACKING_URI, ...): there is no argument for them that a configuration could save.
"""

import hashlib
import importlib
import math
import os
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Any

from seg.engine.rows import flat
from seg.errors import ConfigError


class Tracker(ABC):
    """Shows the records of one run; a `with` block around the run tells how it ended."""

    broken = False

    def __call__(self, record: dict[str, Any]) -> None:
        """Show a record; what fails at it, such as a lost server, is told of once, and the run goes on without."""
        if self.broken:
            return
        try:
            self.log(record)
        except Exception as error:
            self.broken = True
            print(f"{type(self).__name__} shows no more of this run: {error}", file=sys.stderr, flush=True)

    @abstractmethod
    def log(self, record: dict[str, Any]) -> None:
        """Show the numbers of a record."""

    @abstractmethod
    def close(self, *, failed: bool) -> None:
        """Send what is left."""

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close(failed=kind is not None)
        except Exception:
            if not self.broken:
                raise


class TensorBoard(Tracker):
    """Event files in the run's folder: tensorboard --logdir runs."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        _require("tensorboard")
        self.folder = folder / "tensorboard"
        self.writer: Any = None

    def log(self, record: dict[str, Any]) -> None:
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # a resumed run writes the steps after its checkpoint again: earlier events of these are not shown
            again = record["step"] if record["kind"] == "train" else None
            self.writer = SummaryWriter(str(self.folder), purge_step=again)
        for name, value in numbers(record).items():
            self.writer.add_scalar(name, value, record["step"])

    def close(self, *, failed: bool) -> None:
        if self.writer is not None:
            self.writer.close()


class WandB(Tracker):
    """A run at Weights & Biases, or below the run's folder with WANDB_MODE=offline; a resumed run goes on there."""

    def __init__(self, folder: Path, config: dict[str, Any], *, project: str, entity: str | None = None) -> None:
        wandb = _require("wandb")
        # what is printed, and the state of the checkout, stay here
        settings = wandb.Settings(console="off", disable_git=True, save_code=False)
        try:
            self.run = wandb.init(
                project=project, entity=entity, id=identity(folder), name=folder.name, resume="allow",
                dir=str(folder), config=config, settings=settings,
            )  # fmt: skip
        except wandb.Error as error:
            raise ConfigError(f"logger=wandb: {error}; set WANDB_API_KEY, or WANDB_MODE=offline") from error
        # an axis of our own: by its own count a resumed run's repeated steps would be dropped
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, record: dict[str, Any]) -> None:
        self.run.log({"step": record["step"], **numbers(record)})

    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))


class MLflow(Tracker):
    """A run at MLFLOW_TRACKING_URI, by default in the folder mlruns; a resumed run goes on there."""

    def __init__(self, folder: Path, config: dict[str, Any], *, experiment: str) -> None:
        mlflow = _require("mlflow", package="mlflow-skinny")
        self.Metric = mlflow.entities.Metric
        try:
            self.client = mlflow.MlflowClient(_store())
            found = self.client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else self.client.create_experiment(experiment)
            self.run = self._run(number, folder, config)
        except mlflow.MlflowException as error:
            raise ConfigError(f"logger=mlflow: {error}; is MLFLOW_TRACKING_URI right?") from error

    def _run(self, experiment: str, folder: Path, config: dict[str, Any]) -> str:
        earlier = self.client.search_runs([experiment], f"tags.run = '{identity(folder)}'", max_results=1)
        if earlier:
            self.client.update_run(earlier[0].info.run_id, status="RUNNING")
            return earlier[0].info.run_id
        tags = {"run": identity(folder), "mlflow.runName": folder.name}
        run = self.client.create_run(experiment, tags=tags).info.run_id
        for key, value in config.items():
            self.client.log_param(run, key, str(value)[:500])
        return run

    def log(self, record: dict[str, Any]) -> None:
        now = int(time.time() * 1000)
        metrics = [self.Metric(name, value, now, record["step"]) for name, value in numbers(record).items()]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self, *, failed: bool) -> None:
        self.client.set_terminated(self.run, "FAILED" if failed else "FINISHED")


def numbers(record: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a record, but the step, by kind and path, such as train/loss."""
    values = {name: value for name, value in flat(record).items() if name != "step"}
    return {
        f"{record['kind']}/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and math.isfinite(value)
    }


def identity(folder: Path) -> str:
    """The name of a run's folder elsewhere: the same for the same path."""
    return hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]


def _store() -> str:
    """Where MLflow writes: what its variable names, else a folder here, which new versions want to be told of."""
    if "MLFLOW_TRACKING_URI" not in os.environ:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    return os.environ.get("MLFLOW_TRACKING_URI") or Path("mlruns").resolve().as_uri()


def _require(module: str, *, package: str | None = None) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"logger={module} needs {package or module}, which is not here; install it: scripts/setup.sh {module}"
        ) from error
