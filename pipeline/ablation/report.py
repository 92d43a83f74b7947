"""The report of an ablation as one HTML file that opens offline. No figures are computed here.

``AblationReport`` (in ``parts``) says what it holds, ``render`` sets it with the templates beside the package
``pipeline``, and ``figure_files`` gives its figures alone. The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.ablation.comparisons import POWER
from pipeline.ablation.compute_figure import compute_figure
from pipeline.ablation.curves import during_figure, level_accuracy_figure, level_fid_figure, loss_figure
from pipeline.ablation.figures import equality_figure, forest_figure, gap_figure
from pipeline.ablation.front_figure import pareto_figure, places
from pipeline.ablation.grids import Grid, fitted
from pipeline.ablation.level_scores import across, points_of
from pipeline.ablation.metrics import METRICS
from pipeline.ablation.parts import AblationReport, CellRow
from pipeline.ablation.settings_table import settings_table
from pipeline.ablation.tables import cell_tables, cost_rows, failures, stage_table, sweep_rows
from pipeline.ablation.wording import (
    told_compute,
    told_differences,
    told_equalities,
    told_front,
    told_levels,
    told_losses,
    told_progress,
    told_sharing,
    told_stages,
)
from pipeline.ablation.words import per_cent
from pipeline.published.rows import rows_for
from pipeline.published.tables import Ours, PublishedTable, ours_of, published_table
from pipeline.report.plotting import inline
from pipeline.report.templating import Figure, page_environment, source

SENTENCES = 4  # of the verdict, shown at once; the others are folded away


class Sheet(NamedTuple):
    """A grid of samples on the page: of a cell, of one kind of low-res images or none."""

    name: str
    kind: str  # "chained", "oracle", or "picture" for one that is no cell's
    grid: Grid


def render(report: AblationReport) -> str:
    """The report as one self-contained HTML page."""
    environment = page_environment()
    drawn = {name: inline(figure.svg, name, figure.description) for name, figure in _figures(report).items()}
    sheets = _sheets(report)
    return environment.get_template("ablation.html").render(
        report=report,
        figures=drawn,
        metrics=METRICS,
        scripts=[source(environment, name) for name in ("sortable.js", "ablation.js")],
        sentences=SENTENCES,
        tables=cell_tables(report),
        lost=failures(report),
        to_come=sum(len(cell.missing) for cell in report.cells),
        power=per_cent(POWER),
        across=across(report) is not None,
        base_swept=bool(points_of(report.base)),
        crossed=any(not place.ranked for place in places(report)),
        stages=stage_table(report),
        sweep=sweep_rows(report),
        sheets=sheets,
        shortened=any(sheet.grid.columns < sheet.grid.whole for sheet in sheets),
        costs=cost_rows(report),
        longest=max([cell.gpu_seconds + cell.reused_seconds for cell in report.cells] + [1e-3]),
        sharing=told_sharing(report),
        settings=settings_table(report),
        published=_published(report),
    )


def figure_files(report: AblationReport) -> dict[str, str]:
    """The figures of ``report`` as stand-alone SVG documents by file name, to log or to put into a paper."""
    return {f"{name}.svg": figure.svg for name, figure in _figures(report).items()}


def _figures(report: AblationReport) -> dict[str, Figure]:
    found = {
        "differences": Figure(forest_figure(report), f"Differences from {report.baseline}: {told_differences(report)}"),
        "equalities": Figure(equality_figure(report), f"Claims of equality: {told_equalities(report)}"),
        "fid-by-level": Figure(
            level_fid_figure(report), f"FID against the augmentation level: {told_levels(report, 'chained_fid')}"
        ),
        "accuracy-by-level": Figure(
            level_accuracy_figure(report), f"Accuracy against the augmentation level: {told_levels(report, 'accuracy')}"
        ),
        "fid-by-stage": Figure(gap_figure(report), f"Oracle and chained FID: {told_stages(report)}"),
        "front": Figure(pareto_figure(report), f"Accuracy against chained FID: {told_front(report)}"),
        "compute": Figure(compute_figure(report), f"Chained FID against GFLOP an image: {told_compute(report)}"),
        "loss": Figure(loss_figure(report), f"Training loss of {report.stage}: {told_losses(report)}"),
        "fid-by-step": Figure(during_figure(report), f"FID of {report.stage} during training: {told_progress(report)}"),
    }
    return {name: figure for name, figure in found.items() if figure.svg}


def _pngs(report: AblationReport) -> Iterator[tuple[str, str, bytes]]:
    """(name, kind, PNG) of everything there is to look at, the baseline's first."""
    for cell in report.in_order:
        if cell.grid_png:
            yield cell.name, "chained", cell.grid_png
    for cell in report.in_order:
        if cell.oracle_png:
            yield cell.name, "oracle", cell.oracle_png
    for name, png in report.pictures.items():
        yield name, "picture", png


def _sheets(report: AblationReport) -> list[Sheet]:
    rows = len(report.dataset.rows)
    pngs = {f"{kind} {name}": png for name, kind, png in _pngs(report)}
    grids = fitted(pngs, rows=rows)
    return [Sheet(name, kind, grids[f"{kind} {name}"]) for name, kind, _ in _pngs(report)]


def _published(report: AblationReport) -> PublishedTable:
    """Published results beside the chosen cell and the baseline, each by its first whole replicate."""
    names = dict.fromkeys(name for name in (report.chosen, report.baseline) if name is not None)
    ours = [one for name in names for one in _ours(report.cell(name))]
    if report.real is not None:
        ours.append(ours_of("real images", "real", report.real))
    dataset = report.dataset
    found = rows_for(dataset.name, report.size, dataset.classes) if ours else []
    return published_table(found, ours, name=dataset.name, classes=dataset.classes, size=report.size)


def _ours(cell: CellRow) -> Iterator[Ours]:
    whole = next((one for one in cell.finished if one.chained is not None), None)
    if whole is None or whole.chained is None:
        return
    yield ours_of(f"{cell.name}, seed {whole.seed}", "chained", whole.chained)
    if whole.oracle is not None:
        yield ours_of(f"{cell.name} alone, seed {whole.seed}", "oracle", whole.oracle)
