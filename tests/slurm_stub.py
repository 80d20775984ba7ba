"""Slurm on one machine, as far as submitit and a job of ours can see: sbatch, srun, scontrol, sacct.

`install(folder)` puts the commands there. Jobs run one after the other in the background. The first one gets the signal
of its `#SBATCH --signal` as soon as the file STUB_WATCH exists; a job that asks `scontrol requeue`, and whose script
has `#SBATCH --requeue`, runs again. Every call is noted in STUB/calls.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol", "sacct")
STUB = Path(os.environ.get("STUB", "."))
ARRAY_JOB = 1000


def install(folder: Path) -> dict[str, str]:
    """Make the commands in `folder`; the environment in which they are found."""
    for name in COMMANDS:
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        (folder / name).chmod(0o755)
    return {"STUB": str(folder), "PATH": os.pathsep.join([str(folder), os.environ["PATH"]])}


def sbatch(script: str) -> None:
    """Queue a script: its jobs run in a process of their own."""
    with (STUB / "jobs.log").open("a") as log:
        subprocess.Popen([sys.executable, __file__, "run", script], stdout=log, stderr=log, start_new_session=True)
    print(f"Submitted batch job {ARRAY_JOB}")


def run(script: str) -> None:
    """All jobs of an array, or the one that is none."""
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", Path(script).read_text(), re.MULTILINE))
    if "array" not in options:
        run_job(script, options, {"SLURM_JOB_ID": str(ARRAY_JOB)}, first=True)
        return
    last = int(re.fullmatch(r"0-(\d+)%\d+", options["array"])[1])
    for task in range(last + 1):
        names = {"SLURM_ARRAY_JOB_ID": str(ARRAY_JOB), "SLURM_ARRAY_TASK_ID": str(task)}
        run_job(script, options, {**names, "SLURM_JOB_ID": str(ARRAY_JOB + 1 + task)}, first=task == 0)


def run_job(script: str, options: dict[str, str], names: dict[str, str], *, first: bool) -> None:
    tasks = options.get("ntasks-per-node", "1")
    environment = {**os.environ, **names, "SLURM_NTASKS": tasks, "SLURM_JOB_NUM_NODES": "1"}
    requeued = STUB / f"requeue_{names['SLURM_JOB_ID']}"
    wanted = first
    while True:
        job = subprocess.Popen(["bash", script], env=environment)
        while job.poll() is None:
            if wanted and Path(os.environ["STUB_WATCH"]).exists():
                wanted = False
                send(getattr(signal, "SIG" + options["signal"].partition("@")[0]))
            time.sleep(0.02)
        if not (requeued.exists() and "requeue" in options):
            return
        requeued.unlink()


def send(number: int) -> None:
    """A signal to every task of the step."""
    for pid in (STUB / "tasks").read_text().split():
        os.kill(int(pid), number)


def srun(*arguments: str) -> None:
    """The command in as many tasks as wanted, each with its own log."""
    options = [index for index, word in enumerate(arguments) if word in ("--output", "--error")]
    logs = [arguments[index + 1] for index in options]
    command = arguments[max(options) + 2 :]
    count = int(os.environ["SLURM_NTASKS"])
    tasks = [subprocess.Popen(command, env=named(task, count), **opened(logs, task)) for task in range(count)]
    (STUB / "tasks").write_text(" ".join(str(task.pid) for task in tasks))
    sys.exit(max(task.wait() for task in tasks))


def named(task: int, count: int) -> dict[str, str]:
    names = {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_NODEID": "0"}
    names |= {"SLURM_STEP_NUM_TASKS": str(count), "SLURM_STEP_NODELIST": "localhost"}
    return {**os.environ, **names}


def opened(logs: list[str], task: int) -> dict[str, object]:
    """Files for stdout and stderr, whose names may hold %j, %A, %a and %t."""
    given = {"%j": "SLURM_JOB_ID", "%A": "SLURM_ARRAY_JOB_ID", "%a": "SLURM_ARRAY_TASK_ID"}
    values = {"%t": str(task), **{sign: os.environ.get(name, "") for sign, name in given.items()}}
    paths = [re.sub("%[jAat]", lambda found: values[found[0]], log) for log in logs]
    return {name: open(path, "a") for name, path in zip(("stdout", "stderr"), paths, strict=True)}


def scontrol(*arguments: str) -> None:
    if arguments[0] == "requeue":
        (STUB / f"requeue_{arguments[1]}").touch()
    elif arguments[:2] == ("show", "hostnames"):
        print(arguments[2])


def sacct(*_: str) -> None:
    """Every job is under way: how it ended is in the files that it left."""
    print("JobID|State|NodeList")
    for job in (f"{ARRAY_JOB}", f"{ARRAY_JOB}_[0-9]"):
        print(f"{job}|RUNNING|localhost")


if __name__ == "__main__":
    name, *given = sys.argv[1:]
    with (STUB / "calls").open("a") as calls:
        print(name, *given, file=calls)
    globals()[name](*given)
