"""The tasks of a Slurm step as the ranks of a run."""

import os
import subprocess

from seg.errors import RunError


def resume(wanted: str) -> str:
    """How a run begins: one whose job Slurm started again goes on from what it saved, whatever it was told at first."""
    return "auto" if int(os.environ.get("SLURM_RESTART_COUNT", 0)) else wanted


def name_ranks() -> None:
    """Where SEG_RANKS=slurm and srun started several tasks, set what torchrun would: RANK, WORLD_SIZE, MASTER_ADDR, ...

    raises: RunError where Slurm can't name the first host
    """
    given = os.environ
    if given.get("SEG_RANKS") != "slurm" or int(given.get("SLURM_STEP_NUM_TASKS", 1)) == 1 or "RANK" in given:
        return
    given |= {
        "RANK": given["SLURM_PROCID"],
        "LOCAL_RANK": given["SLURM_LOCALID"],
        "WORLD_SIZE": given["SLURM_STEP_NUM_TASKS"],
        "MASTER_ADDR": _first_host(given["SLURM_STEP_NODELIST"]),
        "MASTER_PORT": str(20_000 + int(given["SLURM_JOB_ID"]) % 20_000),  # jobs that share a host differ
    }


def _first_host(names: str) -> str:
    if "[" not in names and "," not in names:
        return names  # one, which needs no command: a container may lack it
    command = ["scontrol", "show", "hostnames", names]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError) as error:
        raise RunError(f"{' '.join(command)} names no host ({error}); set MASTER_ADDR, RANK and the like") from error
