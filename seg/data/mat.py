"""A reader of the masks in SBD's .mat files: the field Segmentation of a struct, in MATLAB's format 5.

Our own, because scipy's loadmat ends the whole process on some damaged files. Layout, little-endian: a header of 128
bytes, then elements, each a uint32 type, a uint32 size, the content, and zeros up to 8 bytes; an element of at most 4
bytes has both in two uint16, and its content beside them. A matrix is an element of elements: flags, dimensions, name,
and then values in column order, or, of a struct, the names of the fields and a matrix for each.
"""

import struct
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seg.data.images import max_pixels
from seg.errors import DataError

HEADER, LITTLE_ENDIAN = 128, b"IM"
MATRIX, COMPRESSED = 14, 15  # types of elements
STRUCT, NUMBERS = 2, range(6, 16)  # classes of matrices
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def read_mat(path: Path, variable: str) -> NDArray[np.uint8]:
    """Segmentation of the struct `variable`, uint8 [H, W]; raises DataError for anything else."""
    try:
        data = path.read_bytes()
        if data[HEADER - 2 : HEADER] != LITTLE_ENDIAN:
            raise ValueError("the file is not in MATLAB's format 5, little-endian")
        return _ids(_field(_variable(data[HEADER:], variable), "Segmentation"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, struct.error, zlib.error) as error:
        raise DataError(f"{path}: no {variable}.Segmentation can be read ({error}); fetch the file again") from None


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        start, end = at + 8, at + 8 + size
        at = end if kind == COMPRESSED else end + -size % 8
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            start, at = start - 4, start
            end = start + size
            if size > 4:
                raise ValueError(f"an element of {size} bytes in 4")
        if end > len(data):
            raise ValueError("it ends early")
        yield kind, data[start:end]


def _variable(data: bytes, name: str) -> list[bytes]:
    """The parts of the variable's matrix."""
    for kind, content in _elements(data):
        if kind == COMPRESSED:
            kind, content = next(_elements(_unpacked(content)), (0, b""))
        parts = _parts(content) if kind == MATRIX else []
        if len(parts) > 2 and parts[2] == name.encode():
            return parts
    raise ValueError(f"it holds no {name}")


def _unpacked(content: bytes) -> bytes:
    most = 8 * max_pixels() + 2**20  # values of 8 bytes, and what else there is
    stream = zlib.decompressobj()
    data = stream.decompress(content, most)
    if not stream.eof:
        raise ValueError(f"it unpacks to more than {most} bytes" if stream.unconsumed_tail else "it ends early")
    return data


def _parts(matrix: bytes) -> list[bytes]:
    return [content for _, content in _elements(matrix)]


def _field(parts: list[bytes], name: str) -> bytes:
    """The matrix of a struct's field."""
    flags, _, _, length, names = [*parts, b"", b"", b""][:5]
    width = int.from_bytes(length, "little")
    if flags[:1] != bytes([STRUCT]) or not 0 < width <= 64:
        raise ValueError("it is no struct")
    fields = [names[at : at + width].rstrip(b"\0") for at in range(0, len(names), width)]
    matrices = parts[5:]
    if fields.count(name.encode()) != 1 or len(matrices) != len(fields):
        raise ValueError(f"the struct has {len(matrices)} values for the fields {fields}")
    return matrices[fields.index(name.encode())]


def _ids(matrix: bytes) -> NDArray[np.uint8]:
    """The values of a matrix, which have to be whole numbers from 0 to 255."""
    parts = list(_elements(matrix))
    if len(parts) != 4 or not parts[0][1] or parts[0][1][0] not in NUMBERS or parts[3][0] not in TYPES:
        raise ValueError("it is no matrix of numbers")
    shape = np.frombuffer(parts[1][1], "<i4")
    values = np.frombuffer(parts[3][1], "<" + TYPES[parts[3][0]])
    if len(shape) != 2 or shape.min() < 1 or prod(shape.tolist()) != len(values):
        raise ValueError(f"{len(values)} values in a matrix of {shape.tolist()}")
    if not np.all((values >= 0) & (values <= 255) & (np.floor(values) == values)):
        raise ValueError("values that are no ids from 0 to 255")
    return values.reshape(tuple(shape), order="F").astype(np.uint8)
