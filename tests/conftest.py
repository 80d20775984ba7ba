"""What tests of several folders share."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

THREADS = torch.get_num_threads()
TINY = ["head.hidden=8", "data.batch_size=2", "trainer.log_every=1", "runtime.threads=1", "runtime.precision=fp32"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run a script in this process, as its command line would; its exit code and all that it printed."""

    def run(script: str, *arguments: object) -> tuple[int, str]:
        for name in ("PYTHONPATH", "HYDRA_FULL_ERROR"):
            monkeypatch.setenv(name, os.environ.get(name, ""))  # put back afterwards
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            importlib.import_module(script).main()
        said = capfd.readouterr()
        return int(ended.value.code or 0), said.out + said.err

    return run


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Gives each test as many threads as there were: runs in this process set theirs, and sums differ with them."""
    yield
    torch.set_num_threads(THREADS)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turns torch's deterministic algorithms on, which also fill new tensors with NaN."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def train_tiny() -> Callable[..., None]:
    """Train a deformable and a dilated net for few steps, each in a folder of its variant's name."""
    from training import train_run

    def train(folder: Path, *overrides: str) -> None:
        for variant in ("deform_3", "dilated_2"):
            given = [*TINY, *overrides, f"variant={variant}", f"run={folder / variant}"]
            with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
                config = compose("train", given)
            train_run(config)

    return train
