"""What tests of several folders share."""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))


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
