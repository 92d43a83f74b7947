"""What a report holds, as plain validated data; not how it looks (``report``), nor where it is from (``collecting``).

A figure that was not taken, or is not finite, is None. Imports no torch, Ray or MLflow.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

Kind = Literal["truncated", "non_truncated"]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Score = Annotated[float | None, BeforeValidator(_finite)]


class Part(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class Scores(Part):
    """One row of scores of ``samples`` images: FID >= 0, the others are shares in [0, 1]."""

    samples: int | None
    fid: Score
    accuracy: Score
    precision: Score
    recall: Score


class StageSection(Part):
    """One rung of the cascade.

    Grids are PNG bytes with one row per class of ``Dataset.grid_rows``. ``level`` is the augmentation level s that
    this stage is sampled at, with its log-SNR and the paper's step (out of 1000). ``per_class`` is the accuracy of the
    chained samples.
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
    grid_png: bytes | None
    oracle_png: bytes | None
    real_png: bytes | None
    per_class: dict[str, float]

    @property
    def gap(self) -> float | None:
        """Chained minus oracle FID: what the chain's own low-res images cost."""
        if self.oracle is None or self.oracle.fid is None or self.chained.fid is None:
            return None
        return self.chained.fid - self.oracle.fid


class SearchPoint(Part):
    """One trial: an augmentation level s, shown as time, log-SNR and DDPM step, and what it scored."""

    kind: Kind
    level: float
    logsnr: float
    ddpm_step: float
    chained_fid: Score
    oracle_fid: Score
    accuracy: Score
    recall: Score
    seconds: float

    @property
    def gap(self) -> float | None:
        """Chained minus oracle FID."""
        return None if self.chained_fid is None or self.oracle_fid is None else self.chained_fid - self.oracle_fid


class Choice(Part):
    """The kind and level that a round of the search chose."""

    kind: Kind
    level: float


class SearchSection(Part):
    """The trials of one stage. At s = 0 the kinds are the same thing."""

    stage: str
    metric: str
    points: list[SearchPoint]
    chosen: Choice

    def is_chosen(self, point: SearchPoint) -> bool:
        """Whether ``point`` has the chosen setting."""
        same = point.kind == self.chosen.kind or point.level == 0.0
        return same and point.level == self.chosen.level


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
    grid_rows: list[str] = []

    @property
    def rows(self) -> list[str]:
        """Labels of the grids' rows, top to bottom."""
        return self.grid_rows or self.classes[:10]


class Report(Part):
    """Everything a report shows. ``settings`` is the resolved experiment, nested; ``created`` an ISO 8601 time."""

    title: str
    created: str
    revision: str
    command: str
    notes: list[str]
    dataset: Dataset
    scorer: str
    stages: list[StageSection]
    searches: list[SearchSection]
    nodes: list[NodeRow]
    settings: dict[str, Any]
