"""The one door for pictures: every kind of file as a page would show it, or one sentence."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from openvlt.data.images import image_size, open_image
from openvlt.errors import UserError
from openvlt.types import EncodedImage

HALVES = np.zeros((12, 20, 3), np.uint8)
HALVES[:6, :10] = (250, 20, 20)  # red, green above blue, white
HALVES[:6, 10:] = (20, 250, 20)
HALVES[6:, :10] = (20, 20, 250)
HALVES[6:, 10:] = 250
UPRIGHT = Image.fromarray(HALVES)
STORED = {  # EXIF orientation -> how a camera stores the upright picture
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(image: Image.Image, form: str, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def shown(data: bytes) -> np.ndarray:
    return np.asarray(open_image(EncodedImage(data), "q1")).astype(int)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# --- orientation -----------------------------------------------------------------------------------------------------


def turned_file(value: int, form: str) -> bytes:
    turn = STORED[value]
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(form, {})
    if form == "TIFF-lzw":
        form, options = "TIFF", {"compression": "tiff_lzw"}
    return encode(UPRIGHT if turn is None else UPRIGHT.transpose(turn), form, exif=exif.tobytes(), **options)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "TIFF-lzw"])
@pytest.mark.parametrize("value", STORED)
def test_a_picture_stands_upright_whatever_its_orientation_and_format(tmp_path, value, form):
    data = turned_file(value, form)
    (tmp_path / "a").write_bytes(data)
    for image in (EncodedImage(data), tmp_path / "a", Image.open(BytesIO(data))):
        assert image_size(image, "q1") == (20, 12)
        opened = open_image(image, "q1")
        assert opened.size == (20, 12)
        assert np.abs(np.asarray(opened).astype(int) - HALVES).mean() < 12  # JPEG blurs the edges


def test_an_opened_picture_is_not_turned_a_second_time():
    opened = open_image(EncodedImage(turned_file(6, "JPEG")), "q1")
    again = open_image(opened, "q1")
    assert again.size == (20, 12) and again.tobytes() == opened.tobytes() and not opened.getexif()


def test_a_png_may_hold_its_orientation_behind_the_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(UPRIGHT.transpose(Image.Transpose.ROTATE_90), "PNG")
    end = data.index(b"IEND") - 4
    late = data[:end] + png_chunk(b"eXIf", exif.tobytes()[6:]) + data[end:]
    (tmp_path / "late.png").write_bytes(late)
    assert image_size(tmp_path / "late.png", "q1") == (20, 12)
    assert np.array_equal(shown(late), HALVES)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_unknown_orientation_is_upright_and_broken_exif_breaks_no_picture(value):
    exif = Image.Exif()
    exif[0x0112] = value
    assert np.array_equal(shown(encode(UPRIGHT, "PNG", exif=exif.tobytes())), HALVES)
    broken = encode(UPRIGHT, "PNG", exif=b"Exif\0\0II*\0nonsense" + bytes([value % 256]))
    assert np.array_equal(shown(broken), HALVES) and image_size(EncodedImage(broken), "q1") == (20, 12)


def test_the_size_is_read_from_the_head_alone(tmp_path):
    for form in ("JPEG", "PNG", "TIFF"):
        data = encode(Image.effect_noise((300, 200), 90).convert("RGB"), form)
        (tmp_path / "half").write_bytes(data[: len(data) // 2])
        assert image_size(tmp_path / "half", "q1") == (300, 200)
        with pytest.raises(UserError, match="row 'q1': image .*half can't be read"):
            open_image(tmp_path / "half", "q1")


# --- pixels ----------------------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 1, 400).reshape(10, 40)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_gray_of_more_than_8_bits_keeps_its_steps(bits, form):
    wide = np.round(RAMP * (2**bits - 1)).astype(np.uint16)
    found = shown(encode(Image.fromarray(wide), form))
    assert np.abs(found - 255 * RAMP[..., None]).max() <= 1.5


@pytest.mark.parametrize(
    ("dtype", "top"),
    [(np.int32, 255), (np.int32, 65535), (np.float32, 1), (np.float32, 255), (np.float32, 65535)],
)
def test_32_bit_gray_is_scaled_by_its_range(dtype, top):
    wide = (RAMP * top).astype(dtype)
    assert np.abs(shown(encode(Image.fromarray(wide), "TIFF")) - 255 * RAMP[..., None]).max() <= 1.5


@pytest.mark.parametrize("value", [-1.0, 70000.0, np.nan, np.inf])
def test_gray_of_an_unknown_range_is_refused_by_name(value):
    wide = RAMP.astype(np.float32)
    wide[0, 0] = value
    with pytest.raises(UserError, match=r"row 'q1': .*its gray values go from .* save it with 8 or 16 bits"):
        shown(encode(Image.fromarray(wide), "TIFF"))


def test_big_endian_gray_and_16_bit_transparency():
    wide = np.round(RAMP * 65535).astype(np.uint16)
    big = Image.frombytes("I;16B", (40, 10), wide.astype(">u2").tobytes())
    assert np.abs(np.asarray(open_image(big, "q1")).astype(int) - 255 * RAMP[..., None]).max() <= 1.5
    clear = shown(encode(Image.fromarray(wide), "PNG", transparency=0))
    assert clear[0, 0].tolist() == [255] * 3 and clear[0, 1].max() < 3


def test_a_tiff_may_say_that_0_is_white():
    wide = np.round(RAMP * 65535).astype(np.uint16)
    found = shown(encode(Image.fromarray(wide), "TIFF", tiffinfo={262: 0}))
    assert np.abs(found - 255 * (1 - RAMP[..., None])).max() <= 1.5


def transparent(mode: str) -> Image.Image:
    """Left half clear black, right half opaque red or gray."""
    rgba = np.zeros((4, 8, 4), np.uint8)
    rgba[:, 4:] = (200, 0, 0, 255)
    image = Image.fromarray(rgba)
    if mode == "P":
        return image.quantize(4, Image.Quantize.FASTOCTREE)
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "form"), [(m, f) for m in ("RGBA", "LA", "P") for f in ("PNG", "TIFF", "WEBP", "GIF")]
)
def test_transparent_parts_are_white(mode, form):
    if (mode, form) in (("P", "TIFF"), ("LA", "GIF"), ("P", "GIF")):  # these formats have no such kind
        mode = "RGBA"
    options = {"lossless": True} if form == "WEBP" else {}
    found = shown(encode(transparent(mode), form, **options))
    assert found[0, 0].tolist() == [255] * 3
    assert found[0, 7].max() <= 210 and found[0, 7, 1] <= 70


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa"])
def test_rare_transparent_modes_are_shown_on_white(mode):
    if mode == "PA":
        image = transparent("RGBA").convert("RGB").quantize(4)
        image.putalpha(transparent("RGBA").getchannel("A"))
    else:
        image = transparent("LA" if mode == "La" else "RGBA").convert(mode)
    assert image.mode == mode
    found = np.asarray(open_image(image, "q1"))
    assert found[0, 0].tolist() == [255] * 3 and found[0, 7, 1] < 210


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_look_as_their_rgb(mode):
    image = UPRIGHT.convert(mode)
    found = np.asarray(open_image(image, "q1")).astype(int)
    assert np.array_equal(found, np.asarray(image.convert("RGB")))
    if mode != "1":
        assert (found[0, 0] != found[11, 19]).any()


def test_a_jpeg_in_cmyk_is_no_negative():
    found = shown(encode(UPRIGHT.convert("CMYK"), "JPEG", quality=95))
    assert found[11, 19].min() > 230 and found[1, 1].argmax() == 0 and found[10, 1].argmax() == 2


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_shown(form):
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    found = shown(encode(frames[0], form, save_all=True, append_images=frames[1:], **options))
    assert found.shape == (4, 6, 3) and found[0, 0].tolist() == [255, 0, 0]


def test_of_an_apng_with_a_picture_for_old_readers_the_animation_is_shown():
    old, first, second = (Image.new("RGB", (6, 4), color) for color in ("gray", "red", "blue"))
    data = encode(old, "PNG", save_all=True, append_images=[first, second], default_image=True)
    assert shown(data)[0, 0].tolist() == [255, 0, 0] and image_size(EncodedImage(data), "q1") == (6, 4)


# --- too large, and no picture at all --------------------------------------------------------------------------------


def with_jpeg_size(width: int, height: int) -> bytes:
    """A small JPEG whose head says that it is larger; its pixels end early."""
    data = encode(Image.new("L", (8, 8)), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def test_a_jpeg_over_pillows_limit_is_decoded_smaller(monkeypatch):
    data = encode(UPRIGHT.resize((200, 120)), "JPEG", quality=95)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    opened = open_image(EncodedImage(data), "q1")
    assert opened.size == image_size(EncodedImage(data), "q1") == (25, 15)
    assert np.asarray(opened)[1, 1].argmax() == 0 and np.asarray(opened)[13, 23].min() > 200
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = EncodedImage(encode(UPRIGHT.resize((200, 120)), "JPEG", exif=exif))
    assert open_image(turned, "q1").size == image_size(turned, "q1") == (15, 25)


def test_what_can_not_be_shrunk_is_refused_with_the_numbers(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    png = EncodedImage(encode(Image.new("1", (3000, 1000)), "PNG"))
    with pytest.raises(
        UserError, match=r"it has 3 million pixels, at most 2 million can be decoded; shrink it"
    ):
        image_size(png, "q1")
    jpeg = EncodedImage(with_jpeg_size(10000, 9000))
    with pytest.raises(
        UserError, match=r"it is 10000 x 9000 pixels large, 90 million pixels; of a JPEG at most 64"
    ):
        open_image(jpeg, "q1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer of Git LFS.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>404</html>", "it is a web page"),
        (b"\xef\xbb\xbf<html>Not found", "it is a web page"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "it is PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "it is a HEIC photo"),
        (b"PK\x03\x04....", "it is a zip archive"),
        (b'{"error": "rate limit"}', "it is JSON text"),
        (b"hello", "it is no picture in a known format"),
        (encode(UPRIGHT, "JPEG")[:400], "can't be read"),
        (encode(Image.effect_noise((64, 64), 50), "JPEG")[:2000], "image file is truncated"),
        (encode(UPRIGHT, "BMP")[:300], "can't be read"),
        (encode(Image.effect_noise((64, 64), 50), "GIF")[:900], "can't be read"),
        (encode(UPRIGHT, "WEBP")[:60], "can't be read"),
        (encode(Image.effect_noise((64, 64), 50), "TIFF")[:2000], "can't be read"),
        (encode(Image.effect_noise((64, 64), 50), "JPEG2000")[:900], "can't be read"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"row 'q1': image {tmp_path}/a\.jpg .*{message}"):
        open_image(tmp_path / "a.jpg", "q1")
    with pytest.raises(UserError, match="row 'q1': the image in the row"):
        open_image(EncodedImage(content), "q1")


def test_folders_missing_files_and_empty_pictures(tmp_path):
    with pytest.raises(UserError, match="it is a folder"):
        open_image(tmp_path, "q1")
    with pytest.raises(UserError, match="does not exist"):
        open_image(tmp_path / "none.png", "q1")
    for size in ((0, 5), (5, 0)):
        with pytest.raises(UserError, match=rf"it is {size[0]} x {size[1]} pixels large"):
            open_image(Image.new("RGB", size), "q1")
