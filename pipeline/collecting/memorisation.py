"""From the stored result of the search for memorised images to its section of the report: pictures for a page."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.data.manifest import Manifest
from pipeline.report.score_tables import extractor_words
from pipeline.report.scores import Memorisation, Near, NearestRow
from pipeline.results import Result

SHOWN = 64  # px that an image is shown at, and stored at in the page where it is larger


def memorisation_of(result: Result | None, manifest: Manifest) -> Memorisation | None:
    """The samples that lie nearest to training images; None where none were looked for."""
    if result is None:
        return None
    found = result.summary
    pairs = np.load(result.file("pairs.npy"), mmap_mode="r")
    return Memorisation(
        rows=[_row(told, images, manifest) for told, images in zip(found["neighbours"], pairs, strict=True)],
        reference=found["reference"],
        of=found.get("of", manifest.splits["train"].examples),
        scorer=extractor_words(found["scorer"]) if "scorer" in found else "",
        compared=found.get("compared"),
        median=found.get("distances", {}).get("median"),
        real_median=found["real_distances"]["median"],
        real_near=found["real_distances"]["p01"],
        nearer=found.get("nearer"),
    )


def _row(told: dict[str, Any], images: npt.NDArray[np.uint8], manifest: Manifest) -> NearestRow:
    near = zip(told["nearest"], told["distances"], images[1:], strict=True)
    return NearestRow(
        index=told["index"],
        label=manifest.classes[told["label"]],
        png=_png(images[0]),
        nearest=[Near(index=index, distance=distance, png=_png(image)) for index, distance, image in near],
    )


def _png(pixels: npt.NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if image.width > SHOWN:
        image = image.resize((SHOWN, SHOWN), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
