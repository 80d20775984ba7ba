import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seg.data.images import encoding, image_size, read_image, read_mask, read_objects
from seg.errors import DataError

Picture = Callable[..., np.ndarray]


def as_file(picture: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, kind)
    return buffer.getvalue()


def grey_png(width: int, height: int, *, bits: int, data: bytes) -> bytes:
    """A greyscale PNG put together by hand; data: the rows, each after its filter byte."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def test_a_png_is_read_bit_for_bit(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "a.png").write_bytes(as_file(picture(), "PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture())


@pytest.mark.fault(32)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_fault_32_a_truncated_image_is_refused_by_name(
    tmp_path: Path, picture: Picture, kind: str, share: float
) -> None:
    data = as_file(picture(120, 160), kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=str(path)) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"\n <!DOCTYPE html><html><body>404</body></html>", "a web page or XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"once upon a time", "not an image in a known format"),
        (b"\xff\xd8\xff\xe0", "damaged or cut off|not an image"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_mask, read_objects])
def test_fault_32_what_is_no_image_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, message: str, read: Callable[[Path], np.ndarray]
) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.fault(32)
def test_fault_32_a_bit_flipped_png_is_refused_by_name(tmp_path: Path, picture: Picture) -> None:
    data = bytearray(as_file(picture(60, 80), "PNG"))
    data[len(data) // 2] ^= 0x10
    (tmp_path / "a.png").write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.png"):
        read_image(tmp_path / "a.png")


@pytest.mark.fault(32)
@pytest.mark.parametrize("place", range(1, 24))
def test_fault_32_a_bit_flipped_near_the_end_of_a_png_changes_no_pixel_in_silence(
    tmp_path: Path, picture: Picture, place: int
) -> None:
    pixels = picture(60, 80)
    data = bytearray(as_file(pixels, "PNG"))
    data[-place] ^= 0x10
    (tmp_path / "a.png").write_bytes(bytes(data))
    try:
        found = read_image(tmp_path / "a.png")
    except DataError as error:
        assert "a.png" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert np.array_equal(found, pixels)


def test_a_missing_file_and_a_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.png: no such file"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(DataError, match="can't be read"):
        read_image(tmp_path)


@pytest.mark.fault(33)
def test_fault_33_a_decompression_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(grey_png(50_000, 50_000, bits=1, data=bytes(1000)))
    for read in (read_image, read_mask, read_objects):
        with pytest.raises(DataError, match=r"bomb\.png: 50000x50000 px is more than 100000000 pixels.*SEG_MAX_PIXELS"):
            read(path)


@pytest.mark.fault(33)
def test_fault_33_the_limit_can_be_set_either_way(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(as_file(picture(30, 40), "PNG"))
    monkeypatch.setenv("SEG_MAX_PIXELS", "1199")
    with pytest.raises(DataError, match="40x30 px is more than 1199 pixels"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv("SEG_MAX_PIXELS", "1200")
    assert read_image(tmp_path / "a.png").shape == (30, 40, 3)
    monkeypatch.setenv("SEG_MAX_PIXELS", "many")
    with pytest.raises(DataError, match="SEG_MAX_PIXELS='many'"):
        read_image(tmp_path / "a.png")


def test_pils_own_limit_is_left_as_it_was(tmp_path: Path, picture: Picture) -> None:
    (tmp_path / "a.png").write_bytes(as_file(picture(), "PNG"))
    before = Image.MAX_IMAGE_PIXELS
    read_image(tmp_path / "a.png")
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.fault(34)
@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA"])
def test_fault_34_grey_palette_and_transparent_images_become_rgb(tmp_path: Path, picture: Picture, mode: str) -> None:
    image = Image.fromarray(picture()).convert(mode)
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, np.array(image.convert("RGB")))
    assert read.shape == (30, 40, 3)


@pytest.mark.fault(34)
def test_fault_34_a_cmyk_image_is_refused_with_the_way_out(tmp_path: Path, picture: Picture) -> None:
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "print.jpg")
    with pytest.raises(DataError, match=r"print\.jpg: mode CMYK, expected 8-bit RGB or greyscale; convert it"):
        read_image(tmp_path / "print.jpg")


@pytest.mark.fault(34)
def test_fault_34_sixteen_bit_images_are_refused_grey_or_colour(tmp_path: Path) -> None:
    Image.fromarray(np.full((6, 8), 40_000, dtype=np.uint16)).save(tmp_path / "grey.png")
    with pytest.raises(DataError, match=r"grey\.png: mode I;16, expected 8-bit"):
        read_image(tmp_path / "grey.png")
    for kind in (".png", ".tif"):
        (tmp_path / f"colour{kind}").write_bytes(sixteen_bit_rgb(kind))
        with pytest.raises(DataError, match=rf"colour\{kind}: 16 bits a channel, expected 8"):
            read_image(tmp_path / f"colour{kind}")


def sixteen_bit_rgb(kind: str) -> bytes:
    import cv2

    encoded, data = cv2.imencode(kind, np.full((6, 8, 3), 40_000, dtype=np.uint16))
    assert encoded
    return data.tobytes()


def turned(path: Path, picture: np.ndarray, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(path, exif=exif)


@pytest.mark.fault(35)
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_fault_35_an_image_with_an_exif_turn_is_refused_with_the_way_out(
    tmp_path: Path, picture: Picture, kind: str, orientation: int
) -> None:
    turned(tmp_path / f"phone.{kind}", picture(), orientation)
    with pytest.raises(DataError, match=rf"phone\.{kind}: EXIF orientation {orientation} .*exif_transpose"):
        read_image(tmp_path / f"phone.{kind}")


def test_a_mask_that_a_tag_turns_is_refused(tmp_path: Path) -> None:
    turned(tmp_path / "mask.tif", np.zeros((4, 6), np.uint8), 6)
    for read in (read_mask, read_objects):
        with pytest.raises(DataError, match=r"mask\.tif: a mask that a tag turns"):
            read(tmp_path / "mask.tif")


def test_an_upright_orientation_tag_does_not_matter(tmp_path: Path, picture: Picture) -> None:
    turned(tmp_path / "phone.png", picture(), 1)
    np.testing.assert_array_equal(read_image(tmp_path / "phone.png"), picture())


def test_without_a_mask_an_image_can_be_turned_upright(tmp_path: Path, picture: Picture) -> None:
    turned(tmp_path / "phone.png", picture(), 6)  # 6: the top of the scene is at the right side of the file
    np.testing.assert_array_equal(read_image(tmp_path / "phone.png", upright=True), np.rot90(picture(), -1))


@pytest.mark.fault(36)
def test_fault_36_a_palette_masks_ids_are_read_not_its_colours(
    tmp_path: Path, save_mask: Callable[..., Path], two_objects: np.ndarray
) -> None:
    path = save_mask(tmp_path / "a.png", two_objects)
    np.testing.assert_array_equal(read_mask(path), two_objects)
    np.testing.assert_array_equal(read_objects(path), two_objects)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palette_masks_of_fewer_bits_are_read(tmp_path: Path, bits: int) -> None:
    ids = np.arange(30 * 40).reshape(30, 40).astype(np.uint8) % 2**bits
    image = Image.fromarray(ids, mode="P")
    image.putpalette(list(range(3 * 2**bits)))
    image.save(tmp_path / "a.png", bits=bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), ids)


@pytest.mark.fault(36)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_fault_36_a_mask_of_colours_is_refused_with_a_hint(tmp_path: Path, picture: Picture, mode: str) -> None:
    Image.fromarray(picture()).convert(mode).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=rf"mask\.png: a mask of mode {mode}.*write each pixel's id into a palette"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.fault(36)
def test_fault_36_a_sixteen_bit_mask_is_refused_for_classes_and_read_for_objects(tmp_path: Path) -> None:
    ids = np.array([[0, 255, 26_001], [300, 65_535, 1]], dtype=np.uint16)
    Image.fromarray(ids).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask\.png: a mask of mode I;16.*8-bit values"):
        read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_objects(tmp_path / "mask.png"), ids)


@pytest.mark.fault(36)
def test_fault_36_a_mask_in_a_lossy_format_is_refused(tmp_path: Path, two_objects: np.ndarray) -> None:
    Image.fromarray(two_objects).save(tmp_path / "mask.jpg")
    with pytest.raises(DataError, match=r"mask\.jpg: a mask in JPEG, which may change values; save masks as PNG"):
        read_mask(tmp_path / "mask.jpg")


def test_a_grey_mask_whose_values_decoders_rescale_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(grey_png(2, 1, bits=4, data=b"\x00\x12"))
    with pytest.raises(DataError, match=r"mask\.png: 4-bit greyscale, whose values decoders rescale"):
        read_mask(tmp_path / "mask.png")


def test_the_encoding_and_size_are_told_from_the_header(tmp_path: Path, picture: Picture) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.jpg")
    Image.fromarray(picture()).convert("P").save(tmp_path / "b.png")
    assert (encoding(tmp_path / "a.jpg"), encoding(tmp_path / "b.png")) == ("JPEG RGB", "PNG palette")
    assert image_size(tmp_path / "a.jpg") == (30, 40)
