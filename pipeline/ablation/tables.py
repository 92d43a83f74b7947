"""The tables of an ablation's report: what stands in them, as words. The templates set them; no figures are computed.

A cell's value is its mean and standard deviation over seeds, with as many digits as the deviation allows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.ablation import words
from pipeline.ablation.level_scores import Curve, curve_of, level_rows, oracle_curve, points_of
from pipeline.ablation.metrics import METRICS, mean, spread
from pipeline.ablation.parts import AblationReport, CellRow, Difference
from pipeline.ablation.spec import Metric
from pipeline.report.search_parts import KIND_NAMES
from pipeline.report.wording import clock, estimate, number, share

FIRST: tuple[Metric, ...] = ("chained_fid", "oracle_fid", "gap", "accuracy")  # of the first table; others follow below


class DifferenceText(NamedTuple):
    """A difference from the baseline in words; ``way`` is "better" or "worse" where one was found, ``seeds`` how many
    it is over where that is not all that are declared; ``flat`` where it was the same under each of them."""

    mean: str
    interval: str
    p: str
    detectable: str
    way: str
    seeds: str
    flat: bool


class MetricText(NamedTuple):
    """A cell's value of a metric, the number to sort by, and its difference; None for the baseline or for lack of
    seeds. ``seeds`` is how many the value is over, where finished ones lack it."""

    value: str
    number: float | None
    difference: DifferenceText | None
    seeds: str


class CellText(NamedTuple):
    """A line of the table of cells."""

    cell: CellRow
    level: str
    metrics: list[MetricText]


class CellTable(NamedTuple):
    """The cells by some of the metrics."""

    metrics: list[Metric]
    rows: list[CellText]


def cell_tables(report: AblationReport) -> list[CellTable]:
    """The table of the first screen, then that of the other metrics where there are any."""
    groups = [[name for name in report.metrics if (name in FIRST) == first] for first in (True, False)]
    return [CellTable(names, [_row(report, cell, names) for cell in report.in_order]) for names in groups if names]


def _row(report: AblationReport, cell: CellRow, names: Sequence[Metric]) -> CellText:
    return CellText(cell, level_words(cell), [_metric(report, cell, name) for name in names])


def level_words(cell: CellRow) -> str:
    """The augmentation that the cell's last stage is sampled at: s = 0.1, truncated. Several where seeds chose so."""
    found = sorted({(one.level, one.kind) for one in cell.finished if one.level is not None}, key=str)
    kinds = {kind for level, kind in found if level and kind}
    levels = " or ".join(dict.fromkeys(f"{level:g}" for level, _ in found))
    told = ", ".join(KIND_NAMES[kind] for kind in KIND_NAMES if kind in kinds)
    return f"s = {levels}{', ' if told else ''}{told}" if levels else ""


def _metric(report: AblationReport, cell: CellRow, name: Metric) -> MetricText:
    middle = cell.mean(name)
    found = cell.differences.get(name)
    told = None if found is None else _difference(report, found, name)
    count = len(cell.values(name))
    short = f"over {words.seeds(count)}" if 0 < count < len(cell.finished) else ""
    return MetricText(with_spread(name, middle, cell.spread(name)), middle, told, short)


def with_spread(name: Metric, middle: float | None, wide: float | None) -> str:
    """A mean and its standard deviation: 13.9 ± 0.9, or per cent of a share."""
    if middle is None or not METRICS[name].share:
        return estimate(middle, wide)
    if not wide:
        return share(middle)
    return f"{estimate(100 * middle, 100 * wide)}\N{NO-BREAK SPACE}%"


def _difference(report: AblationReport, found: Difference, name: Metric) -> DifferenceText:
    scale = 100 if METRICS[name].share else 1
    low, high = found.low, found.high
    width = abs(found.mean) if low is None or high is None else (high - low) / 2
    ends = "" if low is None or high is None else f"[{signed(scale * low, scale * width)}, "
    ends += "" if low is None or high is None else f"{signed(scale * high, scale * width)}]"
    way = ""
    if report.found(found):
        way = "better" if (found.mean < 0) == METRICS[name].lower else "worse"
    return DifferenceText(
        mean=signed(scale * found.mean, scale * width),
        interval=ends,
        p="" if found.p is None else words.probability(found.p),
        detectable="" if found.detectable is None else words.difference(name, found.detectable),
        way=way,
        seeds="" if found.n == len(report.seeds) else f"over {words.seeds(found.n)}",
        flat=found.error == 0,
    )


def signed(value: float, width: float) -> str:
    """A difference with its sign, to the second digit of ``width``: −2.1, +0.04."""
    decimals = 2 if not width or not math.isfinite(width) else min(8, max(0, 1 - math.floor(math.log10(abs(width)))))
    text = f"{value:+z,.{decimals}f}"
    return text.replace("-", "−") if text.strip("+-0.") else text[1:]


class Lost(NamedTuple):
    """A replicate that failed, and why."""

    cell: str
    seed: int
    error: str


def failures(report: AblationReport) -> list[Lost]:
    """Every failed replicate, with why; those still to come are none."""
    return [
        Lost(cell.name, one.seed, one.error or "no reason was kept") for cell in report.cells for one in cell.failed
    ]


class StageText(NamedTuple):
    """Oracle and chained FID of a cell at a stage, and their gap, each over seeds."""

    oracle: str
    chained: str
    gap: str


class StageTable(NamedTuple):
    """Stages by name with their size in px, and each cell's scores at them."""

    stages: dict[str, int]
    rows: list[tuple[str, list[StageText]]]


def stage_table(report: AblationReport) -> StageTable:
    """Chained beside oracle at every stage of the chain."""
    stages = {row.stage: row.size for cell in report.cells for one in cell.finished for row in one.stages}
    return StageTable(stages, [(cell.name, [_stage(cell, name) for name in stages]) for cell in report.in_order])


def _stage(cell: CellRow, name: str) -> StageText:
    rows = [row for one in cell.finished for row in one.stages if row.stage == name]
    oracle = [row.oracle.fid for row in rows if row.oracle]
    chained, gaps = [row.chained.fid for row in rows if row.chained], [row.gap for row in rows]
    return StageText(*(estimate(mean(values), spread(values)) for values in (oracle, chained, gaps)))


class SweepRow(NamedTuple):
    """The scores of a cell at one level, over seeds."""

    cell: str
    kind: str
    level: float
    logsnr: float | None
    step: float | None
    chained: str
    oracle: str
    accuracy: str


def sweep_rows(report: AblationReport) -> list[SweepRow]:
    """What the curves against s show, as numbers."""
    rows: list[SweepRow] = []
    for cell in level_rows(report):
        points = points_of(cell)
        tried = sorted({(point.level, point.kind if point.level else "") for point in points})  # at s = 0 kinds are one
        for level, kind in tried:
            facts = next(point for point in points if point.level == level and kind in ("", point.kind))
            chained, accuracy = curve_of(cell, facts.kind, "chained_fid"), curve_of(cell, facts.kind, "accuracy")
            figures = (
                _at_level(chained, level, "chained_fid"),
                _at_level(oracle_curve(cell), level, "oracle_fid"),
                _at_level(accuracy, level, "accuracy"),
            )
            told = KIND_NAMES[facts.kind] if kind else "either"
            rows.append(SweepRow(cell.name, told, level, facts.logsnr, facts.ddpm_step, *figures))
    return rows


def _at_level(curve: Curve, level: float, name: Metric) -> str:
    return next((with_spread(name, middle, wide) for at, middle, wide in curve if at == level), "–")


class CostRow(NamedTuple):
    """What a cell took: its net's parameters and FLOPs, a range where its seeds chose differently; by the clock its
    trainings of the last stage, and of these from begin to first step."""

    cell: CellRow
    parameters: str
    drawn: str
    trained: str
    training: str
    starts: str


def cost_rows(report: AblationReport) -> list[CostRow]:
    """What every cell took."""
    found = []
    for cell in report.in_order:
        trainings = [one.training_seconds for one in cell.finished if one.training_seconds is not None]
        starts = [one.start_seconds for one in cell.finished if one.start_seconds is not None]
        told = "–" if not starts else clock(max(starts)) if len(starts) < 2 else _range(starts)
        nets = [one.compute for one in cell.finished if one.compute is not None]
        computed = (
            _span([net.parameters / 1e6 for net in nets]),
            _span([net.drawn_gflop for net in nets]),
            _span([net.trained_pflop for net in nets]),
        )
        found.append(CostRow(cell, *computed, clock(sum(trainings) / len(trainings)) if trainings else "–", told))
    return found


def _range(seconds: Sequence[float]) -> str:
    return f"{_span(seconds)} s"


def _span(values: Sequence[float]) -> str:
    """From the least to the most; a dash of nothing."""
    if not values:
        return "–"
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low}–{high}"
