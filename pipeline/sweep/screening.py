"""The first look at trials: which of them can be dropped before they cost all samples. Draws and scores nothing.

Trials have the same seeds and classes, so what is chance in one is chance in the other, and a difference is known far
better than either score. A trial is dropped when it is worse than the best by more than so many errors of the
difference: a rule about the first samples, which does not promise that the full number would say the same. Looks in
fewer steps than their trials are compared among each other, where all were drawn in equally many.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.comparing import paired_error
from pipeline.dag import Node, stored
from pipeline.experiment_spec import Experiment
from pipeline.storage import Storage


@dataclass(frozen=True)
class Look:
    """What a trial's first samples say: scores of the chained images, and which of them (N,) the judge got right, where
    accuracy decides. ``steps`` are those of ``steps_of_look``."""

    scores: Mapping[str, Any]
    right: npt.NDArray[np.bool_] | None = None
    steps: tuple[int, ...] | None = None


def steps_of_look(changed: Experiment, stage: str) -> tuple[int, ...] | None:
    """Sampler steps of all stages in the look at the trial ``changed``, where they are fewer than its own; None where
    the look is drawn as the trial is."""
    screening = changed.search.screening if changed.search else None
    most = screening.sampling_steps if screening else None
    own = [changed.stages[name].sampling.steps for name in changed.chain(stage)]
    return None if most is None or max(own) <= most else tuple(min(steps, most) for steps in own)


def look_at(scores: Node, storage: Storage, *, metric: str, steps: tuple[int, ...] | None = None) -> Look:
    """The look of a trial whose first samples are scored by the node ``scores``; it must be stored, and where accuracy
    decides the images that it judged too."""
    found = stored(scores, storage)
    assert found is not None, "a look is at stored scores"
    if metric != "chained_accuracy":
        return Look(found.summary, steps=steps)
    judged = stored(scores.inputs["judged"], storage)
    assert judged is not None, "a look at accuracy is at stored images"
    folder = judged.part("top.npy", "labels.npy")
    top, labels = np.load(folder / "top.npy"), np.load(folder / "labels.npy")
    return Look(found.summary, top[:, 0] == labels, steps)


def rivals_of(look: Look, others: Iterable[Look]) -> list[Look]:
    """Those of ``others`` that ``look`` can be compared with: drawn as their trials are, where it is, else in as many
    steps as it, each of them fewer than its trial's. What has more steps to come is not judged by what has none."""
    return [other for other in others if other.steps == look.steps]


def is_hopeless(look: Look, best: Look, *, metric: str, errors: float) -> bool:
    """Whether ``look`` is worse than ``best`` by more than ``errors`` errors of their difference.

    False where the difference has no error: an FID of too few samples for one.
    """
    if metric == "chained_accuracy":
        assert look.right is not None, "a look at accuracy knows its images"
        assert best.right is not None, "a look at accuracy knows its images"
        apart = best.right.astype(float) - look.right
        return bool(apart.mean() > errors * apart.std(ddof=1) / math.sqrt(len(apart)))
    error = paired_error(look.scores, best.scores)
    return error is not None and look.scores["fid"] - best.scores["fid"] > errors * error
