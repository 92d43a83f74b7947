"""The first look at trials: which of them can be dropped before they cost all samples. Draws and scores nothing.

Trials have the same seeds and classes, so what is chance in one is chance in the other, and a difference is known far
better than either score. A trial is dropped when it is worse than the best by more than so many errors of the
difference: a rule about the first samples, which does not promise that the full number would say the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparing import paired_error
from pipeline.dag import Node, stored
from pipeline.storage import LocalStorage


@dataclass(frozen=True)
class Look:
    """What a trial's first samples say: scores of the chained images, and which of them (N,) the judge got right."""

    scores: Mapping[str, Any]
    right: npt.NDArray[np.bool_]


def look_at(scores: Node, storage: LocalStorage) -> Look:
    """The look of a trial whose first samples are scored by the node ``scores``, which must be stored."""
    found, judged = stored(scores, storage), stored(scores.inputs["judged"], storage)
    assert found is not None, "a look is at stored scores"
    assert judged is not None, "a look is at stored scores"
    top, labels = np.load(judged.folder / "top.npy"), np.load(judged.folder / "labels.npy")
    return Look(found.summary, top[:, 0] == labels)


def is_hopeless(look: Look, best: Look, *, metric: str, errors: float) -> bool:
    """Whether ``look`` is worse than ``best`` by more than ``errors`` errors of their difference.

    False where the difference has no error: an FID of too few samples for one.
    """
    if metric == "chained_accuracy":
        apart = best.right.astype(float) - look.right
        return bool(apart.mean() > errors * apart.std(ddof=1) / math.sqrt(len(apart)))
    error = paired_error(look.scores, best.scores)
    return error is not None and look.scores["fid"] - best.scores["fid"] > errors * error
