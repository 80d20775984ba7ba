"""Every CUDA source compiles for every GPU that is named: machine code for sm_80 and sm_90, PTX for later ones."""

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from seg.ops import recipe

pytestmark = pytest.mark.timeout(900)  # the first test compiles, which takes minutes on a busy machine
SOURCES = sorted([*(recipe.KERNELS / "cuda").glob("*.cu"), *(recipe.KERNELS / "cuda").glob("*.cpp")])
GPUS = ("arch=compute_80,code=sm_80", "arch=compute_90,code=[sm_90,compute_90]")
# the quickest compilation that still makes machine code: instructions that a GPU lacks are found by the assembler
QUICK = ("-O0", "-Xcicc=-O0", "-Xptxas=-O0")


def compile_source(source, made, nvcc):
    """What nvcc says about one source, for all GPUs."""
    kept = [flag for flag in recipe.cuda_flags() if flag != "-O3"]
    gpus = GPUS if source.suffix == ".cu" else GPUS[:1]  # a .cpp has no code for GPUs
    command = [nvcc, *QUICK, *kept, "-Werror=all-warnings", *(f"-gencode={gpu}" for gpu in gpus)]
    done = subprocess.run([*command, "-c", source, "-o", made], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """What the compiler says about each source; all are compiled at once."""
    try:
        nvcc = recipe.nvcc(os.environ.get("SEG_TEST_CUDA", "13"))
    except recipe.Unavailable as reason:
        pytest.skip(str(reason))
    folder = tmp_path_factory.mktemp("cuda")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {source: pool.submit(compile_source, source, folder / f"{source.name}.o", nvcc) for source in SOURCES}
        return {source: job.result() for source, job in jobs.items()}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_source_compiles_without_a_warning_for_every_gpu(source, messages):
    assert messages[source] == ""
