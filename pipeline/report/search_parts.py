"""What a report holds of a search, as plain validated data: rounds and their trials; not where it is from or how it
looks (``collecting.searches``, ``search_figures``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from pipeline.report.scores import Part, Score
from pipeline.report.setting_names import short_names

Kind = Literal["truncated", "non_truncated"]
KIND_NAMES: dict[Kind, str] = {"truncated": "truncated", "non_truncated": "non-truncated"}

Status = Literal["finished", "dropped", "pruned", "failed"]
STATUSES: tuple[Status, ...] = ("finished", "dropped", "pruned", "failed")


def end_of(point: Mapping[str, Any]) -> Status:
    """How a trial ended, by its place in the summary of a search."""
    told: Status | None = point.get("status")
    return told or ("failed" if point["error"] else "finished")


class Place(Part):
    """How a super-resolution stage takes its low-res image: kind and level s, with the log-SNR of that level and its
    step out of ``of_steps``."""

    kind: Kind
    level: float
    logsnr: float
    ddpm_step: float
    of_steps: int = 1000


class SearchPoint(Part):
    """One trial: what it set, and what it scored.

    ``settings`` has the paths that differ within the round. ``places`` has the stages whose augmentation the round
    searched. ``behind`` is the chained FID minus that of the chosen trial with its paired standard error, for trials
    of as many samples. ``rungs`` are (samples or steps, score) of looks before the end; ``start_seconds`` pass before
    the first step of a trial that trains, ``cost_hours`` are those of a GPU (or CPU) in its training and scores, and
    ``net_calls`` draw one image through the whole chain.
    """

    settings: dict[str, Any]
    status: Status = "finished"
    error: str = ""
    objective: Score = None
    samples: int | None = None
    chained_fid: Score = None
    chained_fid_error: Score = None
    oracle_fid: Score = None
    oracle_fid_error: Score = None
    accuracy: Score = None
    recall: Score = None
    behind: Score = None
    behind_error: Score = None
    seconds: float = 0.0
    start_seconds: Score = None
    cost_hours: float = 0.0
    net_calls: int | None = None
    rungs: list[tuple[int, float]] = Field([])
    places: dict[str, Place] = Field({})

    @property
    def gap(self) -> float | None:
        """Chained minus oracle FID."""
        return None if self.chained_fid is None or self.oracle_fid is None else self.chained_fid - self.oracle_fid

    @property
    def finished(self) -> bool:
        """Whether it has the scores of the full number of samples, after all its training."""
        return self.status == "finished"


class Times(Part):
    """Where the time of trials that train went, in seconds: see ``pipeline.tuning.costs.time_use``."""

    seconds: float
    training_seconds: float
    scoring_seconds: float
    waiting_seconds: float
    start_seconds: float
    other_seconds: float
    busy_share: Score
    trained: int
    start_each: Score
    start_most: Score


class SearchSection(Part):
    """The trials of one round, scored at ``stage``. ``varied`` are the paths whose values differ between them.

    ``chosen`` and ``front`` are indices into ``points``: the chosen trial, and the Pareto front of chained FID (lower)
    and accuracy (higher) over the finished ones, by ascending FID. ``why`` it was chosen and what was ``shared`` are
    said by the search. ``wall_seconds`` is its time by the clock, ``busy_share`` the part of its workers' time that was
    inside trials. ``budget_hours`` and ``budget_gpu_hours`` are what the search as a whole may spend, ``spent_hours``
    and ``spent_gpu_hours`` what it spent in all its rounds, over all commands.
    """

    stage: str
    metric: str
    kind: Literal["sampling", "training"] = "sampling"
    varied: list[str]
    points: list[SearchPoint]
    chosen: int | None = None
    front: list[int] = Field([])
    why: str = ""
    shared: str = ""
    wall_seconds: Score = None
    busy_share: Score = None
    times: Times | None = None
    budget_hours: float | None = None
    budget_gpu_hours: float | None = None
    spent_hours: float | None = None
    spent_gpu_hours: float | None = None

    @property
    def names(self) -> dict[str, str]:
        """Short names of the varied paths."""
        return short_names(self.varied)

    @property
    def of_levels(self) -> bool:
        """Whether the round searched the augmentation level of its stage, its kind perhaps, and nothing else."""
        own = f"stages.{self.stage}.sampling."
        return f"{own}level" in self.varied and set(self.varied) <= {f"{own}level", f"{own}augmentation"}

    def numeric(self, path: str) -> bool:
        """Whether every trial has a number at ``path``; true and false are none."""
        return all(type(point.settings[path]) in (int, float) for point in self.points)

    @property
    def looks_at_accuracy(self) -> bool:
        """Whether ``rungs`` are accuracies: first looks go by the metric, those at a training by a cheap FID."""
        return self.kind == "sampling" and self.metric == "chained_accuracy"

    @property
    def order(self) -> list[int]:
        """Indices of all trials, the best first: finished ones by their objective, then the others."""

        def key(index: int) -> tuple[int, float, float, int]:
            point = self.points[index]
            objective = math.inf if point.objective is None else point.objective
            step, last = point.rungs[-1] if point.rungs else (0, math.inf)
            look = -last if self.looks_at_accuracy else last
            return STATUSES.index(point.status), objective if point.finished else -step, look, index

        return sorted(range(len(self.points)), key=key)

    @property
    def ranks(self) -> dict[int, int]:
        """The place of each finished trial, 1 the best, by its index."""
        finished = [index for index in self.order if self.points[index].finished]
        return {index: rank for rank, index in enumerate(finished, start=1)}

    @property
    def counts(self) -> dict[Status, int]:
        """How many trials came to each end that any came to."""
        found = {status: sum(point.status == status for point in self.points) for status in STATUSES}
        return {status: count for status, count in found.items() if count}

    @property
    def errors(self) -> dict[str, int]:
        """What made trials fail, and how many."""
        return dict(Counter(point.error for point in self.points if point.error))

    def place(self, index: int) -> Place:
        """Where trial ``index`` of a round of levels takes its low-res image."""
        return self.points[index].places[self.stage]

    @property
    def by_level(self) -> list[int]:
        """Indices of the trials of a round of levels, by level and kind."""
        return sorted(range(len(self.points)), key=lambda index: (self.place(index).level, self.place(index).kind))
