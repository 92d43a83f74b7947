"""What the figures of an ablation's report say, for those who do not see them, and its sentences on cost.

What the ablation found is in ``findings``; nothing is computed or decided here.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.ablation import words
from pipeline.ablation.compute_figure import cheapest, computed
from pipeline.ablation.front_figure import places
from pipeline.ablation.level_scores import Figures, curve_of, kinds_of, level_rows
from pipeline.ablation.metrics import METRICS
from pipeline.ablation.parts import AblationReport, CellRow, Difference
from pipeline.ablation.spec import Metric
from pipeline.ablation.tables import stage_table
from pipeline.report.search_parts import KIND_NAMES
from pipeline.report.wording import clock, number, share


def told_differences(report: AblationReport) -> str:
    """Each cell's difference from the baseline in the first metric that has any."""
    for metric in report.metrics:
        found = {cell.name: cell.differences[metric] for cell in report.others if metric in cell.differences}
        if found:
            told = [f"{name} {words.difference(metric, one.mean)}{_between(metric, one)}" for name, one in
                    found.items()]  # fmt: skip
            return f"{METRICS[metric].name}, {'; '.join(told)}. The table above has the other metrics."
    return "none."


def _between(metric: Metric, one: Difference) -> str:
    return "" if one.low is None or one.high is None else f" {words.interval(metric, one.low, one.high)}"


def told_equalities(report: AblationReport) -> str:
    """The sentences of the claims."""
    return " ".join(claim.sentence for claim in report.equalities)


def told_stages(report: AblationReport) -> str:
    """Oracle and chained FID of the last stage of every cell."""
    table = stage_table(report)
    last = [(name, cells[-1]) for name, cells in table.rows if cells]
    found = "; ".join(f"{name} oracle {one.oracle}, chained {one.chained}" for name, one in last)
    return f"at {report.stage}, {found}."


def told_front(report: AblationReport) -> str:
    """Where the cells lie, and which of them are on the front."""
    found = "; ".join(
        f"{one.cell.name} FID {number(one.fid)}, accuracy {share(one.accuracy)}{'' if one.ranked else ', not ranked'}"
        for one in places(report)
    )
    return f"{found}. On the front: {words.listed(report.front) if report.front else 'none'}."


def told_compute(report: AblationReport) -> str:
    """What every cell's images cost, and which cells none is cheaper and better than."""
    found = "; ".join(f"{cell.name} {number(gflop)}, FID {number(fid)}" for cell, gflop, fid in computed(report))
    return f"{found}. None is both cheaper and better than {words.listed(cheapest(report))}."


def told_levels(report: AblationReport, figure: Figures) -> str:
    """The best level and kind of every curve's panel."""
    found = "; ".join(told for cell in level_rows(report) if (told := _best(cell, figure)))
    return f"best at {found}."


def _best(cell: CellRow, figure: Figures) -> str:
    found = [(middle, level, kind) for kind in kinds_of(cell) for level, middle, _ in curve_of(cell, kind, figure)]
    if not found:
        return ""
    best = (max if figure == "accuracy" else min)(found, key=lambda one: one[0])
    value, level, kind = best
    told = share(value) if figure == "accuracy" else number(value)
    return f"s = {level:g}{f', {KIND_NAMES[kind]},' if level else ''} for {cell.name} with {told}"


def told_losses(report: AblationReport) -> str:
    """The last loss of every cell's first seed."""
    ends = [(cell.name, one.loss[-1][1]) for cell in report.cells for one in cell.finished[:1] if one.loss]
    return "last values " + "; ".join(f"{name} {number(value)}" for name, value in ends) + "."


def told_progress(report: AblationReport) -> str:
    """The last FID of every cell's first seed."""
    ends = [(cell.name, one.during[-1][1]) for cell in report.cells for one in cell.finished[:1] if one.during]
    return "last values " + "; ".join(f"{name} {number(value)}" for name, value in ends) + "."


def told_sharing(report: AblationReport) -> str:
    """What the ablation took, and what it saved by computing once what several replicates need."""
    return " ".join(_sharing(report))


def _sharing(report: AblationReport) -> Iterator[str]:
    sharing = report.sharing
    if sharing.spent_seconds is not None and sharing.separate_seconds is not None:
        yield (
            f"All replicates together took {clock(sharing.spent_seconds)} of {sharing.device or 'device'} time; as "
            f"separate experiments they would have taken {clock(sharing.separate_seconds)}."
        )
    if sharing.saved_seconds:
        whole = sharing.separate_seconds
        part = f", {words.per_cent(round(sharing.saved_seconds / whole, 2))} of it" if whole else ""
        yield f"Computing once what several need saved {clock(sharing.saved_seconds)}{part}."
    if sharing.trainings_run is not None and sharing.trainings_asked is not None:
        yield f"{sharing.trainings_run} trainings served the {sharing.trainings_asked} that the replicates ask for."
    if sharing.wall_seconds is not None:
        yield f"The last command took {clock(sharing.wall_seconds)} by the clock."
