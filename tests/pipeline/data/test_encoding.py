"""Stored forms: lossless where they say so, box means for smaller sizes, DCT scaling close to them."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from pipeline.data.encoding import decode_image, encode_image
from pipeline.data.forms import Reduction, check_reduction
from pipeline.data.manifest import Form
from pipeline.errors import UserError

LOSSLESS = [Form(size=32, encoding=encoding) for encoding in ("png", "webp", "raw")]  # type: ignore[arg-type]
JPEG = Form(size=32, encoding="jpeg", quality=95)


def _smooth(seed: int = 0, size: int = 32) -> Image.Image:
    """A picture rather than noise, as JPEG expects one."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def _box(image: Image.Image, size: int) -> npt.NDArray[np.uint8]:
    """Means of whole blocks, rounded to nearest, halves up."""
    factor = image.width // size
    blocks = np.asarray(image).astype(np.int64).reshape(size, factor, size, factor, 3).sum(axis=(1, 3))
    return ((2 * blocks + factor**2) // (2 * factor**2)).astype(np.uint8)


@pytest.mark.parametrize("form", LOSSLESS, ids=lambda form: form.name)
@pytest.mark.parametrize("size", [32, 16, 8, 4, 1])
def test_lossless_forms_give_the_image_and_its_box_means(form: Form, size: int) -> None:
    image = Image.fromarray(np.random.default_rng(size).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    pixels = decode_image(encode_image(image, form), form, size)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (size, size, 3))
    assert np.array_equal(pixels, _box(image, size))


def test_sizes_that_are_no_powers_of_two_have_box_means_too() -> None:
    form, image = Form(size=45, encoding="raw"), _smooth(size=45)
    for size in (15, 9, 5, 3):
        assert np.array_equal(decode_image(encode_image(image, form), form, size), _box(image, size))


@pytest.mark.parametrize("size", [32, 16, 8, 4, 2])
def test_jpeg_is_close_and_dct_is_close_to_the_box_means(size: int) -> None:
    box, dct = (
        np.stack([decode_image(encode_image(_smooth(seed), JPEG), JPEG, size, reduction) for seed in range(8)])
        for reduction in ("box", "dct")
    )
    exact = np.stack([_box(_smooth(seed), size) for seed in range(8)])
    assert np.abs(box.astype(int) - exact).mean() < 2.0
    assert np.abs(dct.astype(int) - box).mean() < 2.0
    assert np.array_equal(dct, box) == (size == 32)  # another decoding, which is why it has to be asked for


def test_jpeg_keeps_the_resolution_of_colours_and_obeys_its_quality() -> None:
    stripes = np.zeros((32, 32, 3), dtype=np.uint8)
    stripes[:, ::2] = (255, 0, 0)
    stripes[:, 1::2] = (0, 0, 255)
    image = Image.fromarray(stripes)
    kept = decode_image(encode_image(image, JPEG), JPEG, 32)
    assert np.abs(kept.astype(int) - stripes).mean() < 12  # 4:2:0 would give purple, far from both
    worse = Form(size=32, encoding="jpeg", quality=30)
    assert len(encode_image(_smooth(), worse)) < len(encode_image(_smooth(), JPEG))


@pytest.mark.parametrize("form", [*LOSSLESS, JPEG], ids=lambda form: form.name)
def test_bytes_are_a_function_of_the_pixels(form: Form) -> None:
    image = _smooth()
    image.info.update(dpi=(1, 1), comment=b"from a camera", icc_profile=b"x")
    image.getexif()[0x0112] = 6
    assert encode_image(image, form) == encode_image(_smooth(), form)


@pytest.mark.parametrize("image", [_smooth().convert("L"), _smooth(size=16)])
def test_another_mode_or_size_is_a_fault_of_ours(image: Image.Image) -> None:
    with pytest.raises(AssertionError, match="is not what 32-png stores"):
        encode_image(image, LOSSLESS[0])


@pytest.mark.parametrize("form", [*LOSSLESS, JPEG], ids=lambda form: form.name)
@pytest.mark.parametrize("reduction", ["box", "dct"])
def test_bytes_that_are_no_such_image_are_refused(form: Form, reduction: Reduction) -> None:
    whole = encode_image(_smooth(), form)
    for data in (b"", b"no image", whole[: len(whole) // 2], _other_size(form), _other_format(form)):
        with pytest.raises((ValueError, OSError)):
            decode_image(data, form, 16, reduction)


def _other_size(form: Form) -> bytes:
    return encode_image(_smooth(size=64), form.model_copy(update={"size": 64}))


def _other_format(form: Form) -> bytes:
    buffer = io.BytesIO()
    _smooth().save(buffer, "BMP")
    return buffer.getvalue()


def test_what_cannot_be_had_of_a_form_is_refused_in_a_sentence() -> None:
    check_reduction(JPEG, 8, "dct")
    check_reduction(LOSSLESS[0], 8, "box")
    with pytest.raises(UserError, match="images of 12 px cannot be made of the stored 32 px"):
        check_reduction(JPEG, 12, "box")
    with pytest.raises(UserError, match=r"only JPEG can be decoded .* stored as 32-raw"):
        check_reduction(LOSSLESS[2], 8, "dct")
