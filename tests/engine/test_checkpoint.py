import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from seg.engine import checkpoint
from seg.errors import DataError, RunError


def state(step: int) -> dict:
    return {"model": {"w": torch.full((3,), float(step))}, "step": step}


def test_newest_good_checkpoint_is_found_and_old_ones_go(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        checkpoint.save(tmp_path, step, state(step), keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step_00000010.pt", "step_00000002.pt"]
    loaded, problems = checkpoint.newest(tmp_path)
    assert loaded["step"] == 10
    assert problems == []
    assert oct(checkpoint.list_checkpoints(tmp_path)[0].stat().st_mode & 0o777) == "0o644"


def test_a_damaged_newer_file_takes_no_place_of_a_good_one(tmp_path: Path) -> None:
    for step in (5, 10):
        checkpoint.save(tmp_path, step, state(step))
    (tmp_path / "step_00000010.pt").write_bytes(b"half")
    checkpoint.save(tmp_path, 7, state(7), keep=1)
    assert checkpoint.newest(tmp_path)[0]["step"] == 7
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step_00000010.pt", "step_00000007.pt"]
    checkpoint.save(tmp_path, 12, state(12), keep=1)
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path)] == ["step_00000012.pt"]


@pytest.mark.fault(48)
def test_fault_48_kill_during_save_leaves_the_previous_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    child = os.fork()
    if child == 0:  # die between writing the temporary file and renaming it
        os.replace = lambda *names: os._exit(9)
        checkpoint.save(tmp_path, 2, state(2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert list(tmp_path.glob(".*.tmp"))
    assert checkpoint.newest(tmp_path)[0]["step"] == 1
    checkpoint.save(tmp_path, 3, state(3))
    assert not list(tmp_path.glob(".*.tmp"))


def save_where_no_file_may_grow(folder: Path) -> None:
    """What a full disk does to a save, in a process of its own; exits with 7 where it is told as it should be."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        checkpoint.save(folder, 2, {"model": {"w": torch.zeros(10_000)}})
    except RunError as error:
        right = "step_00000002.pt" in str(error) and "earlier checkpoints are untouched" in str(error)
        os._exit(7 if right else 1)
    os._exit(0)


@pytest.mark.fault(49)
@pytest.mark.parametrize(("step", "kept"), [(1, [".pt", ".sha256"]), (2, [".pt"])])
def test_fault_49_full_disk_keeps_the_previous_one(tmp_path: Path, step: int, kept: list[str]) -> None:
    """Of an earlier step, or of the same: a run that bad data stopped saves its step each time that it is tried."""
    checkpoint.save(tmp_path, step, state(step))
    child = os.fork()
    if child == 0:
        save_where_no_file_may_grow(tmp_path)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    found, problems = checkpoint.newest(tmp_path)
    assert (found["step"], problems) == (step, [])
    assert [path.name for path in sorted(tmp_path.iterdir())] == [f"step_{step:08d}{suffix}" for suffix in kept]


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_a_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.fault(50)
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lambda data: b"", lambda data: b"<html>not found</html>"])
def test_fault_50_damaged_checkpoint_is_named_and_the_older_one_taken(tmp_path: Path, damage) -> None:
    checkpoint.save(tmp_path, 1, state(1))
    path = checkpoint.save(tmp_path, 2, state(2))
    path.write_bytes(damage(path.read_bytes()))
    loaded, problems = checkpoint.newest(tmp_path)
    assert loaded["step"] == 1
    assert path.name in problems[0]


@pytest.mark.fault(50)
@pytest.mark.parametrize("content", [b"", b"\x80", b"PK\x03\x04", b"<html></html>", pickle.dumps([1])])
def test_fault_50_what_is_no_checkpoint_is_named_where_there_is_no_hash(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "step_00000001.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=path.name):
        checkpoint.load(path)


def test_a_checkpoint_without_its_hash_still_loads(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 1, state(1))
    path.with_suffix(".sha256").unlink()
    assert checkpoint.load(path)["step"] == 1


class Malicious:
    def __reduce__(self) -> tuple:
        return os.system, ("touch ran_by_a_stranger",)


@pytest.mark.fault(51)
def test_fault_51_malicious_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain, zipped = tmp_path / "plain.pt", tmp_path / "zipped.pt"
    plain.write_bytes(pickle.dumps(Malicious()))
    torch.save({"model": Malicious()}, zipped)
    for path in (plain, zipped):
        with pytest.raises(DataError, match=path.name):
            checkpoint.load(path)
    assert not Path("ran_by_a_stranger").exists()


def test_another_kind_of_file_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(DataError, match="no entry 'model'"):
        checkpoint.load(tmp_path / "list.pt")
    with pytest.raises(DataError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "absent.pt")
