"""Which number type a run computes in where it is left to the machine."""

import pytest
import torch

from seg.engine import Runtime


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


def test_a_gpu_that_would_emulate_bf16_keeps_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert Runtime(device="cuda").precision == "fp32"
