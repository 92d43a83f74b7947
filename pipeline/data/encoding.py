"""The stored forms of an image: how a square is encoded in a shard, and decoded at the size that a stage asks for.

A stage may be smaller than the stored form. There are two declared ways to its size, ``Reduction``:

- ``box``: the whole image is decoded and square blocks are averaged, rounded to nearest. This is what "the small
  image" means everywhere in a cascade (`stages.images.downsample`), and every lossless form gives the same image, to
  rounding; a JPEG form gives that of its own, slightly damaged pixels;
- ``dct``: a JPEG is decoded at 1/2, 1/4 or 1/8 of its size from the low frequencies of its blocks alone, which is
  faster (box averages do the rest, if any; ``python -m pipeline.benchmark data`` says how much). The pixels differ
  slightly from ``box``, which is why it has to be asked for, and why reference statistics are then made of images that
  were decoded in the same way.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.forms import Reduction
from pipeline.data.manifest import Form

Pixels = npt.NDArray[np.uint8]
_DCT_FACTORS = (8, 4, 2)


def encode_image(image: Image.Image, form: Form) -> bytes:
    """The bytes that are stored of an RGB square of the form's size: pixels and nothing else.

    PNG and WebP are lossless; JPEG keeps the full resolution of its colours (4:4:4); raw is rows of RGB bytes.
    """
    assert (image.mode, image.size) == ("RGB", (form.size, form.size)), f"{image} is not what {form.name} stores"
    buffer = io.BytesIO()
    image = Image.fromarray(np.asarray(image))  # without comments, profiles and what else Pillow would write, too
    match form.encoding:
        case "raw":
            return image.tobytes()
        case "png":
            image.save(buffer, "PNG")
        case "webp":
            image.save(buffer, "WEBP", lossless=True, quality=50, method=4)
        case "jpeg":
            assert form.quality is not None, "a JPEG form has a quality"
            image.save(buffer, "JPEG", quality=form.quality, subsampling=0)
    return buffer.getvalue()


def decode_image(data: bytes | memoryview, form: Form, size: int, reduction: Reduction = "box") -> Pixels:
    """The stored image as uint8 RGB (size, size, 3); ``size`` divides the form's.

    Raises ValueError with a short reason for bytes that are no such image.
    """
    match form.encoding:
        case "raw":
            pixels = np.frombuffer(data, dtype=np.uint8).reshape(form.size, form.size, 3)
        case "jpeg":
            pixels = _decode_jpeg(data, form, size, reduction)
        case _:  # made smaller as the image that Pillow decoded: an array in between costs as much as the decoding
            image = _decode_lossless(data, form)
            return np.asarray(image if size == form.size else box_means(image, form.size // size))
    if pixels.shape[0] == size:
        return pixels
    return np.asarray(box_means(Image.fromarray(pixels), pixels.shape[0] // size))


def box_means(image: Image.Image, factor: int) -> Image.Image:
    """An RGB square made smaller: the means of blocks of ``factor`` x ``factor`` px, rounded to nearest, halves up."""
    if factor & (factor - 1) == 0:
        return image.reduce(factor)  # the fast way; with other factors it rounds some means down
    side = image.width // factor
    blocks = np.asarray(image).reshape(side, factor, side, factor, 3).sum(axis=(1, 3), dtype=np.uint32)
    return Image.fromarray(((2 * blocks + factor**2) // (2 * factor**2)).astype(np.uint8))


def _decode_jpeg(data: bytes | memoryview, form: Form, size: int, reduction: Reduction) -> Pixels:
    import simplejpeg  # reading an experiment needs no codec

    stored = tuple(simplejpeg.decode_jpeg_header(data)[:2])
    if stored != (form.size, form.size):
        raise ValueError(f"it has {stored[1]} x {stored[0]} px instead of {form.size} x {form.size}")
    factor = form.size // size
    scale = next((f for f in _DCT_FACTORS if factor % f == 0), 1) if reduction == "dct" else 1
    side = form.size // scale
    pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side, min_factor=1)
    assert pixels.shape == (side, side, 3), pixels.shape
    return pixels


def _decode_lossless(data: bytes | memoryview, form: Form) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=(form.encoding.upper(),)) as image:
        image.load()
        if (image.mode, image.size) != ("RGB", (form.size, form.size)):
            shape = np.asarray(image).shape
            raise ValueError(f"it has shape {shape} instead of ({form.size}, {form.size}, 3)")
        return image
