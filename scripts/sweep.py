"""How a sweep ends: which of its jobs failed and of what, and what shows them all."""

import contextlib
import io
import os
import shlex
import traceback
from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class Ending(Callback):
    """Says after a sweep without failures what shows it; named in conf/train.yaml."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        print(f"next:\n  {_report(str(config.hydra.sweep.dir))}", flush=True)


def failures(error: Exception) -> str | None:
    """The failed jobs of a sweep that ended with this error, and what to do about them; None where it tells of none."""
    jobs = _jobs(error)
    failed = [job for job in jobs if job.status != JobStatus.COMPLETED]
    if not failed:
        return None
    common = set.intersection(*(set(job.overrides or ()) for job in jobs)) if len(jobs) > 1 else set()
    lines = [f"{len(failed)} of {len(jobs)} jobs failed; the same command tries them again and leaves the others be:"]
    for job in failed:
        name = " ".join(text for text in job.overrides or () if text not in common)
        lines.append(f"  {name}: {_first_line(job)}")
    return "\n".join([*lines, f"next:\n  {_report(_folder(failed[0]))}"])


def _jobs(error: Exception) -> Sequence[JobReturn]:
    """What the launcher gave Hydra's sweeper, which keeps it to itself and raises the first failure."""
    found = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__) if frame.f_code.co_name == "sweep"]
    return found[0].get("results") or () if found else ()


def _first_line(job: JobReturn) -> str:
    with contextlib.redirect_stderr(io.StringIO()):  # Hydra repeats the overrides there
        try:
            job.return_value  # noqa: B018  # raises what the job raised
        except Exception as error:
            return (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise AssertionError("the job did not fail")


def _folder(job: JobReturn) -> str:
    """The sweep's, in which the job's lies; its own configuration has Hydra's keys alone, and can't be asked."""
    return os.path.dirname(job.hydra_cfg.hydra.runtime.output_dir) if job.hydra_cfg is not None else "FOLDER"


def _report(folder: str) -> str:
    near = os.path.relpath(folder)
    runs = os.path.abspath(folder) if near.startswith(os.pardir) else near
    return f"python scripts/report.py {shlex.quote(f'runs={runs}')}"
