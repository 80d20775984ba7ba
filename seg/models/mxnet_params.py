"""A reader of MXNet's .params files: names and arrays, without MXNet.

Layout, little-endian: uint64 0x112, uint64 reserved, uint64 count, that many arrays, uint64 count, that many names
(uint64 length, bytes). An array: its version and shape, int32 device type and number, int32 element type, raw values.
The version decides how the shape is written; the oldest files have no version, and begin with the number of dimensions.
"""

import struct
from io import BytesIO
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from seg.errors import DataError

LIST = 0x112
VERSION_1, VERSION_2, VERSION_3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
LARGEST = 2**31  # cells along one axis
TYPES = ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")


def read_params(path: str | Path) -> dict[str, Tensor]:
    """Every array of the file by its name there ("arg:..." weights, "aux:..." running statistics).

    raises: DataError (a ValueError) for another format, a sparse array, or a file that ends early
    """
    stream = BytesIO(Path(path).read_bytes())
    try:
        magic, _, count = _numbers(stream, "QQQ")
        if magic != LIST:
            raise DataError(f"{path}: begins with {magic:#x}; an MXNet parameter file begins with {LIST:#x}")
        arrays = [_array(stream, path) for _ in range(count)]
        (names,) = _numbers(stream, "Q")
        if names != count:
            raise DataError(f"{path}: {count} arrays but {names} names; save it with named arrays")
        keys = [_take(stream, _numbers(stream, "Q")[0]).decode() for _ in range(names)]
    except EOFError as error:
        raise DataError(f"{path}: ends after {stream.tell()} bytes, in the middle of a value; is it whole?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: the name before byte {stream.tell()} is no text; the file is damaged") from error
    if len(set(keys)) < len(keys):
        raise DataError(f"{path}: {len(keys)} arrays share {len(set(keys))} names; the file is damaged")
    return dict(zip(keys, arrays, strict=True))


def _array(stream: BytesIO, path: str | Path) -> Tensor:
    shape = _shape(stream, path)
    if any(not 0 <= size < LARGEST for size in shape):
        raise DataError(f"{path}: an array of shape {shape} before byte {stream.tell()}; the file is damaged")
    if not shape:
        return torch.empty(0)  # MXNet writes nothing more for an array without a shape
    _, _, kind = _numbers(stream, "iii")
    if not 0 <= kind < len(TYPES):
        raise DataError(f"{path}: element type {kind} at byte {stream.tell() - 4}; known are 0 to {len(TYPES) - 1}")
    dtype = np.dtype(TYPES[kind])
    values = np.frombuffer(_take(stream, prod(shape) * dtype.itemsize), dtype).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))


def _shape(stream: BytesIO, path: str | Path) -> tuple[int, ...]:
    (version,) = _numbers(stream, "I")
    if version not in (VERSION_1, VERSION_2, VERSION_3):
        return _numbers(stream, f"{version}I") if version <= 32 else _unknown(version, path)
    if version != VERSION_1:
        (storage,) = _numbers(stream, "i")
        if storage not in (-1, 0):
            raise DataError(f"{path}: a sparse array (storage {storage}); only dense ones can be read")
    (dimensions,) = _numbers(stream, "i")
    return _numbers(stream, f"{dimensions}q") if 0 <= dimensions <= 32 else _unknown(version, path)


def _unknown(version: int, path: str | Path) -> tuple[int, ...]:
    raise DataError(
        f"{path}: array version {version:#x} is not known, or has more than 32 axes; is this a .params file?"
    )


def _numbers(stream: BytesIO, layout: str) -> tuple[int, ...]:
    return struct.unpack("<" + layout, _take(stream, struct.calcsize("<" + layout)))


def _take(stream: BytesIO, count: int) -> bytes:
    """The next `count` bytes; EOFError if there are fewer."""
    if count > stream.getbuffer().nbytes - stream.tell():
        raise EOFError
    return stream.read(count)
