"""A sweep on Slurm, whose commands are stubs that run the jobs here (slurm_stub.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seg.engine import slurm
from seg.engine.slurm import name_ranks
from seg.errors import RunError
from tests import slurm_stub

ROOT = Path(__file__).resolve().parents[1]
TINY = [
    "++data.train.images=8",
    "data.batch_size=2",
    "data.workers=0",
    "data.train_transform.crop=[32,32]",
    "head.hidden=8",
    "runtime.threads=1",
    "trainer.iterations=25",
    "trainer.log_every=1",
    "evaluate=false",
]


@pytest.mark.fault(56)
def test_fault_56_a_job_that_slurm_signals_is_queued_again_and_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="needs the extra slurm")
    sweep, stubs = tmp_path / "sweep", tmp_path / "stubs"
    stubs.mkdir()
    environment = slurm_stub.install(stubs) | {"STUB_WATCH": str(sweep / "run_0" / "metrics.jsonl")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *TINY, "seed=0,1", "hydra/launcher=slurm",
         f"hydra.sweep.dir={sweep}", "hydra.sweep.subdir=run_${seed}"],
        env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    calls = (stubs / "calls").read_text().splitlines()
    assert [call for call in calls if call.startswith("scontrol")] == ["scontrol requeue 1001"]
    assert sum(call.startswith("srun") for call in calls) == 3
    for seed in (0, 1):
        folder = sweep / f"run_{seed}"
        assert json.loads((folder / "status.json").read_text())["state"] == "done"
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == list(range(1, 26))
    output = "".join(path.read_text() for path in sorted(sweep.glob(".submitit/*_0/*_log.out")))
    assert output.count("going on from step") == 1
    assert "going on from step 0" not in output


def test_the_tasks_of_a_step_are_ranks_where_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in slurm_stub.install(tmp_path).items():
        monkeypatch.setenv(name, value)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    step = {"PROCID": "9", "LOCALID": "1", "STEP_NUM_TASKS": "32", "STEP_NODELIST": "host0", "JOB_ID": "41234"}
    for name, value in step.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    name_ranks()
    assert "RANK" not in os.environ
    monkeypatch.setenv("SEG_RANKS", "slurm")
    name_ranks()
    assert [os.environ[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] == ["9", "1", "32"]
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("host0", "21234")
    assert slurm.resume("never") == "never"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert slurm.resume("never") == slurm.resume("start.pt") == "auto"
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("SLURM_STEP_NODELIST", "host[0-3]")
    with pytest.raises(RunError, match=r"scontrol show hostnames host\[0-3\] names no host"):
        name_ranks()
    monkeypatch.setenv("SLURM_STEP_NODELIST", "host7")
    name_ranks()  # one host is named already: in a container there may be no scontrol
    assert os.environ["MASTER_ADDR"] == "host7"
