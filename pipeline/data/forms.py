"""Which images can be had of which stored forms. No image is looked at here, and nothing heavy imported."""

from __future__ import annotations

from typing import Literal

from pipeline.data.manifest import Encoding, Form, Manifest
from pipeline.errors import UserError

Reduction = Literal["box", "dct"]
"""How a stored image gets to a smaller size: see `pipeline.data.encoding`."""

RESIZE = (
    "EXIF orientation applied, alpha composed on white, largest centred square, "
    "one Lanczos-3 resize with antialiasing that sees beyond the square's edge (smaller images upsampled), Pillow"
)
"""How a source's image gets to the largest stored size: what `pipeline.data.decoding` does, in a line."""

_PREFERRED: tuple[Encoding, ...] = ("raw", "webp", "png", "jpeg")


def check_reduction(form: Form, size: int, reduction: Reduction) -> None:
    """Raise UserError when images of ``size`` px cannot be had from a form in this way."""
    if size < 1 or form.size % size:
        raise UserError(
            f"images of {size} px cannot be made of the stored {form.size} px by averaging whole blocks; "
            f"ask for a size that divides {form.size}"
        )
    if reduction == "dct" and form.encoding != "jpeg":
        raise UserError(
            f"only JPEG can be decoded at a fraction of its size (dct), and the data set is stored as {form.name}; "
            "leave the reduction at box"
        )


def form_for(manifest: Manifest, size: int, reduction: Reduction = "box") -> Form:
    """The stored form from which images of ``size`` px are made: the smallest that holds them, with ``dct`` of the
    JPEG ones; of several of one size the one that is read fastest among those that lost nothing. Samples of a cascade
    can be had at the sizes of its stages alone.

    Raises UserError naming the stored forms when there is none.
    """
    fit = [form for form in manifest.forms if size >= 1 and form.size % size == 0]
    if manifest.source.kind == "samples":
        fit = [form for form in fit if form.size == size]  # a smaller stage's images are its own, nobody's box means
    if reduction == "dct":
        fit = [form for form in fit if form.encoding == "jpeg"]
    if fit:
        return min(fit, key=lambda form: (form.size, _PREFERRED.index(form.encoding)))
    if len(manifest.forms) == 1 and manifest.source.kind != "samples":
        check_reduction(manifest.forms[0], size, reduction)  # says what is wrong with the only one
    stored = ", ".join(form.name for form in manifest.forms)
    raise UserError(f"images of {size} px cannot be made ({reduction}) of any stored form; the data set has {stored}")
