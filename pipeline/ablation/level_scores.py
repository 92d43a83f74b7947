"""Scores against the augmentation level s, over seeds: from the search of each cell, or from the cells themselves where
level and kind are all that they differ in. As numbers; ``curves`` draws them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Literal

from pipeline.ablation.metrics import mean, spread
from pipeline.ablation.parts import AblationReport, CellRow, Replicate, SweepPoint
from pipeline.report.search_parts import KIND_NAMES, Kind

Figures = Literal["chained_fid", "oracle_fid", "accuracy"]
Curve = list[tuple[float, float, float | None]]  # (level, mean and standard deviation over seeds, None of one seed)

ALL_CELLS = "all cells"  # no cell is called so: their names have no spaces


def swept(report: AblationReport) -> list[CellRow]:
    """The cells whose searches scored several levels."""
    return [cell for cell in report.cells if len({point.level for point in points_of(cell)}) > 1]


def across(report: AblationReport) -> CellRow | None:
    """The cells as one that was scored at all their levels, where these are fixed, several, and, with the kind, the
    only settings of the last stage's sampling or of anything else that the cells differ in; else None."""
    own = f"stages.{report.stage}.sampling."
    changed = {path for cell in report.cells for path in cell.settings}
    if report.settings.get("search") is not None or not changed <= {f"{own}level", f"{own}augmentation"}:
        return None
    found: dict[int, list[SweepPoint]] = defaultdict(list)
    for cell in report.cells:
        for one in cell.finished:
            if (point := _point(one, chosen=cell.name == report.chosen)) is not None:
                found[one.seed].append(point)
    if len({point.level for points in found.values() for point in points}) < 2:
        return None
    rows = [Replicate(seed=seed, status="finished", sweep=points) for seed, points in found.items()]
    return CellRow(name=ALL_CELLS, settings={}, replicates=rows)


def _point(one: Replicate, *, chosen: bool) -> SweepPoint | None:
    if one.level is None or one.kind is None or one.chained is None:
        return None
    return SweepPoint(
        kind=one.kind,
        level=one.level,
        logsnr=one.logsnr,
        ddpm_step=one.ddpm_step,
        chained_fid=one.chained.fid,
        chained_fid_error=one.chained.fid_error,
        oracle_fid=one.oracle.fid if one.oracle else None,
        accuracy=one.chained.accuracy,
        chosen=chosen,
    )


def level_rows(report: AblationReport) -> list[CellRow]:
    """What there is to show against the level: the cells that were swept, or all cells as one."""
    whole = across(report)
    return [whole] if whole is not None else swept(report)


def points_of(cell: CellRow) -> list[SweepPoint]:
    return [point for one in cell.finished for point in one.sweep]


def kinds_of(cell: CellRow) -> list[Kind]:
    """The kinds that were tried above s = 0, where they are the same thing; only where there is no such level, at 0."""
    points = points_of(cell)
    tried = {point.kind for point in points if point.level > 0} or {point.kind for point in points}
    return [kind for kind in KIND_NAMES if kind in tried]


def curve_of(cell: CellRow, kind: Kind, figure: Figures) -> Curve:
    """Mean and spread over seeds at every level of ``kind``; what was scored at s = 0 stands for both kinds."""
    return _curve([_at(one.sweep, kind, figure) for one in cell.finished])


def oracle_curve(cell: CellRow) -> Curve:
    """Mean and spread over seeds of the oracle FID at every level: real low-res images have no kind."""
    return _curve([_mean_of_kinds(one.sweep) for one in cell.finished])


def _at(points: Iterable[SweepPoint], kind: Kind, figure: Figures) -> dict[float, float]:
    found: dict[float, float] = {}
    for point in sorted(points, key=lambda point: point.kind != kind):  # of two at s = 0 the one of this kind
        value = getattr(point, figure)
        if value is not None and (point.kind == kind or point.level == 0):
            found.setdefault(point.level, value)
    return found


def _mean_of_kinds(points: Iterable[SweepPoint]) -> dict[float, float]:
    found: dict[float, list[float]] = defaultdict(list)
    for point in points:
        if point.oracle_fid is not None:
            found[point.level].append(point.oracle_fid)
    return {level: sum(values) / len(values) for level, values in found.items()}


def _curve(seeds: Iterable[dict[float, float]]) -> Curve:
    found: dict[float, list[float]] = defaultdict(list)
    for one in seeds:
        for level, value in one.items():
            found[level].append(value)
    curve: list[Any] = [(level, mean(values), spread(values)) for level, values in sorted(found.items())]
    return [at for at in curve if at[1] is not None]
