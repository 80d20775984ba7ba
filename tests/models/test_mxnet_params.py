"""The .params reader on files written here byte by byte, in all four layouts."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seg.models import DeepLab, Deform, ResNet, load_weights
from seg.models.mxnet_params import read_params

KINDS = {np.dtype(t): i for i, t in enumerate(("f4", "f8", "f2", "u1", "i4", "i1", "i8"))}


def legacy(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<I{len(shape)}I", len(shape), *shape)


def version_1(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<II{len(shape)}q", 0xF993FAC8, len(shape), *shape)


def version_2(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<Iii{len(shape)}q", 0xF993FAC9, 0, len(shape), *shape)


def version_3(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<Iii{len(shape)}q", 0xF993FACA, 0, len(shape), *shape)


LAYOUTS = (legacy, version_1, version_2, version_3)


def write(
    path: Path, arrays: dict[str, NDArray[np.generic]], shape: Callable[[tuple[int, ...]], bytes] = version_2
) -> Path:
    body = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for value in arrays.values():
        body += shape(value.shape) + struct.pack("<iii", 1, 0, KINDS[value.dtype]) + value.tobytes()
    body += struct.pack("<Q", len(arrays))
    for name in arrays:
        body += struct.pack("<Q", len(name)) + name.encode()
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_arrays_that_were_written(
    tmp_path: Path, layout: Callable[[tuple[int, ...]], bytes]
) -> None:
    random = np.random.default_rng(0)
    arrays = {"arg:a": random.normal(size=(2, 3, 1, 5)).astype("f4"), "aux:b": random.normal(size=7).astype("f4")}
    found = read_params(write(tmp_path / "x.params", arrays, layout))
    assert list(found) == ["arg:a", "aux:b"]
    assert all(np.array_equal(found[name].numpy(), value) for name, value in arrays.items())


@pytest.mark.parametrize("kind", ["f4", "f8", "f2", "u1", "i4", "i1", "i8"])
def test_every_element_type_is_read(tmp_path: Path, kind: str) -> None:
    value = np.array([[1, 2], [3, 100]], dtype=kind)
    assert np.array_equal(read_params(write(tmp_path / "x.params", {"a": value}))["a"].numpy(), value)


def test_a_file_cut_anywhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.params", {"arg:a": np.ones((2, 2), dtype="f4")}).read_bytes()
    for end in range(len(whole)):
        (tmp_path / "cut.params").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cut\.params: ends after"):
            read_params(tmp_path / "cut.params")


def test_another_format_and_a_sparse_array_are_errors(tmp_path: Path) -> None:
    (tmp_path / "x.params").write_bytes(b"PK\3\4" + bytes(40))
    with pytest.raises(ValueError, match=r"begins with 0x4034b50; .* begins with 0x112"):
        read_params(tmp_path / "x.params")
    sparse = struct.pack("<QQQIi", 0x112, 0, 1, 0xF993FAC9, 1)
    (tmp_path / "y.params").write_bytes(sparse + bytes(64))
    with pytest.raises(ValueError, match=r"y\.params: a sparse array"):
        read_params(tmp_path / "y.params")
    (tmp_path / "z.params").write_bytes(struct.pack("<QQQI", 0x112, 0, 1, 0xF9930000) + bytes(64))
    with pytest.raises(ValueError, match=r"array version 0xf9930000 is not known"):
        read_params(tmp_path / "z.params")


def released(name: str) -> str:
    """The released spelling of one of our names."""
    leaves = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}
    part, *rest = name.removeprefix("trunk.").split(".")
    if part == "head":
        return f"arg:{rest[0]}_{rest[1]}"
    kind = "aux" if rest[-1].startswith("running") else "arg"
    if part in ("conv1", "bn1"):
        return f"{kind}:conv1_weight" if part == "conv1" else f"{kind}:bn_conv1_{leaves[rest[-1]]}"
    stage, block, layer = int(part[-1]) + 1, int(rest[0]), rest[1]
    deep = stage in (3, 4) and block > 0
    place = f"{stage}b{block}" if deep else f"{stage}{'abc'[block]}"
    branch = "1" if layer == "downsample" else "2" + "abc"[int(layer[-1]) - 1]
    if layer.startswith("bn") or (layer == "downsample" and rest[2] == "1"):
        return f"{kind}:bn{place}_branch{branch}_{leaves[rest[-1]]}"
    return f"arg:res{place}_branch{branch}_{'offset_' if 'offset' in rest else ''}{rest[-1]}"


def test_a_released_deformable_deeplab_loads_whole(tmp_path: Path) -> None:
    def net() -> DeepLab:
        narrow = ResNet(Deform, depths=(3, 4, 6, 3), widths=(4, 4, 4, 4), style="caffe", norm="frozen", frozen_stages=2)
        return DeepLab(narrow, 3)

    torch.manual_seed(1)
    state = {k: torch.rand_like(v) for k, v in net().state_dict().items() if "num_batches" not in k}
    arrays = {released(k): v.numpy() for k, v in state.items()} | {
        "arg:upsampling_weight": np.ones((3, 1, 32, 32), "f4")
    }
    model = net()
    report = load_weights(model, write(tmp_path / "dcn_deeplab-0012.params", arrays, legacy))
    assert (report.missing, report.unused) == ((), ("arg:upsampling_weight",))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
