"""The node that examines the chain: how far the colours and the detail of a stage's images have drifted. No scores.

Reads what the drawing nodes measured of each image (``pipeline.scoring.examination``); no image is read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dag import Task
from pipeline.scoring.examination import colour_drift, colour_noise, frequencies, high_frequency_ratio

Floats = npt.NDArray[np.float32]


def examine_chain(task: Task) -> dict[str, Any]:
    """Graph node: colours and power spectra of the ``chained`` images of a stage of ``size`` px beside the ``real``.

    ``oracle`` images are an optional input: what they lack too is the stage's own fault, what only the chained ones
    lack came with the chain. ``colour_drift`` is of the chained against the real images, in levels of 8 bits, and
    ``colour_noise`` is what chance alone would make of it. ``consistency`` is the mean squared difference between the
    shrunken output and its low-res input for values in [0, 1], None for a base stage. Where a consistency is given,
    so is an oracle.
    """
    size = task.config["size"]
    kinds = {kind: task.inputs[kind] for kind in ("chained", "oracle", "real") if kind in task.inputs}
    colours = {kind: _load(folder, "colour") for kind, folder in kinds.items()}
    power = {kind: _means(_load(folder, "power")) for kind, folder in kinds.items()}
    ratios = {kind: high_frequency_ratio(power[kind], power["real"], size) for kind in power if kind != "real"}
    return {
        "size": size,
        "colour": {"oracle": None, **{kind: _means(values) for kind, values in colours.items()}},
        "frequencies": [float(centre) for centre in frequencies(size)],
        "power": {"oracle": None, **power},
        "colour_drift": colour_drift(colours["chained"], colours["real"]),
        "colour_noise": colour_noise(colours["chained"], colours["real"]),
        "high_frequency_ratio": {"oracle": None, **ratios},
        "consistency": _consistency(kinds),
    }


def _consistency(kinds: Mapping[str, Path]) -> dict[str, float] | None:
    if "oracle" not in kinds:
        return None
    return {kind: float(_load(kinds[kind], "consistency").mean(dtype=np.float64)) for kind in ("chained", "oracle")}


def _load(folder: Path, name: str) -> Floats:
    values: Floats = np.load(folder / f"{name}.npy")
    return values


def _means(values: Floats) -> list[float]:
    """The mean over images of figures (N, K), in float64."""
    return [float(value) for value in values.mean(axis=0, dtype=np.float64)]
