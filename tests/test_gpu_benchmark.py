"""What `benchmark.py ops device=cuda` does, as far as it needs no GPU: contenders, rotation, check, rows and tables."""

import json
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from seg.analysis.timing import Rotation
from seg.errors import ConfigError, RunError
from seg.ops import cuda_path, deform_conv2d
from seg.report.benchmark import benchmark_tables, save_benchmark
from seg.report.table import as_text

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import benchmark  # noqa: E402
import gpu_contenders  # noqa: E402
from contenders import Shape  # noqa: E402

TINY = {"tiny": Shape(8, 5, 6), "batch": Shape(16, 3, 4, dilation=2, batch=2)}
HALF = ["ours fused", "ours plain", "conv2d", "torchvision fp16", "torchvision autocast"]


@pytest.fixture
def config() -> DictConfig:
    return OmegaConf.create({"what": "ops", "device": "cpu", "rounds": 5, "seconds": 9, "measures": None})


def on_the_cpu(measures: list[str], cache: int = 0) -> list[tuple[str, str, dict[str, Rotation]]]:
    return list(gpu_contenders.cases([], measures, "cpu", cache, TINY))


def test_the_protocol_gives_a_row_and_tables_for_every_measure_and_shape(
    config: DictConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, "cases", lambda config: on_the_cpu(["forward fp16", "forward tf32"], 10_000))
    result = {"rows": benchmark.measured(config)}
    assert [(row["measure"], row["case"]) for row in result["rows"]] == [
        ("forward fp16", "tiny"),
        ("forward fp16", "batch"),
        ("forward tf32", "tiny"),
        ("forward tf32", "batch"),
    ]
    first = result["rows"][0]
    assert list(first["milliseconds"]) == HALF
    times = first["milliseconds"]
    assert first["ratios"] == {
        "ours fused / conv2d": times["ours fused"] / times["conv2d"],
        "ours plain / ours fused": times["ours plain"] / times["ours fused"],
        "torchvision fp16 / ours fused": times["torchvision fp16"] / times["ours fused"],
        "torchvision autocast / ours fused": times["torchvision autocast"] / times["ours fused"],
    }
    bytes_of_a_set = 2 * (8 * 30 + 8 * 8 * 9) + 4 * 27 * 30  # offset and mask are float32
    assert first["sets"]["ours fused"] == 1 + -(-10_000 // bytes_of_a_set)
    kept = json.loads(json.dumps(result))
    tables = [as_text(table) for table in benchmark_tables(kept)]
    assert "torchvision autocast" in tables[0]
    assert "torchvision" in tables[2]
    save_benchmark(kept, tmp_path / "ops.png")


def test_every_contender_works_in_its_own_type_and_layout() -> None:
    ((_, _, contenders), _) = on_the_cpu(["forward fp16"])
    out = {name: run() for name, run in contenders.items()}
    assert {name: found.dtype for name, found in out.items()} == dict.fromkeys(HALF, torch.float16)
    assert out["conv2d"].is_contiguous(memory_format=torch.channels_last)
    assert out["ours fused"].is_contiguous(memory_format=torch.channels_last)
    assert out["torchvision fp16"].is_contiguous()


def test_training_gives_the_gradients_of_what_each_contender_reads() -> None:
    measure = gpu_contenders.Measure(torch.float16, gradients=True)
    contenders = gpu_contenders.layer(TINY["tiny"], measure, "cpu", 0)
    found = {name: [tuple(g.shape) for g in run()] for name, run in contenders.items()}
    four = [(1, 8, 5, 6), (1, 18, 5, 6), (8, 8, 3, 3), (1, 9, 5, 6)]
    assert found == {name: [four[0], four[2]] if name == "conv2d" else four for name in HALF}
    gpu_contenders.check("", contenders["ours plain"](), gpu_contenders.expected(TINY["tiny"], measure, "cpu"))


def test_a_path_is_chosen_for_the_time_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(*given: object) -> torch.Tensor:
        seen.append(cuda_path())
        return deform_conv2d(*given)

    monkeypatch.setattr(gpu_contenders, "deform_conv2d", spy)
    monkeypatch.setenv("SEG_CUDA_PATH", "plain")
    contenders = gpu_contenders.layer(TINY["tiny"], gpu_contenders.Measure(torch.float32), "cpu", 0)
    contenders["ours fused"](), contenders["ours plain"]()
    assert seen == ["fused", "plain"]
    assert cuda_path() == "plain"


def test_float32_may_be_rounded_only_while_its_contenders_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(gpu_contenders, "torchvisions", lambda given: seen.append(allowed()))
    contenders = gpu_contenders.layer(TINY["tiny"], gpu_contenders.Measure(torch.float32), "cpu", 0)
    contenders["torchvision"]()
    assert seen == [True]
    assert not allowed()


def allowed() -> bool:
    return torch.backends.cuda.matmul.allow_tf32


def test_a_wrong_output_is_told_and_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_contenders, "deform_conv2d", lambda *given: 1.1 * deform_conv2d(*given))
    with pytest.raises(RunError, match=r"forward bf16 tiny: ours fused differs from torchvision's float32 by (9|10)\."):
        on_the_cpu(["forward bf16"])
    monkeypatch.setattr(gpu_contenders, "deform_conv2d", lambda *given: torch.nan * deform_conv2d(*given))
    with pytest.raises(RunError, match="by nan%"):
        on_the_cpu(["forward bf16"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told_with_the_way_out(config: DictConfig) -> None:
    config.device, config.threads = "cuda", 1
    with pytest.raises(ConfigError, match="device=cuda is not here; choose cpu"):
        benchmark.check(config)


def test_unknown_measures_and_shapes_are_named_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="measures has 'forward'; choose from forward bf16"):
        on_the_cpu(["forward"])
    with pytest.raises(ConfigError, match="shapes has 'res9'; choose from res5-23x31"):
        list(gpu_contenders.cases(["res9"], [], "cpu", 0))
