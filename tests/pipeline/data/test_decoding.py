"""Any image to an RGB square: modes, orientation, crop, filter, and what is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decoding import UndecodableError, decode_square


def _encode(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _decode(data: bytes, size: int) -> np.ndarray:
    image, _ = decode_square(data, size)
    assert image.mode == "RGB"
    assert image.size == (size, size)
    return np.asarray(image)


def _noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_an_image_of_the_asked_size_keeps_its_pixels() -> None:
    image = _noise(16, 16)
    assert np.array_equal(_decode(_encode(image), 16), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(30, 16), (16, 31)])
def test_the_centre_is_cropped(width: int, height: int) -> None:
    image = _noise(width, height)
    left, top = (width - 16) // 2, (height - 16) // 2
    assert np.array_equal(_decode(_encode(image), 16), np.asarray(image)[top : top + 16, left : left + 16])


def test_reduction_filters_out_what_the_small_grid_cannot_hold() -> None:
    # Stripes of period 3 px, reduced 8 times: their mean is all a proper filter leaves. Taking single pixels,
    # or a fixed 4-tap kernel, would alias them into full-contrast stripes.
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::3] = 255
    small = _decode(_encode(Image.fromarray(stripes)), 32).astype(float)[2:-2, 2:-2]
    assert np.abs(small - 85).max() <= 3


def test_reduction_keeps_what_the_small_grid_can_hold() -> None:
    place = (np.arange(256) + 0.5) / 256
    wave = 127.5 + 100 * np.cos(2 * np.pi * 4 * place)
    large = np.repeat(np.floor(wave + 0.5).astype(np.uint8)[None, :, None], 256, axis=0).repeat(3, axis=2)
    small = _decode(_encode(Image.fromarray(large)), 32)[16, 4:-4, 0]
    exact = 127.5 + 100 * np.cos(2 * np.pi * 4 * (np.arange(32) + 0.5) / 32)[4:-4]
    assert np.abs(small - exact).max() < 5


def test_small_images_are_upsampled() -> None:
    ramp = np.repeat(np.linspace(0, 255, 5).astype(np.uint8)[None, :, None], 5, axis=0).repeat(3, axis=2)
    large = _decode(_encode(Image.fromarray(ramp)), 20)[10, :, 1].astype(int)
    assert (np.diff(large) >= -2).all()
    assert large[0] < 20
    assert large[-1] > 235
    assert _decode(_encode(Image.new("RGB", (1, 1), (9, 8, 7))), 4).tolist() == [[[9, 8, 7]] * 4] * 4


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("1", (8, 8), 1), "PNG", (255, 255, 255)),
        (Image.new("L", (8, 8), 77), "PNG", (77, 77, 77)),
        (Image.new("LA", (8, 8), (0, 51)), "PNG", (204, 204, 204)),  # 20 % black on white
        (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG", (255, 255, 255)),
        (Image.new("RGBA", (8, 8), (255, 0, 0, 51)), "PNG", (255, 204, 204)),
        (Image.new("RGB", (8, 8), (10, 20, 30)).quantize(4), "PNG", (10, 20, 30)),
        (Image.new("RGB", (8, 8), (10, 20, 30)).quantize(4), "GIF", (10, 20, 30)),
        (Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "TIFF", (0, 255, 255)),
        (Image.new("YCbCr", (8, 8), (128, 128, 128)), "TIFF", (128, 128, 128)),
        (Image.new("LAB", (8, 8), (255, 128, 128)), "TIFF", (255, 255, 255)),
        (Image.new("I;16", (8, 8), 257 * 99), "PNG", (99, 99, 99)),
        (Image.new("I;16", (8, 8), 65535), "TIFF", (255, 255, 255)),
        (Image.new("I", (8, 8), 257 * 12), "TIFF", (12, 12, 12)),
        (Image.new("F", (8, 8), 0.5), "TIFF", (128, 128, 128)),
        (Image.new("F", (8, 8), 200.0), "TIFF", (200, 200, 200)),
        (Image.new("RGB", (8, 8), (10, 20, 30)), "BMP", (10, 20, 30)),
        (Image.new("RGB", (8, 8), (10, 20, 30)), "PPM", (10, 20, 30)),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
@pytest.mark.parametrize("size", [4, 8, 12])
def test_every_mode_comes_out_as_rgb(image: Image.Image, kind: str, expected: tuple[int, int, int], size: int) -> None:
    pixels = _decode(_encode(image, kind), size).astype(int)
    assert np.abs(pixels - expected).max() <= 1


def test_a_transparent_palette_entry_shows_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([200, 0, 0, 0, 200, 0])
    image.paste(1, (0, 0, 4, 8))
    pixels = _decode(_encode(image, transparency=0), 8)
    assert pixels[0, 0].tolist() == [0, 200, 0]
    assert pixels[0, 7].tolist() == [255, 255, 255]


def test_a_cmyk_jpeg_has_the_right_colours() -> None:
    pixels = _decode(_encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95), 8).astype(int)
    assert np.abs(pixels - (255, 0, 0)).max() <= 6


def test_of_an_animation_the_first_frame_is_taken() -> None:
    red, blue = Image.new("RGB", (8, 8), (255, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 255))
    assert _decode(_encode(red, "GIF", save_all=True, append_images=[blue]), 8)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_the_orientation_is_applied(orientation: int, kind: str) -> None:
    upright = np.asarray(_noise(8, 8))
    turned = {  # what a camera stores, from the EXIF standard: where row 0 and column 0 of the scene go
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turned))
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(_decode(_encode(stored, kind, exif=exif, **options), 8), upright)


def test_damaged_metadata_beside_whole_pixels_is_no_reason_to_refuse() -> None:
    image = _noise(8, 8)
    data = _encode(image, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert np.array_equal(_decode(data, 8), np.asarray(image))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_undecodable(kind: str, share: float) -> None:
    data = _encode(_noise(64, 64), kind)
    with pytest.raises(UndecodableError):
        decode_square(data[: int(len(data) * share)], 16)


@pytest.mark.parametrize(
    "data", [b"", b"text", b"\x89PNG\r\n\x1a\n", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"]
)
def test_what_is_no_image_has_a_reason_that_does_not_vary(data: bytes) -> None:
    reasons = set()
    for _ in range(2):
        with pytest.raises(UndecodableError) as refused:
            decode_square(data, 16)
        reasons.add(str(refused.value))
    assert len(reasons) == 1
    assert "0x" not in reasons.pop()


def test_grey_values_without_an_agreed_range_are_undecodable() -> None:
    with pytest.raises(UndecodableError, match="outside 0 to 65535"):
        decode_square(_encode(Image.new("I", (8, 8), 70_000), "TIFF"), 8)
    with pytest.raises(UndecodableError, match="outside 0 to 255"):
        decode_square(_encode(Image.new("F", (8, 8), 1000.0), "TIFF"), 8)


def test_the_name_of_the_format_is_told() -> None:
    assert decode_square(_encode(_noise(8, 8), "JPEG"), 8)[1] == "JPEG"
    assert decode_square(_encode(_noise(8, 8)), 8)[1] == "PNG"


def test_an_array_of_pixels_is_an_image_too() -> None:
    """What a raw shard holds can be ingested again; nothing but pixels can, least of all pickled objects."""

    def npy(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        return buffer.getvalue()

    pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image, kind = decode_square(npy(pixels), 4)
    assert kind == "NPY"
    assert np.array_equal(np.asarray(image), pixels[:, 1:5])
    for wrong in (pixels.astype(np.float32), pixels[:, :, 0], np.array([{}], dtype=object)):
        with pytest.raises(UndecodableError):
            decode_square(npy(wrong), 4)
