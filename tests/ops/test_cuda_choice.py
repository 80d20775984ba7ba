"""Which CUDA code is built and which path is taken, without a GPU."""

import pytest
import torch

from seg.ops import cuda_path, dispatch, recipe

KNOWN = ("75", "80", "90", "100", "103", "120")


@pytest.mark.parametrize(
    "capability, code",
    [
        ((8, 0), "arch=compute_80,code=[sm_80,compute_80]"),
        ((9, 0), "arch=compute_90,code=[sm_90,compute_90]"),
        ((12, 0), "arch=compute_120,code=[sm_120,compute_120]"),
    ],
)
def test_a_known_gpu_gets_machine_code(capability, code, capsys):
    assert recipe.gpu_code(capability, KNOWN) == f"-gencode={code}"
    assert capsys.readouterr().err == ""


@pytest.mark.fault(30)
@pytest.mark.parametrize("capability, newest", [((10, 7), "103"), ((13, 0), "120")])
def test_fault_30_an_unknown_gpu_gets_ptx_and_a_notice(capability, newest, capsys):
    assert recipe.gpu_code(capability, KNOWN) == f"-gencode=arch=compute_{newest},code=compute_{newest}"
    told = capsys.readouterr().err
    assert f"compute capability {capability[0]}.{capability[1]}" in told
    assert "JIT" in told
    assert "newer CUDA toolkit" in told
    assert told.count("\n") == 1


def test_a_gpu_older_than_the_toolkit_is_refused_with_the_way_out():
    with pytest.raises(recipe.Unavailable, match=r"7\.0.*older CUDA toolkit"):
        recipe.gpu_code((7, 0), KNOWN)


def test_a_gpu_older_than_the_kernels_is_refused():
    with pytest.raises(
        recipe.Unavailable, match=r"compute capability 6\.1; the kernels are written for 7\.0 and later"
    ):
        recipe.gpu_code((6, 1), ("61", "70"))


def test_an_old_gpu_beside_others_is_left_out_with_a_notice(capsys):
    code = "-gencode=arch=compute_90,code=[sm_90,compute_90]"
    assert recipe.all_codes([(9, 0), (6, 1), (9, 0), (6, 1)], KNOWN) == (code,)
    assert "compute capability 6.1" in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    with pytest.raises(recipe.Unavailable, match=r"6\.1"):
        recipe.all_codes([(6, 1), (7, 0)], KNOWN)


def test_the_plain_path_is_the_default_and_the_other_an_explicit_choice(monkeypatch):
    monkeypatch.delenv("SEG_CUDA_PATH", raising=False)
    assert cuda_path() == "plain"
    assert dispatch.options("cuda")["fused"] is False
    monkeypatch.setenv("SEG_CUDA_PATH", "fused")
    assert cuda_path() == "fused"
    assert dispatch.options("cuda", backward=True)["fused"] is True


def test_an_unknown_path_is_named_with_the_choices(monkeypatch):
    monkeypatch.setenv("SEG_CUDA_PATH", "fast")
    with pytest.raises(ValueError, match="SEG_CUDA_PATH='fast'.*plain, fused"):
        dispatch.options("cuda")


def test_the_gpus_operators_are_told_of_torchs_flags_of_the_moment():
    assert dispatch.options("cuda", backward=True) == {"fused": False, "tf32": False, "deterministic": False}
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.use_deterministic_algorithms(True)
    try:
        assert dispatch.options("cuda", backward=True) == {"fused": False, "tf32": True, "deterministic": True}
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.use_deterministic_algorithms(False)


def test_the_cpus_operators_have_no_further_arguments():
    assert dispatch.options("cpu", backward=True) == {}


def test_an_operator_that_a_library_lacks_is_the_references(monkeypatch, capsys):
    monkeypatch.setattr(dispatch, "load", lambda device_type: torch.ops.aten)
    monkeypatch.setenv("SEG_KERNELS", "auto")
    assert dispatch.kernels("cuda", "add") is torch.ops.aten
    assert dispatch.kernels("cuda", "no_such_operator") is None
    assert "cuda: its library has no no_such_operator" in capsys.readouterr().err
    monkeypatch.setenv("SEG_KERNELS", "require")
    with pytest.raises(RuntimeError, match="no_such_operator"):
        dispatch.kernels("cuda", "no_such_operator")
