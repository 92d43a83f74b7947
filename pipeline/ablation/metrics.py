"""The metrics of an ablation: what they are called, which way is better, and how a few values are summed up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.ablation.spec import Metric


class MetricWords(NamedTuple):
    """How a metric is told: its name, whether lower is better, and whether it is a share in [0, 1]."""

    name: str
    lower: bool
    share: bool


METRICS: dict[Metric, MetricWords] = {
    "chained_fid": MetricWords("chained FID", lower=True, share=False),
    "oracle_fid": MetricWords("oracle FID", lower=True, share=False),
    "gap": MetricWords("gap", lower=True, share=False),
    "accuracy": MetricWords("accuracy", lower=False, share=True),
    "recall": MetricWords("recall", lower=False, share=True),
}


def mean(values: Iterable[float | None]) -> float | None:
    """Arithmetic mean of the finite ones; None of nothing."""
    found = _finite(values)
    return statistics.fmean(found) if found else None


def spread(values: Iterable[float | None]) -> float | None:
    """Standard deviation (n - 1) of the finite ones; None of fewer than two."""
    found = _finite(values)
    return statistics.stdev(found) if len(found) > 1 else None


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]
