"""The kernels' cache and what happens where they can't be built: a small library stands in for the real one."""

import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

import pytest
import torch

from seg.ops import backend, build, deform_conv2d, dispatch, recipe

PROBE = '#include "probe.h"\nextern "C" int answer() { return ANSWER; }\n'
fork = multiprocessing.get_context("fork")

pytestmark = [
    pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="needs a C++ compiler"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
]


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    """A folder with the sources of a library that is built in no time, and an empty cache."""
    folder = tmp_path / "kernels"
    for device, ending in (("cpu", "cpp"), ("cuda", "cu")):
        (folder / device).mkdir(parents=True)
        (folder / device / f"probe.{ending}").write_text(PROBE)
    (folder / "probe.h").write_text("#define ANSWER 42\n")
    monkeypatch.setenv("SEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture
def fresh(kernels, monkeypatch):
    """The operators as at the start of a process, with the small library's recipes."""
    monkeypatch.setenv("SEG_KERNELS", "auto")
    monkeypatch.setitem(dispatch.RECIPES, "cpu", lambda: recipe.cpu_recipe(kernels))
    monkeypatch.setitem(dispatch.RECIPES, "cuda", lambda: recipe.cuda_recipe(kernels))
    forget()
    yield kernels
    forget()


def forget():
    dispatch.load.cache_clear()
    dispatch.say_once.cache_clear()


@pytest.fixture
def gpu(monkeypatch):
    """A GPU and a torch for CUDA 13.2, as far as a recipe asks."""
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    gpus(monkeypatch, (9, 0))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)


def gpus(monkeypatch, *capabilities):
    """GPUs of these compute capabilities."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])


def program(path, text):
    """An executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def answer(library):
    """What the library says, copied first so that a later library of its name is loaded anew."""
    copy = library.with_name(f"{time.monotonic_ns()}.so")
    shutil.copy(library, copy)
    return ctypes.CDLL(str(copy)).answer()


def only_notice(capsys, monkeypatch, device="cpu"):
    """The operator works on the reference, and says why in one line, once."""
    assert backend(device) == backend(device) == "reference"
    if device == "cpu":
        out = deform_conv2d(torch.ones(1, 1, 3, 3), torch.zeros(1, 2, 3, 3), torch.full((1, 1, 1, 1), 5.0))
        assert torch.equal(out, torch.full((1, 1, 3, 3), 5.0))
    lines = [line for line in capsys.readouterr().err.splitlines() if "reference" in line]
    assert len(lines) == 1
    monkeypatch.setenv("SEG_KERNELS", "require")
    with pytest.raises(RuntimeError, match="SEG_KERNELS=require"):
        backend(device)
    return lines[0]


def test_library_is_built_once_and_found_again(kernels, capsys):
    made = build.library(recipe.cpu_recipe(kernels))
    assert answer(made) == 42
    assert build.library(recipe.cpu_recipe(kernels)) == made
    assert capsys.readouterr().err.count("compiling") == 1


def test_key_follows_sources_headers_flags_and_torch_but_not_the_compiler(kernels, monkeypatch, tmp_path):
    keys = [build.key(recipe.cpu_recipe(kernels))]
    (kernels / "probe.h").write_text("#define ANSWER 43\n")
    keys.append(build.key(recipe.cpu_recipe(kernels)))
    (kernels / "cpu" / "more_avx2.cpp").write_text("")
    keys.append(build.key(recipe.cpu_recipe(kernels)))
    monkeypatch.setitem(recipe.PROCESSOR_FLAGS, "_avx2", ("-mavx2",))
    keys.append(build.key(recipe.cpu_recipe(kernels)))
    monkeypatch.setenv("CXXFLAGS", "-g")
    keys.append(build.key(recipe.cpu_recipe(kernels)))
    monkeypatch.setattr(torch, "__version__", "9.9")
    keys.append(build.key(recipe.cpu_recipe(kernels)))
    monkeypatch.setattr(recipe, "processor", lambda: "another")
    keys.append(build.key(recipe.cpu_recipe(kernels)))
    assert len(set(keys)) == len(keys)
    monkeypatch.setenv("CXX", str(program(tmp_path / "mine", "true")))
    assert build.key(recipe.cpu_recipe(kernels)) == keys[-1]


def test_every_file_has_the_flags_of_its_processor(kernels):
    made = recipe.cpu_recipe(kernels)
    assert "-mavx512bf16" in made.compile_command(Path("x_avx512_bf16.cpp"), Path("x.o"))
    assert "-mavx512f" in made.compile_command(Path("x_avx512.cpp"), Path("x.o"))
    assert "-mavx512f" not in made.compile_command(Path("x_avx2.cpp"), Path("x.o"))
    assert not any(flag.startswith("-m") for flag in made.compile_command(Path("x_portable.cpp"), Path("x.o")))


def test_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SEG_CACHE", str(tmp_path / "a"))
    assert build.cache_folder() == tmp_path / "a"
    monkeypatch.delenv("SEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert build.cache_folder() == tmp_path / "b" / "seg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert build.cache_folder() == Path.home() / ".cache" / "seg"


@pytest.mark.fault(23)
def test_fault_23_no_nvcc_falls_back_with_one_line(fresh, gpu, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(recipe, "USUAL_TOOLKIT", str(tmp_path))
    told = only_notice(capsys, monkeypatch, "cuda")
    assert f"there is no nvcc on PATH or in {tmp_path}; install the CUDA 13.2 toolkit" in told


@pytest.mark.parametrize("place", ["CUDA_HOME", "CUDA_PATH", "PATH", "the usual place"])
def test_nvcc_is_found_where_torch_finds_it(gpu, monkeypatch, tmp_path, place):
    monkeypatch.setenv("PATH", str(tmp_path / "bin") if place == "PATH" else "/bin")
    monkeypatch.setattr(recipe, "USUAL_TOOLKIT", str(tmp_path if place == "the usual place" else tmp_path / "none"))
    if place.startswith("CUDA"):
        monkeypatch.setenv(place, str(tmp_path))
    made = program(tmp_path / "bin" / "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    assert recipe.nvcc("13.2") == str(made)


@pytest.mark.fault(24)
def test_fault_24_nvcc_of_another_cuda_is_named_with_the_way_out(fresh, gpu, monkeypatch, capsys, tmp_path):
    nvcc = program(tmp_path / "bin" / "nvcc", "echo 'Cuda compilation tools, release 11.8, V11.8.89'\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    line = only_notice(capsys, monkeypatch, "cuda")
    assert f"{nvcc} is of CUDA 11.8 but torch {torch.__version__} is built for CUDA 13.2" in line
    assert "set CUDA_HOME to a toolkit 13.x or install the torch build for CUDA 11" in line


@pytest.mark.fault(30)
def test_fault_30_any_gpu_is_compiled_for_with_ptx_for_later_ones(kernels, gpu, monkeypatch, tmp_path):
    program(tmp_path / "bin" / "nvcc", "echo 'Cuda compilation tools, release 13.0, V13.0.88'\n")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    gpus(monkeypatch, (12, 1))
    made = recipe.cuda_recipe(kernels)
    assert "-gencode=arch=compute_121,code=[sm_121,compute_121]" in made.flags
    before = build.key(made)
    gpus(monkeypatch, (9, 0), (8, 0), (9, 0))
    made = recipe.cuda_recipe(kernels)
    assert build.key(made) != before
    codes = [flag for flag in made.flags if "gencode" in flag]
    assert codes == [f"-gencode=arch=compute_{n},code=[sm_{n},compute_{n}]" for n in (90, 80)], "one for each kind"
    key = build.key(made)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "gone"))
    assert build.key(recipe.cuda_recipe(kernels)) == key, "the cache is found without nvcc"
    program(tmp_path / "bin" / "nvcc", "exit 3\n")
    (tmp_path / "bin" / "nvcc").write_text("no program")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    with pytest.raises(recipe.Unavailable, match="nvcc says nothing of itself"):
        recipe.cuda_recipe(kernels).command()


def test_a_cache_serves_where_there_is_no_compiler(kernels, monkeypatch, tmp_path):
    made = build.library(recipe.cpu_recipe(kernels))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build.library(recipe.cpu_recipe(kernels)) == made
    made.unlink()
    with pytest.raises(recipe.Unavailable, match=r"there is no C\+\+ compiler"):
        build.library(recipe.cpu_recipe(kernels))


@pytest.mark.fault(25)
def test_fault_25_no_compiler_falls_back_with_one_line(fresh, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "there is no C++ compiler" in only_notice(capsys, monkeypatch)


@pytest.mark.fault(25)
def test_fault_25_a_compiler_that_is_not_there_is_named(fresh, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler -O1")
    assert "CXX=no-such-compiler -O1 is no command here" in only_notice(capsys, monkeypatch)


def test_failing_build_falls_back_and_tells_the_first_error(fresh, monkeypatch, capsys):
    (fresh / "cpu" / "probe.cpp").write_text("int answer() { return nothing_of_this_name; }\n")
    line = only_notice(capsys, monkeypatch)
    assert "error" in line
    assert "nothing_of_this_name" in line
    assert not list(build.cache_folder().glob("*.tmp"))


@pytest.mark.fault(26)
@pytest.mark.parametrize("folder", ["/proc/seg", "/dev/null/seg"])
def test_fault_26_cache_that_can_not_be_written_falls_back(fresh, monkeypatch, capsys, folder):
    monkeypatch.setenv("SEG_CACHE", folder)
    line = only_notice(capsys, monkeypatch)
    assert f"the cache {folder} can't be written" in line
    assert "set SEG_CACHE to another folder" in line


def test_without_a_home_folder_the_reference_runs_and_the_way_out_is_said(fresh, monkeypatch, capsys):
    monkeypatch.setenv("SEG_CACHE", "~nobody-of-that-name/cache")
    assert backend("cpu") == "reference"
    assert "set SEG_CACHE to one" in capsys.readouterr().err


@pytest.mark.fault(26)
def test_fault_26_complete_cache_is_only_read(kernels, monkeypatch):
    made = build.library(recipe.cpu_recipe(kernels))
    before = sorted(p.name for p in made.parent.iterdir())

    def refuse(path):
        raise AssertionError(f"{path} was locked")

    monkeypatch.setattr(build, "locked", refuse)
    assert build.library(recipe.cpu_recipe(kernels)) == made
    assert sorted(p.name for p in made.parent.iterdir()) == before


def build_with_little_space(kernels, told):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))  # no file may grow: what a full disk does
    try:
        build.library(recipe.cpu_recipe(kernels))
    except recipe.Unavailable as reason:
        told.put(str(reason))


@pytest.mark.fault(26)
def test_fault_26_full_disk_is_a_reason_and_leaves_nothing(kernels):
    told = fork.Queue()
    child = fork.Process(target=build_with_little_space, args=(kernels, told))
    child.start()
    assert "failed" in told.get(timeout=60) or "can't be written" in told.get(timeout=1)
    child.join()
    assert not list(build.cache_folder().glob("*.so"))
    assert not list(build.cache_folder().glob("*.tmp"))
    assert answer(build.library(recipe.cpu_recipe(kernels))) == 42


@pytest.mark.fault(27)
def test_fault_27_of_several_processes_one_builds(kernels, monkeypatch, tmp_path):
    compiler = recipe.cxx()[0]
    logged = program(tmp_path / "cxx", f'echo run >> {tmp_path}/log\nsleep 0.3\nexec {compiler} "$@"\n')
    monkeypatch.setenv("CXX", str(logged))
    made = recipe.cpu_recipe(kernels)
    with fork.Pool(3) as pool:
        paths = pool.map(build.library, [made] * 3, chunksize=1)
    assert len(set(paths)) == 1
    assert answer(paths[0]) == 42
    assert (tmp_path / "log").read_text().split() == ["run", "run"]  # compiled once, linked once


def build_alone(made):
    os.setsid()
    build.library(made)


@pytest.mark.fault(28)
def test_fault_28_killed_build_is_built_by_the_next(kernels, monkeypatch, tmp_path):
    slow = program(tmp_path / "cxx", "sleep 60\n")
    monkeypatch.setenv("CXX", str(slow))
    child = fork.Process(target=build_alone, args=(recipe.cpu_recipe(kernels),))
    child.start()
    limit = time.monotonic() + 30
    while not list(build.cache_folder().glob("*.tmp")) and time.monotonic() < limit:
        time.sleep(0.02)
    os.killpg(child.pid, signal.SIGKILL)
    child.join()
    assert list(build.cache_folder().glob("*.tmp"))
    monkeypatch.delenv("CXX")
    assert answer(build.library(recipe.cpu_recipe(kernels))) == 42
    assert not list(build.cache_folder().glob("*.tmp"))


def test_waiting_for_another_build_has_an_end(kernels, monkeypatch):
    made = build.library_path(recipe.cpu_recipe(kernels))
    made.parent.mkdir(parents=True)
    monkeypatch.setattr(build, "PATIENCE", 0.2)
    with (
        build.locked(made.with_suffix(".lock")),
        pytest.raises(recipe.Unavailable, match=r"another process has held .*\.lock"),
    ):
        build.library(recipe.cpu_recipe(kernels))


@pytest.mark.fault(29)
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "no checksum", "binary checksum"])
def test_fault_29_damaged_library_is_built_again(kernels, damage):
    made = build.library(recipe.cpu_recipe(kernels))
    content = bytearray(made.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if damage == "no checksum":
        build.checksum_path(made).unlink()
    elif damage == "binary checksum":
        build.checksum_path(made).write_bytes(b"\xff\xfe\x00")
    else:
        made.write_bytes({"flipped": bytes(content), "cut": bytes(content[:999]), "emptied": b""}[damage])
    assert not build.is_intact(made)
    assert answer(build.library(recipe.cpu_recipe(kernels))) == 42
    assert build.is_intact(made)


@pytest.mark.fault(29)
def test_fault_29_library_that_can_not_be_loaded_falls_back(fresh, monkeypatch, capsys):
    made = build.library(recipe.cpu_recipe(fresh))
    made.write_bytes(b"not a library")
    build.checksum_path(made).write_text(build.sha256(made))
    assert "the library can't be loaded" in only_notice(capsys, monkeypatch)


@pytest.mark.fault(31)
def test_fault_31_off_builds_nothing(fresh, monkeypatch):
    monkeypatch.setenv("SEG_KERNELS", "off")
    assert backend("cpu") == "reference"
    assert not build.cache_folder().exists()


@pytest.mark.fault(31)
def test_fault_31_require_is_an_error_in_place_of_the_fallback(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SEG_KERNELS", "require")
    with pytest.raises(RuntimeError, match="SEG_KERNELS=require, .* no C\\+\\+ compiler"):
        deform_conv2d(torch.ones(1, 1, 3, 3), torch.zeros(1, 2, 3, 3), torch.ones(1, 1, 1, 1))


@pytest.mark.fault(31)
def test_fault_31_unknown_value_is_named_with_the_choices(monkeypatch):
    monkeypatch.setenv("SEG_KERNELS", "on")
    with pytest.raises(ValueError, match="SEG_KERNELS='on' is unknown; set it to one of auto, off, require"):
        backend("cpu")


@pytest.mark.fault(31)
def test_fault_31_auto_takes_the_compiled_kernels(monkeypatch):
    monkeypatch.setenv("SEG_KERNELS", "auto")
    assert backend("cpu") == "compiled"


def test_devices_without_kernels_take_the_reference(fresh, monkeypatch, capsys):
    assert "there are no kernels for this kind of device" in only_notice(capsys, monkeypatch, "mps")


def test_a_system_without_fcntl_takes_the_reference(fresh, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # makes its import fail, as on Windows
    monkeypatch.delitem(sys.modules, "seg.ops.build")
    monkeypatch.delattr("seg.ops.build")
    line = only_notice(capsys, monkeypatch)
    assert "can't be built on this system" in line
    assert "fcntl" in line


def test_installed_without_sources_takes_the_reference(fresh, monkeypatch, capsys):
    (fresh / "cpu" / "probe.cpp").unlink()
    assert "there are no kernel sources" in only_notice(capsys, monkeypatch)


def test_program_prints_where_the_library_is(kernels, monkeypatch, capsys):
    monkeypatch.setattr(build, "cpu_recipe", lambda: recipe.cpu_recipe(kernels))
    assert build.main() == 0
    assert answer(Path(capsys.readouterr().out.strip())) == 42
