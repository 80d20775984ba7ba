"""A run's folder: one run at a time, on disks with and without locks, and a status that tells how it ended."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from seg.engine import RunFolder
from seg.errors import ConfigError, RunError


@pytest.mark.fault(59)
def test_fault_59_a_second_run_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    with (
        RunFolder(tmp_path).running(),
        pytest.raises(ConfigError, match=f"process {os.getpid()}"),
        RunFolder(tmp_path).running(),
    ):
        pass
    assert RunFolder(tmp_path).status()["state"] == "done"


def test_a_disk_without_locks_is_said_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def flock(file: object, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with RunFolder(tmp_path).running():
        pass
    assert RunFolder(tmp_path).status()["state"] == "done"
    assert "(Function not implemented): start no second run in it" in capsys.readouterr().err


def test_the_lock_goes_with_the_process_that_holds_it(tmp_path: Path) -> None:
    """Data workers are forked, and outlive a killed run for seconds."""
    code = textwrap.dedent(f"""
        import os, signal, time
        from seg.engine import RunFolder
        with RunFolder({str(tmp_path)!r}).running():
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
            print(worker, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())  # type: ignore[union-attr]
    try:
        assert process.wait(60) == -signal.SIGKILL
        os.kill(worker, 0)  # it is there
        with RunFolder(tmp_path).running():
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_status_tells_of_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RunError), RunFolder(tmp_path).running():
        raise RunError("the disk\nis full")
    assert RunFolder(tmp_path).status()["state"] == "failed"
    assert RunFolder(tmp_path).status()["error"] == "RunError: the disk"


@pytest.mark.fault(78)
def test_fault_78_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/run"):
        RunFolder(tmp_path / "file" / "run")
