"""The house: what may import what, what stands at the top, and what is banned."""

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SEG = ROOT / "seg"
# floors from the ground up: a module may import from its own floor and from those named
MAY_IMPORT = {
    "errors": set(),
    "alarms": set(),
    "counts": set(),
    "sizes": set(),
    "ops": {"errors"},
    "metrics": {"errors", "ops"},
    "models": {"errors", "counts", "ops"},
    "data": {"errors", "counts", "sizes"},
    "engine": {"errors", "alarms", "counts", "sizes", "metrics", "data"},
    "analysis": {"errors", "sizes", "ops", "models", "metrics"},
    "report": {"errors", "alarms", "counts"},
}
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "base", "registry", "misc"}


def modules() -> list[Path]:
    return sorted(SEG.rglob("*.py"))


def floor(path: Path) -> str:
    return path.relative_to(SEG).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "seg"}
    return names


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_never_turn_back(path: Path) -> None:
    here = floor(path)
    if here == "__init__":
        return
    floors = {name.split(".")[1] for name in imported(path) if name.startswith("seg.")}
    assert floors <= MAY_IMPORT[here] | {here}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_hydra_stays_in_scripts(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & {"hydra", "omegaconf"}


def test_operators_import_torch_only() -> None:
    found = {name.split(".")[0] for path in (SEG / "ops").glob("*.py") for name in imported(path)}
    assert found <= {"torch", "seg", "", "__future__"} | set(sys.stdlib_module_names)


def test_report_never_imports_a_model() -> None:
    found = {name.split(".")[0] for path in (SEG / "report").glob("*.py") for name in imported(path)}
    assert "torch" not in found


def test_no_module_is_a_drawer_for_everything() -> None:
    assert not [path for path in modules() if path.stem in BANNED_NAMES]


def test_kernels_is_no_python_package() -> None:
    assert not list((ROOT / "kernels").rglob("*.py"))


@pytest.mark.fault(74)
def test_fault_74_import_opens_no_connection(tmp_path: Path) -> None:
    code = """
import socket
def refuse(*arguments, **keywords):
    raise SystemExit("a connection was opened")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
import seg, seg.ops, seg.models, seg.data, seg.engine, seg.analysis, seg.report
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "imported", done.stdout + done.stderr
    assert hasattr(socket, "create_connection")
