"""Every instruction set that this processor has gives the reference's values and gradients, each in its own process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seg.ops import recipe

NAMES = {"portable": (), "avx2": ("avx2", "fma"), "avx512": ("avx512f", "avx512bw", "avx512vl", "avx512dq")}
NAMES["avx512_bf16"] = (*NAMES["avx512"], "avx512_bf16")

CHECK = """
import importlib.util, json, os, sys, torch
spec = importlib.util.spec_from_file_location("conftest", sys.argv[1])
conftest = sys.modules["conftest"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)
from seg.ops import confusion_counts, deform_conv2d

def outcome(case, mode):
    os.environ["SEG_KERNELS"] = mode
    return [case.run(deform_conv2d).detach(), *case.gradients(deform_conv2d)]

errors = {}
for name in ("float64", "float32", "bfloat16", "float16"):
    for seed in range(16):
        large = dict(batch=(1, 2), sizes=(13, 17, 24), channels=(33, 67, 131)) if seed % 4 == 0 else dict(batch=(1, 2))
        case = conftest.draw(seed, **large).to(getattr(torch, name))
        for found, expected in zip(outcome(case, "require"), outcome(case, "off")):
            errors[name] = max(errors.get(name, 0.0), conftest.relative_error(found, expected))
label = torch.arange(100_000).remainder(23).to(torch.uint8)
counts = []
for mode in ("require", "off"):
    os.environ["SEG_KERNELS"] = mode
    counts.append(confusion_counts(label.flip(0), label, 23, 22))
print(json.dumps({"isa": torch.ops.seg_cpu.isa(), "errors": errors, "same_counts": torch.equal(*counts)}))
"""


def has(name):
    """Whether this processor can run the instruction set."""
    return all(flag in recipe.processor().split() for flag in NAMES[name])


@pytest.fixture(scope="module")
def outcomes():
    """What the check printed for every instruction set; all run at once."""
    script = ["-c", CHECK, str(Path(__file__).with_name("conftest.py"))]
    started = {
        name: subprocess.Popen(
            [sys.executable, *script],
            env=os.environ | {"SEG_ISA": name, "OMP_NUM_THREADS": "1", "SEG_KERNELS": "auto"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in NAMES
        if has(name)
    }
    return {name: json.loads(process.communicate(timeout=200)[0].splitlines()[-1]) for name, process in started.items()}


@pytest.mark.parametrize("name", NAMES)
def test_instruction_set_gives_the_reference_values_and_gradients(name, outcomes):
    if not has(name):
        pytest.skip(f"this processor has no {name}")
    outcome = outcomes[name]
    assert outcome["isa"] == name
    assert outcome["same_counts"]
    limits = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 1.2e-2, "float16": 1.5e-3}
    assert {dtype: error for dtype, error in outcome["errors"].items() if error > limits[dtype]} == {}
    assert outcome["errors"]["float32"] > 0  # another order of summation: it was no reference that ran


def test_unknown_instruction_set_is_named_with_the_choices():
    code = "import torch; from seg.ops import backend; backend('cpu'); torch.ops.seg_cpu.isa()"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"SEG_ISA": "sse9"}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "SEG_ISA=sse9" in done.stderr
    assert "portable, avx2, avx512" in done.stderr


def test_import_builds_nothing(tmp_path):
    code = "import seg.ops, sys; print('cv2' in sys.modules, 'torchvision' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"SEG_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]
    assert not (tmp_path / "cache").exists()
