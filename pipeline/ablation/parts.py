"""What the report of an ablation holds, as plain validated data; not how it looks (``report``), nor where it is from.

A *cell* is a named setting, a *replicate* a cell under one seed, the *baseline* the cell that differences are taken
from. Differences, intervals and claims of equality are given, never computed here. Imports no torch, Ray or MLflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.ablation.metrics import mean, spread
from pipeline.ablation.spec import Metric
from pipeline.ablation.statistics import is_found
from pipeline.comparing import fid_gap
from pipeline.report.parts import Dataset
from pipeline.report.scores import Part, Score, Scores
from pipeline.report.search_parts import Kind


class StageScore(Part):
    """Scores of one stage of a replicate's chain; a base stage has no oracle."""

    stage: str
    size: int
    chained: Scores | None
    oracle: Scores | None

    @property
    def gap(self) -> float | None:
        """Chained minus oracle FID; None where one is missing or their passports forbid it."""
        return fid_gap(self.chained, self.oracle)


class SweepPoint(Part):
    """What the last stage scored at one augmentation level s, told as time, log-SNR and DDPM step too."""

    kind: Kind
    level: float
    logsnr: Score
    ddpm_step: Score
    chained_fid: Score
    chained_fid_error: Score = None
    oracle_fid: Score = None
    accuracy: Score = None
    chosen: bool = False


class Compute(Part):
    """The last stage's net: its parameters, GFLOP of all its calls to draw an image, PFLOP of its whole training."""

    parameters: int
    drawn_gflop: float
    trained_pflop: float


class Replicate(Part):
    """A cell under one seed. One that failed has an ``error``, one that is missing is yet to come; both lack the rest.

    ``chained`` and ``oracle`` are scores of the last stage, at augmentation level ``level`` of ``kind``, told as
    ``logsnr`` and ``ddpm_step`` too. ``loss`` is (step, loss) of the last stage's training, ``during`` (step, FID) of
    small evaluations meanwhile. ``seconds`` are by the clock, summed over all results that it uses, and so are those
    of the last stage's training and ``start_seconds`` from its begin to its first optimizer step; ``device_seconds``
    (``AblationSharing``) are of all that it uses too.
    """

    seed: int
    status: Literal["finished", "failed", "missing"]
    error: str | None = None
    chained: Scores | None = None
    oracle: Scores | None = None
    level: Score = None
    kind: Kind | None = None
    logsnr: Score = None
    ddpm_step: Score = None
    stages: list[StageScore] = Field([])
    sweep: list[SweepPoint] = Field([])
    loss: list[tuple[int, float]] = Field([])
    during: list[tuple[int, float]] = Field([])
    compute: Compute | None = None
    training_seconds: Score = None
    start_seconds: Score = None
    seconds: float = 0.0
    device_seconds: float = 0.0

    def value(self, metric: Metric) -> float | None:
        """A metric of the last stage; None where it was not taken or is not finite, or the replicate did not finish."""
        if self.status != "finished":
            return None
        found: Mapping[Metric, float | None] = {
            "chained_fid": self.chained.fid if self.chained else None,
            "oracle_fid": self.oracle.fid if self.oracle else None,
            "gap": fid_gap(self.chained, self.oracle),
            "accuracy": self.chained.accuracy if self.chained else None,
            "recall": self.chained.recall if self.chained else None,
        }
        return found[metric]


class Difference(Part):
    """A cell minus the baseline, over the ``n`` seeds that both have: mean, its standard error, simultaneous interval,
    Holm-adjusted p, and the smallest difference that this many seeds would have seen. In units of the metric. Where it
    was the same under every seed, so that no spread was seen, the error is 0 and the others are None."""

    mean: float
    error: Score
    low: Score
    high: Score
    p: Score
    detectable: Score = None
    n: int


class CellRow(Part):
    """One cell: ``settings`` are the dotted paths in which it differs from the experiment as declared.

    ``grid_png`` and ``oracle_png`` have one row per class of ``Dataset.rows`` and the same indices, classes and seed in
    every cell. ``shares_training_with`` is the first other cell, in the order of the report, whose trainings are all
    the same; None: it has its own. In device-seconds (``AblationSharing``), ``gpu_seconds`` are of what this cell alone
    uses, ``reused_seconds`` of what other cells use too. ``commands`` repeat it, one per seed in the order of
    ``AblationReport.seeds``.
    """

    name: str
    settings: dict[str, Any]
    shares_training_with: str | None = None
    replicates: list[Replicate]
    grid_png: bytes | None = None
    oracle_png: bytes | None = None
    differences: dict[Metric, Difference] = Field({})
    gpu_seconds: float = 0.0
    reused_seconds: float = 0.0
    commands: list[str] = Field([])

    @property
    def finished(self) -> list[Replicate]:
        return [one for one in self.replicates if one.status == "finished"]

    @property
    def failed(self) -> list[Replicate]:
        return [one for one in self.replicates if one.status == "failed"]

    @property
    def missing(self) -> list[Replicate]:
        """Those that are still to come."""
        return [one for one in self.replicates if one.status == "missing"]

    def values(self, metric: Metric) -> dict[int, float]:
        """The metric of each seed that has it."""
        found = {one.seed: one.value(metric) for one in self.replicates}
        return {seed: value for seed, value in found.items() if value is not None}

    def mean(self, metric: Metric) -> float | None:
        """Over the seeds that have it."""
        return mean(self.values(metric).values())

    def spread(self, metric: Metric) -> float | None:
        """Standard deviation over seeds; None of fewer than two."""
        return spread(self.values(metric).values())


class Equality(Part):
    """A claim that two cells are equal within ``margin`` (0: a share of a mean that is not there). ``low`` to ``high``
    is the interval of the second cell minus the first, inside -margin to margin where ``equal`` holds."""

    cells: tuple[str, str]
    metric: Metric
    margin: float
    low: Score
    high: Score
    p: Score
    equal: bool
    sentence: str = ""


class AblationSharing(Part):
    """Device-seconds: what this ablation took, what its replicates would have taken as separate experiments, and the
    difference; trainings that ran, and that the replicates asked for.

    A device-second is one GPU, or where no GPU was used one CPU core, for a second; ``device`` says which it was, None
    where both were used or it is not known. ``wall_seconds`` are by the clock.
    """

    spent_seconds: Score = None
    separate_seconds: Score = None
    saved_seconds: Score = None
    wall_seconds: Score = None
    device: Literal["GPU", "CPU core"] | None = None
    trainings_run: int | None = None
    trainings_asked: int | None = None


class AblationReport(Part):
    """Everything that the report of an ablation shows.

    ``stage`` and ``size`` (px) are of the last stage, which the metrics are of. ``question`` and ``verdict`` are
    sentences; an empty verdict is told from the figures. ``pictures`` are further grids by name, laid out as the
    cells' (real images, say, or the low-res ones that every cell was given). ``settings`` is the experiment as
    declared, nested; ``created`` an ISO 8601 time.
    """

    title: str
    created: str
    revision: str
    command: str
    question: str = ""
    verdict: list[str] = Field([])
    notes: list[str] = Field([])
    dataset: Dataset
    scorer: str
    stage: str
    size: int
    ddpm_steps: int = 1000
    confidence: float = 0.95
    baseline: str
    seeds: list[int]
    metrics: list[Metric]
    cells: list[CellRow]
    equalities: list[Equality] = Field([])
    front: list[str] = Field([])
    chosen: str | None = None
    why: str = ""
    sharing: AblationSharing = Field(default_factory=AblationSharing)
    real: Scores | None = None
    grid_seed: int | None = None
    pictures: dict[str, bytes] = Field({})
    settings: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _names_are_known(self) -> AblationReport:
        names = [cell.name for cell in self.cells]
        asked = [self.baseline, *self.front, *(name for claim in self.equalities for name in claim.cells)]
        asked += [self.chosen] if self.chosen is not None else []
        if unknown := [name for name in asked if name not in names]:
            raise ValueError(f"there is no cell {unknown[0]!r} in this ablation; cells are {', '.join(names)}")
        return self

    def found(self, difference: Difference) -> bool:
        """Whether a difference counts as found, at the ``confidence`` of the report."""
        return is_found(difference.p, self.confidence)

    def cell(self, name: str) -> CellRow:
        """The cell called ``name``, which is known to be there."""
        return next(cell for cell in self.cells if cell.name == name)

    @property
    def base(self) -> CellRow:
        """The baseline's cell."""
        return self.cell(self.baseline)

    @property
    def others(self) -> list[CellRow]:
        """All cells but the baseline."""
        return [cell for cell in self.cells if cell.name != self.baseline]

    @property
    def in_order(self) -> list[CellRow]:
        """All cells, the baseline first."""
        return [self.base, *self.others]
