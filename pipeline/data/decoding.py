"""Any image file to a centre-cropped RGB square of one size. Knows formats and modes, not data sets.

The rules, which the manifest repeats in one line:

- the largest centred square (offsets rounded down to whole pixels), then one Lanczos-3 resize whose support
  grows with the reduction, so it is its own low-pass filter; smaller images are upsampled by the same filter,
  and images that already have the size keep their pixels;
- the EXIF orientation is applied; of an animation the first frame is taken;
- alpha (also of palettes) is composed on white; grey is repeated; CMYK and Lab are converted without a
  profile; 16-bit grey is scaled from 0 .. 65535 to 0 .. 255 (Pillow keeps the upper byte of 16-bit colour).
"""

from __future__ import annotations

import io
import re
from functools import cache

import numpy as np
from PIL import Image, UnidentifiedImageError

# No PostScript and the like: opening a data set must not start an interpreter.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
_NPY = b"\x93NUMPY"
LOSSY_FORMATS = frozenset({"JPEG", "MPO", "WEBP", "AVIF", "JPEG2000"})  # the last three may be lossless

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UndecodableError(Exception):
    """The bytes are no image that can be used; the message is a short reason, the same on every run."""


def decode_square(data: bytes, size: int) -> tuple[Image.Image, str]:
    """Decode an image file to RGB of size x size pixels, by the rules above.

    Returns the image and the name of its format. Raises UndecodableError for anything else than a whole
    image.
    """
    try:
        if data.startswith(_NPY):
            return _square(_from_npy(data), size), "NPY"
        with Image.open(io.BytesIO(data), formats=_known_formats()) as image:
            image.load()  # first: some formats apply the orientation themselves here
            square = _square(_upright(image, _orientation(image)), size)
            return square, image.format or ""
    except UnidentifiedImageError:
        raise UndecodableError("not an image of a known format") from None
    except Exception as error:  # decoders fed with broken files raise anything; every kind is named to the person
        text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error).split()))[:120]
        raise UndecodableError(text or type(error).__name__) from None


def _from_npy(data: bytes) -> Image.Image:
    """An array of pixels as a raw shard stores it: uint8 (H, W, 3)."""
    pixels = np.load(io.BytesIO(data), allow_pickle=False)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise UndecodableError(f"an array of {pixels.dtype} {pixels.shape} instead of uint8 (H, W, 3)")
    return Image.fromarray(pixels)


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()  # a Pillow built without one of them still reads the others
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata beside whole pixels
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    rgb = _rgb(image)
    turn = _TURNS.get(orientation)
    return rgb if turn is None else rgb.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _deep_grey(image).convert("RGB")
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits: integers are 16-bit, floats span 0 .. 1 or, where they go beyond 1, 0 ..
    255."""
    values = np.asarray(image).astype(np.float64)
    top = 65535.0 if image.mode != "F" else 1.0 if values.max() <= 1 else 255.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise UndecodableError(f"grey values outside 0 to {top:g}")
    return Image.fromarray(np.floor(values * (255.0 / top) + 0.5).astype(np.uint8))


def _square(rgb: Image.Image, size: int) -> Image.Image:
    width, height = rgb.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    if side == size:
        return rgb.crop(box)
    return rgb.resize((size, size), Image.Resampling.LANCZOS, box=box)
