"""Decoding of image and mask files, by PIL: what can't be read as it was meant is a DataError that names the file.

PIL because it stops at a truncated file and gives the class ids of a palette image; OpenCV returns a full picture for
a truncated JPEG, turns images by their EXIF orientation and looks up the palette's colours.
"""

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from seg.data.sample import Array
from seg.errors import DataError

MAX_PIXELS = 100_000_000  # 10,000 x 10,000; a file of a few kB can unpack to more than the memory holds
BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, MemoryError)
ORIENTATION = 0x0112  # EXIF tag
BITS_PER_SAMPLE = 0x0102  # TIFF tag, a number for each channel
GREYSCALE_OR_COLOUR = ("RGB", "L", "1", "P", "LA", "PA", "RGBA", "RGBX")


def read_image(path: Path | str, *, upright: bool = False) -> NDArray[np.uint8]:
    """An image file as uint8 [H, W, 3], RGB.

    Greyscale, palette and transparent images are converted (transparency is dropped). CMYK and other colour spaces
    are not, since the colours would depend on a profile, nor is anything with more than 8 bits a channel.

    upright: turn the picture by its EXIF orientation; otherwise an orientation is an error, because nothing tells
             whether the mask was drawn before or after the turn
    raises:  DataError
    """
    with _opened(path) as image:
        if image.mode not in GREYSCALE_OR_COLOUR:
            raise DataError(
                f"{path}: mode {image.mode}, expected 8-bit RGB or greyscale; convert it to RGB and save it"
            )
        if _bits(image) > 8:
            raise DataError(f"{path}: {_bits(image)} bits a channel, expected 8; convert it to 8 bits and save it")
        orientation = image.info.get("turned", image.getexif().get(ORIENTATION, 1))
        if upright:
            image = ImageOps.exif_transpose(image)
        elif orientation not in (0, 1):
            raise DataError(
                f"{path}: EXIF orientation {orientation} turns or mirrors the picture when shown, so it may not fit "
                "its mask; turn the pixels and remove the tag, for instance with PIL.ImageOps.exif_transpose"
            )
        return np.array(image.convert("RGB"))


def read_mask(path: Path | str, *, colours: bool = False) -> NDArray[np.uint8]:
    """A mask file as uint8 [H, W]: class ids (a palette's indices, not its colours).

    colours: read an RGB or RGBA file too, as its colours uint8 [H, W, 3]
    raises:  DataError for anything but 8-bit greyscale or palette images, lossy formats included
    """
    in_colour = ("RGB", "RGBA") if colours else ()
    with _opened(path) as image:
        _require_ids(path, image, ("P", "L", "1", *in_colour), "8-bit palette or greyscale")
        return np.array(image.convert("RGB") if image.mode in in_colour else image).astype(np.uint8)


def read_objects(path: Path | str) -> Array:
    """An object mask as uint8, uint16 or int32 [H, W], by the file's encoding; ids as they are in the file.

    raises: DataError
    """
    with _opened(path) as image:
        _require_ids(path, image, ("P", "L", "1", "I;16", "I;16L", "I;16B", "I"), "palette or greyscale")
        objects = np.array(image)
        return objects.astype(np.uint8) if image.mode == "1" else objects


def encoding(path: Path | str) -> str:
    """How a file is encoded, in words: "PNG palette", "JPEG RGB"; raises DataError if it can't be told."""
    words = {"P": "palette", "L": "grey", "1": "black and white", "I": "grey 16 or 32 bits", "I;16": "grey 16 bits"}
    with _opened(path, load=False) as image:
        return f"{image.format} {words.get(image.mode, image.mode)}"


def image_size(path: Path | str) -> tuple[int, int]:
    """Height and width from the file's header."""
    with _opened(path, load=False) as image:
        return image.height, image.width


def max_pixels() -> int:
    """The largest image that is read, in pixels: SEG_MAX_PIXELS or MAX_PIXELS."""
    value = os.environ.get("SEG_MAX_PIXELS", str(MAX_PIXELS))
    if not value.isdigit() or int(value) < 1:
        raise DataError(f"SEG_MAX_PIXELS={value!r}: a positive number of pixels is needed")
    return int(value)


@contextmanager
def _opened(path: Path | str, *, load: bool = True) -> Iterator[Image.Image]:
    """The decoded image; every way in which that can fail becomes a DataError. PIL's own limit gives way to ours."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels():
                raise DataError(
                    f"{path}: {image.width}x{image.height} px is more than {max_pixels()} pixels; if the file is "
                    "sound, set the environment variable SEG_MAX_PIXELS"
                )
            if load:
                if image.format == "PNG":
                    _require_check_sums(path)
                if isinstance(image, TiffImageFile):  # PIL turns it as it loads it, and forgets the tag
                    image.info["turned"] = image.tag_v2.get(ORIENTATION, 1)
                image.load()
            yield image
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except BROKEN as error:
        raise DataError(f"{path}: {_what_is_wrong(path, error)}") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _require_check_sums(path: Path | str) -> None:
    """Raises ValueError if a PNG's pixels are not as they were written: PIL takes a damaged end of them as it is."""
    with open(path, "rb") as file:
        file.read(8)  # the signature
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            content, written = file.read(length), file.read(4)
            needed = kind[:1].isupper()  # so the format marks what a picture can't be shown without
            if needed and zlib.crc32(content, zlib.crc32(kind)).to_bytes(4, "big") != written:
                raise ValueError(f"wrong check sum in its part {kind.decode('latin-1')!r}")
            if kind == b"IEND":
                return


def _what_is_wrong(path: Path | str, error: Exception) -> str:
    if isinstance(error, PermissionError | IsADirectoryError):
        return f"can't be read ({error.strerror})"
    start = _first_bytes(path)
    if not start:
        return "the file is empty; fetch it again"
    if start.lstrip()[:1] == b"<":
        return "the file is a web page or XML, not an image; the download probably failed, fetch it again"
    if start.startswith(b"version https://git-lfs"):
        return "the file is a Git LFS pointer, not an image; run git lfs pull"
    if isinstance(error, UnidentifiedImageError):
        return f"not an image in a known format (begins with {start[:8]!r})"
    return f"the image is damaged or cut off ({error}); fetch it again"


def _first_bytes(path: Path | str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(64)
    except OSError:
        return b"?"


def _bits(image: Image.Image) -> int:
    """Bits per channel in the file: PIL reads RGB of 16 bits as 8 without a word."""
    if isinstance(image, TiffImageFile):
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (8,)))
    png_depth = _first_bytes(image.filename)[24:25] if image.format == "PNG" and hasattr(image, "filename") else b""
    return png_depth[0] if png_depth else 8


def _require_ids(path: Path | str, image: Image.Image, modes: tuple[str, ...], expected: str) -> None:
    if image.format not in ("PNG", "TIFF", "BMP", "GIF"):
        raise DataError(f"{path}: a mask in {image.format}, which may change values; save masks as PNG")
    if image.mode not in modes:
        hint = (
            "; ids can't be told from colours: write each pixel's id into a palette or greyscale PNG, or, for "
            "data=folder, each class's colour into classes.txt (NAME R G B)"
        )
        if image.mode.startswith("I"):
            hint = "; write the class ids as 8-bit values"
        raise DataError(f"{path}: a mask of mode {image.mode}, expected {expected}{hint}")
    if image.info.get("turned", 1) != 1:
        raise DataError(f"{path}: a mask that a tag turns when it is shown; save it as PNG, turned as its image")
    if image.mode == "L" and _bits(image) in (2, 4):
        raise DataError(f"{path}: {_bits(image)}-bit greyscale, whose values decoders rescale; save it with 8 bits")
    if image.mode in ("RGB", "RGBA") and _bits(image) > 8:
        raise DataError(f"{path}: {_bits(image)} bits a channel, expected 8; save the mask with 8 bits")
