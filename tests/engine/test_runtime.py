"""Which number type a run computes in where it is left to the machine; and what compiling must not hide."""

import contextlib

import cv2
import pytest
import torch
from torch import nn

from seg.analysis import offset_statistics, record_offsets
from seg.engine import Runtime
from seg.errors import ConfigError
from seg.models import Deform


@pytest.mark.parametrize(
    ("capabilities", "chosen"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": True}, "bf16"),
        ({"neon": True, "bf16": True}, "fp32"),  # never measured
    ],
)
def test_a_processor_that_multiplies_in_bf16_is_asked_to(
    capabilities: dict[str, bool], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert Runtime(device="cpu").precision == chosen
    assert Runtime(device="cpu", precision="fp32").precision == "fp32"
    assert Runtime(device="cpu").describe().endswith(chosen)
    slow = "" if chosen == "bf16" else " (runtime.precision=auto is fp32 here)"
    assert Runtime(device="cpu", precision="bf16").describe().endswith(f"bf16{slow}")


def test_a_gpu_that_would_emulate_bf16_keeps_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    asked = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: asked.append(device) or contextlib.nullcontext())
    assert Runtime(device="cuda:1").precision == "fp32"
    assert asked == [torch.device("cuda:1")]


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"runtime.device is 'cuda:2' but torch sees 2 GPUs here, from cuda:0"):
        Runtime(device="cuda:2")


def test_a_task_that_slurm_shows_one_gpu_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, runtime = [], Runtime(device="cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    with pytest.raises(ConfigError, match="process 1 on this host finds 1 GPUs; use trainer.devices=1"):
        runtime.take_gpu(1)
    monkeypatch.setenv("SEG_RANKS", "slurm")
    with pytest.raises(ConfigError, match="or ask for more of them"):
        runtime.take_gpu(1)  # of a task that starts its own ranks
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    runtime.take_gpu(1)
    assert taken == [0]
    assert runtime.device == torch.device("cuda:0")


def test_a_net_in_its_place_computes_as_the_run_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        Runtime(device="cpu", threads=before[0] + 1, deterministic=True).place(nn.Identity())
        assert torch.get_num_threads() == cv2.getNumThreads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        Runtime(device="cpu", threads=before[0]).settle()
        cv2.setNumThreads(before[1])


def test_convolutions_of_a_gpu_round_as_its_products_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    runtime = Runtime(device="cpu")
    runtime.settle()
    assert torch.backends.cudnn.allow_tf32
    runtime.device = torch.device("cuda")
    runtime.settle()
    assert not torch.backends.cudnn.allow_tf32


def test_a_compiled_net_is_one_graph_and_its_offsets_are_recorded_all_the_same() -> None:
    model = Runtime(device="cpu", precision="fp32", compile=True).place(nn.Sequential(nn.Conv2d(3, 4, 1), Deform(4, 4)))
    torch._dynamo.reset()
    model.compile(backend="eager", fullgraph=True)  # in place of inductor, which takes long
    image = torch.randn(1, 3, 6, 7)
    expected = model(image)
    with offset_statistics(model) as statistics:
        model(image)
    with record_offsets(model) as recorded:
        recorded_too = model(image)
    assert len(statistics) == len(recorded) == 1
    assert torch.equal(expected, recorded_too)
    recorded.clear()
    model(image)
    assert not recorded
