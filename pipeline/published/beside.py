"""The table of published results that belongs to an experiment's report. What it holds is for others to say."""

from __future__ import annotations

from pipeline.published.rows import rows_for
from pipeline.published.tables import Ours, PublishedTable, ours_of, published_table
from pipeline.report.parts import CascadeRow, Report


def published_beside(report: Report) -> PublishedTable:
    """Published results at the size of the report's last stage, beside every cascade that makes that size."""
    last, dataset = report.last, report.dataset
    ours = [_cascade(report, row) for row in report.cascades if row.size == last.size]
    ours = ours or [ours_of("this cascade", "chained", last.chained, last.cas)]
    if last.oracle is not None:
        ours.append(ours_of(f"{last.name} alone", "oracle", last.oracle))
    ours.append(ours_of("held out", "real", last.real, last.cas_real))
    found = rows_for(dataset.name, last.size, dataset.classes)
    return published_table(found, ours, name=dataset.name, classes=dataset.classes, size=last.size)


def _cascade(report: Report, row: CascadeRow) -> Ours:
    return ours_of(row.name, "chained", row.chained, report.stage(row.stages[-1]).cas)
