"""Whatever the bytes of a file are, its reader gives what is in it or a DataError: no crash, no hang, no wrong success.

`make soak` runs many more inputs: SEG_FUZZ is their number for each reader; `-rP` shows how many of them were refused.
"""

import io
import os
import struct
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from seg.data.files import read_ids
from seg.data.images import read_image, read_mask, read_objects
from seg.data.mat import read_mat
from seg.engine import checkpoint
from seg.errors import DataError
from seg.models.mxnet_params import read_params
from seg.models.pretrained import read_weights

INPUTS = int(os.environ.get("SEG_FUZZ", "60"))
SECONDS = 20  # a reader that takes longer hangs; all of these files are small
PICTURE = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
IDS = (PICTURE[..., 0] % 21).astype(np.uint8)
WEIGHTS = {"conv.weight": torch.arange(24.0).view(2, 3, 2, 2), "bn.bias": torch.ones(2)}
STATE = {"model": WEIGHTS, "step": 7, "random": {"python": [3, [1, 2, 3], None]}}


def image_bytes(pixels: np.ndarray, kind: str, **keywords: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **keywords)
    return file.getvalue()


def mat_bytes(compress: bool) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, {"GTcls": {"Segmentation": IDS}}, do_compression=compress)
    return file.getvalue()


def params_bytes() -> bytes:
    value = np.arange(6, dtype="<f4")
    array = struct.pack("<Iii2qiii", 0xF993FAC9, 0, 2, 2, 3, 1, 0, 0) + value.tobytes()
    return struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, 5) + b"arg:a"


def torch_bytes(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


SEEDS: dict[str, list[bytes]] = {
    "png": [image_bytes(PICTURE, "PNG"), image_bytes(PICTURE, "PNG", compress_level=0)],
    "image": [image_bytes(PICTURE, kind) for kind in ("JPEG", "BMP", "TIFF", "WEBP", "PPM", "GIF")],
    "mask": [image_bytes(IDS, "PNG"), image_bytes(IDS, "PNG", compress_level=0)],
    "objects": [image_bytes(IDS.astype(np.uint16) * 300, "PNG")],
    "ids": [b"2007_000001\n2007_000002\n", b"\xef\xbb\xbfa/b c\r\n\r\n d.e \r\n"],
    "mat": [mat_bytes(False), mat_bytes(True)],
    "params": [params_bytes()],
    "weights": [torch_bytes(WEIGHTS)],
    "safetensors": [save(WEIGHTS)],
    "checkpoint": [torch_bytes(STATE)],
    "foreign checkpoint": [torch_bytes(STATE)],
}
# pieces that steer a mutation to where readers go wrong
PIECES = [b"../", b"..\\", b"/", b"\0", b"\n", b"\xff" * 8, bytes(8), b"\x00\x00\x00\x80", b"\x7f\xff\xff\xff", b"IEND"]


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """A file with some bytes changed, cut out, cut off, doubled or put in; or any bytes at all."""
    place = st.floats(0, 1, exclude_max=True)
    piece = st.sampled_from(PIECES) | st.binary(min_size=1, max_size=12)
    change = st.tuples(st.sampled_from(["replace", "insert", "delete", "cut", "double", "flip"]), place, piece)
    changes = st.tuples(st.sampled_from(seeds), st.lists(change, min_size=1, max_size=4))
    return st.one_of(changes.map(lambda drawn: apply(*drawn)), st.binary(max_size=64))


def apply(data: bytes, changes: list[tuple[str, float, bytes]]) -> bytes:
    for what, share, piece in changes:
        at, size = int(share * len(data)), len(piece)
        before, after = data[:at], data[at:]
        if what == "replace":
            data = before + piece + after[size:]
        elif what == "insert":
            data = before + piece + after
        elif what == "delete":
            data = before + after[size:]
        elif what == "cut":
            data = before
        elif what == "double":
            data = before + after[: 4 * size] + after
        elif after:
            data = before + bytes([after[0] ^ (1 << size % 8)]) + after[1:]
    return data


def same_picture(found: np.ndarray, data: bytes) -> bool:
    return np.array_equal(found, PICTURE)  # a PNG has check sums: what can be read is what was written


def a_picture(found: np.ndarray, data: bytes) -> bool:
    return found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 and found.size > 0


def same_ids(found: np.ndarray, data: bytes) -> bool:
    return found.dtype == np.uint8 and np.array_equal(found, IDS)


def same_objects(found: np.ndarray, data: bytes) -> bool:
    return np.array_equal(found, IDS.astype(np.uint16) * 300)


def safe_ids(found: list[str], data: bytes) -> bool:
    inside = all((Path("/data") / one).resolve().is_relative_to("/data") for one in found)
    return inside and len(set(found)) == len(found) > 0 and all(one == one.strip() != "" for one in found)


def a_mask(found: np.ndarray, data: bytes) -> bool:
    return found.dtype == np.uint8 and found.ndim == 2


def tensors(found: dict[str, torch.Tensor], data: bytes) -> bool:
    stored = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in found.values()}
    return all(isinstance(name, str) for name in found) and sum(stored.values()) <= len(data)


def same_state(found: dict[str, Any], data: bytes) -> bool:
    return data == SEEDS["checkpoint"][0]  # there is a hash beside it


def a_state(found: dict[str, Any], data: bytes) -> bool:
    return isinstance(found, dict) and "model" in found


def read_as_mat(path: Path) -> np.ndarray:
    return read_mat(path, "GTcls")


READERS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Any, bytes], bool]]] = {
    "png": (".png", read_image, same_picture),
    "image": (".jpg", read_image, a_picture),
    "mask": (".png", read_mask, same_ids),
    "objects": (".png", read_objects, same_objects),
    "ids": (".txt", read_ids, safe_ids),
    "mat": (".mat", read_as_mat, a_mask),
    "params": (".params", read_params, tensors),
    "weights": (".pth", read_weights, tensors),
    "safetensors": (".safetensors", read_weights, tensors),
    "checkpoint": (".pt", checkpoint.load, same_state),
    "foreign checkpoint": (".pt", checkpoint.load, a_state),  # without a hash
}


def prepared(reader: str, folder: Path) -> Path:
    """Where the reader's file will be; of a checkpoint there is a hash beside it."""
    path = folder / f"file{READERS[reader][0]}"
    if reader == "checkpoint":
        path.write_bytes(SEEDS[reader][0])
        path.with_suffix(".sha256").write_text(f"{checkpoint.file_hash(path)}  {path.name}\n")
    return path


def outcome(reader: str, path: Path, data: bytes) -> str:
    """What became of these bytes, "read" or "refused"; anything else fails."""
    _, read, right = READERS[reader]
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # libraries warn of what they repair
        try:
            found = read(path)
        except DataError as error:
            assert path.name in str(error)  # noqa: PT017 - either outcome is right
            return "refused"
    assert right(found, data)
    return "read"


@pytest.mark.fault(32)
@pytest.mark.fault(41)
@pytest.mark.fault(50)
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", READERS)
def test_a_reader_survives_any_bytes(reader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEG_MAX_PIXELS", "1000000")
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = prepared(reader, Path(folder))

        @settings(max_examples=INPUTS, deadline=1000 * SECONDS, database=None, suppress_health_check=list(HealthCheck))
        @given(mutated(SEEDS[reader]))
        def survives(data: bytes) -> None:
            outcomes[outcome(reader, path, data)] += 1

        survives()
        print(f"{reader}: {outcomes.total()} inputs, {outcomes['refused']} refused, {outcomes['read']} read")
