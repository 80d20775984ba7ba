"""What benchmark.py run and scaling keep: every part of a loop beside the bare net; and the number types of all."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from seg.data import evaluate_loader, evaluation_transform
from seg.engine import RunFolder, Runtime, sgd
from seg.models import tiny

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import contenders  # noqa: E402
import whole_runs  # noqa: E402

EVALUATION = ["forward", "evaluation", "with effective dilation", "and from files"]
TRAINING = ["step", "training", "with offsets each step", "and from files", "saving once"]


@pytest.fixture
def config() -> DictConfig:
    return OmegaConf.create(
        {"what": "run", "device": "cpu", "size": [64, 80], "rounds": 1, "seconds": 1, "sides": None}
    )


def test_a_whole_run_is_measured_part_by_part(config: DictConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole_runs, "TRUNKS", {"tiny": tiny})
    monkeypatch.setattr(whole_runs, "precisions", lambda device: ["bf16"])
    rows = list(whole_runs.rows(config))
    cases = [(row["measure"].partition(",")[0], row["case"]) for row in rows]
    assert cases == [("evaluation", "tiny, bf16"), ("training", "tiny, bf16")]
    for row, names in zip(rows, [EVALUATION, TRAINING], strict=True):
        assert list(row["milliseconds"]) == names
        assert all(time > 0 for time in row["milliseconds"].values())
        bare = row["milliseconds"][names[0]]
        for name in names[1:]:
            assert row["ratios"][f"{name} / {names[0]}"] == pytest.approx(row["milliseconds"][name] / bare)


@pytest.mark.parametrize(("capable", "measured"), [(True, ["fp32", "bf16"]), (False, ["fp32"])])
def test_all_is_measured_in_the_number_types_that_this_processor_would_take(
    capable: bool, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    assert whole_runs.precisions("cpu") == measured
    assert ("train bf16" in contenders.not_emulated(contenders.MEASURES, "cpu")) == capable
    assert "train" in contenders.not_emulated(contenders.MEASURES, "cpu")


def test_the_training_that_is_measured_is_the_bare_steps_and_saves_nothing(config: DictConfig, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    data = whole_runs.Files(tmp_path / "files", (64, 80), 2)
    torch.manual_seed(0)
    bare = whole_runs.net(tiny, 3, whole_runs.CLASSES).train()
    whole, runtime = copy.deepcopy(bare), Runtime(device="cpu", precision="fp32")
    start = torch.nn.utils.parameters_to_vector(bare.parameters()).detach().clone()
    batches = list(evaluate_loader(data, evaluation_transform()))
    whole_runs.steps(bare, sgd(bare, lr=0.01), batches, runtime)
    whole_runs.training(whole, sgd(whole, lr=0.01), runtime, tmp_path / "run", batches, record=True)
    ends = [torch.nn.utils.parameters_to_vector(model.parameters()).detach() for model in (bare, whole)]
    assert (ends[0] - start).abs().max() > 1e-4
    assert torch.allclose(*ends, atol=1e-6)
    logged = RunFolder(tmp_path / "run").read_metrics()
    assert [record["step"] for record in logged] == [1, 2]
    assert len(logged[0]["offset"]) == 3
    assert not list((tmp_path / "run").rglob("*.pt"))


def test_scaling_keeps_a_row_for_each_side_per_million_pixels(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), "scaling", "sides=[32,64]", "threads=1"]
    output = tmp_path / "scaling.json"
    done = subprocess.run([*command, "rounds=1", f"output={output}"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kept = json.loads(output.read_text())
    assert [row["case"] for row in kept["rows"]] == ["32 px", "64 px"]
    assert {row["measure"] for row in kept["rows"]} == {"forward, per million pixels"}
    for row in kept["rows"]:
        times = row["milliseconds"]
        assert list(times) == ["dense", "3 layers"]
        assert row["ratios"] == {"3 layers / dense": pytest.approx(times["3 layers"] / times["dense"])}
    assert kept["machine"]["backend"] in ("compiled", "reference")
    assert output.with_suffix(".png").exists()
