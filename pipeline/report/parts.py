"""What a report holds, as plain validated data; not how it looks (``writing``), nor where it is from (``collecting``).

Scores are in ``scores``. Imports no torch, Ray or MLflow.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline.comparing import Entrant, Standing, fid_gap, gap_refusal, paired_error, standings
from pipeline.report.scores import (
    BoundScores,
    Chain,
    ClassificationScore,
    Memorisation,
    Part,
    Restoration,
    Score,
    Scores,
)
from pipeline.report.search_parts import Kind, SearchSection


class StageSection(Part):
    """One rung of the cascade.

    Grids are PNG bytes with one row per class of ``Dataset.grid_rows``. ``level`` is the augmentation level s that
    this stage is sampled at, with its log-SNR and the paper's step out of ``ddpm_steps``. ``per_class`` is the
    accuracy of the chained samples, ``per_class_fid`` the FID of the classes that have enough of them. ``cas`` is of
    a net trained on the chained samples, ``cas_real`` of the same net trained on real images. ``during`` has
    (step, FID) of small evaluations while the stage was training.
    """

    name: str
    size: int
    low_res_size: int | None
    parameters: int
    steps: int
    training_seconds: float
    images_per_second: float
    loss: list[tuple[int, float]]
    chained: Scores
    oracle: Scores | None
    real: Scores
    level: float = 0.0
    kind: Kind = "non_truncated"
    logsnr: Score = None
    ddpm_step: Score = None
    ddpm_steps: int = 1000
    grid_png: bytes | None
    oracle_png: bytes | None
    real_png: bytes | None
    per_class: dict[str, float]
    per_class_fid: dict[str, float] = Field({})
    restoration: Restoration | None = None
    bound: BoundScores | None = None
    chain: Chain | None = None
    memorisation: Memorisation | None = None
    cas: ClassificationScore | None = None
    cas_real: ClassificationScore | None = None
    during: list[tuple[int, float]] = Field([])

    @property
    def rows(self) -> dict[str, Scores]:
        """The rows of scores that there are, by the kind of their images."""
        found = {"chained": self.chained, "oracle": self.oracle, "real": self.real}
        return {kind: scores for kind, scores in found.items() if scores is not None}

    @property
    def gap(self) -> float | None:
        """Chained minus oracle FID: what the chain's own low-res images cost. None where they do not compare."""
        return fid_gap(self.chained, self.oracle)

    @property
    def gap_error(self) -> float | None:
        """Standard error of the gap, from blocks of the same indices."""
        if self.gap is None or self.oracle is None:
            return None
        return paired_error(self.chained.model_dump(), self.oracle.model_dump())

    @property
    def gap_refusal(self) -> str:
        """Why there is no gap although there are both scores; empty where there is one, or no oracle."""
        fields = gap_refusal(self.chained.passport, self.oracle.passport) if self.oracle else ""
        return f"No gap at {self.name}: chained and oracle scores differ in {fields}." if fields else ""


class CascadeRow(Part):
    """One cascade as a whole: its stages, base first, what they cost together, and what the last of them scores.

    ``net_calls`` are the evaluations of nets, small and large, that draw one image.
    """

    name: str
    stages: list[str]
    size: int
    parameters: int
    training_seconds: float
    net_calls: int
    chained: Scores


class NodeRow(Part):
    """One node of the graph: how long it took when it was computed, and whether this run reused it."""

    name: str
    digest: str
    seconds: float
    reused: bool
    where: str


class Dataset(Part):
    """What was learned from. ``grid_rows`` names the rows of the sample grids; empty: the first ten classes."""

    name: str
    image_size: int
    classes: list[str]
    train: int
    val: int
    resize: str
    lossy: bool
    grid_rows: list[str] = Field([])

    @property
    def rows(self) -> list[str]:
        """Labels of the grids' rows, top to bottom."""
        return self.grid_rows or self.classes[:10]


class Report(Part):
    """Everything a report shows. ``settings`` is the resolved experiment, nested; ``created`` an ISO 8601 time.

    ``cascades`` are those that are compared, the main one first; empty where the stages are one cascade.
    """

    title: str
    created: str
    revision: str
    command: str
    notes: list[str]
    dataset: Dataset
    scorer: str
    stages: list[StageSection]
    cascades: list[CascadeRow] = Field([])
    searches: list[SearchSection]
    nodes: list[NodeRow]
    settings: dict[str, Any]

    def stage(self, name: str) -> StageSection:
        """The section of stage ``name``."""
        return next(section for section in self.stages if section.name == name)

    @property
    def standings(self) -> list[Standing]:
        """How the cascades of each size that several make came out, or why they are not ranked."""
        return standings(Entrant(row.name, row.size, row.chained.fid, row.chained.passport) for row in self.cascades)

    @property
    def last(self) -> StageSection:
        """The last stage of the main cascade."""
        return self.stage(self.cascades[0].stages[-1]) if self.cascades else self.stages[-1]
