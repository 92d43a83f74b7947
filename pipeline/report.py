"""The report: what an experiment came to, as one HTML file that opens offline. No figures are computed here.

``Report`` (with its parts) says what a report holds, ``render`` sets it with the templates beside this package, and
``figure_files`` gives its figures alone. The same report gives the same bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.figures import KIND_NAMES, level_figure, loss_figure, stages_figure
from pipeline.plotting import inline
from pipeline.report_parts import (
    Choice,
    Dataset,
    Kind,
    NodeRow,
    Part,
    Report,
    Scores,
    SearchPoint,
    SearchSection,
    StageSection,
)

__all__ = [
    "Choice",
    "Dataset",
    "Kind",
    "NodeRow",
    "Part",
    "Report",
    "Scores",
    "SearchPoint",
    "SearchSection",
    "StageSection",
    "clock",
    "figure_files",
    "render",
    "verdict",
]

WORST_CLASSES = 20  # shown at once; the others are folded away


class Figure(NamedTuple):
    """A stand-alone SVG and what it says, for those who do not see it."""

    svg: str
    description: str


def render(report: Report) -> str:
    """The report as one self-contained HTML page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("pipeline"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "share": share, "clock": clock, "data_uri": _data_uri, "level": _level}
    drawn = {name: inline(figure.svg, name, figure.description) for name, figure in _figures(report).items()}
    return environment.get_template("report.html").render(
        report=report,
        last=report.stages[-1],
        figures=drawn,
        kinds=KIND_NAMES,
        verdict=verdict(report),
        levels={stage.name: _level_of(stage, report) for stage in report.stages},
        classes=_class_rows(report),
        worst_classes=WORST_CLASSES,
        settings=_setting_groups(report.settings),
        chance=1 / max(1, len(report.dataset.classes)),
    )


def figure_files(report: Report) -> dict[str, str]:
    """The figures of ``report`` as stand-alone SVG documents by file name, to log or to put into a paper."""
    return {f"{name}.svg": figure.svg for name, figure in _figures(report).items()}


def _figures(report: Report) -> dict[str, Figure]:
    found = {
        "fid-by-stage": Figure(stages_figure(report.stages), "FID of each stage: " + _told_stages(report)),
        "loss": Figure(loss_figure(report.stages), "Training loss against the step: " + _told_losses(report)),
    }
    for section in report.searches:
        told = f"Scores of {section.stage} against the augmentation level s: " + _told_points(section)
        found[f"level-{section.stage}"] = Figure(level_figure(section), told)
    return {name: figure for name, figure in found.items() if figure.svg}


def _told_stages(report: Report) -> str:
    def one(stage: StageSection) -> str:
        oracle = f", oracle {number(stage.oracle.fid)}" if stage.oracle else ""
        return f"{stage.name} chained {number(stage.chained.fid)}{oracle}, real {number(stage.real.fid)}"

    return "; ".join(one(stage) for stage in report.stages) + "."


def _told_losses(report: Report) -> str:
    ends = [(stage.name, stage.loss[0][1], stage.loss[-1][1]) for stage in report.stages if stage.loss]
    return "; ".join(f"{name} from {number(first)} to {number(last)}" for name, first, last in ends) + "."


def _told_points(section: SearchSection) -> str:
    def one(point: SearchPoint) -> str:
        told = f"s {point.level:g} {KIND_NAMES[point.kind]} chained FID {number(point.chained_fid)}"
        return told + f", accuracy {share(point.accuracy)}" + (" (chosen)" if section.is_chosen(point) else "")

    return "; ".join(one(point) for point in section.points) + "."


def verdict(report: Report) -> str:
    """What came out, in a few sentences made of the figures alone; what was not taken is not mentioned."""
    last, classes = report.stages[-1], len(report.dataset.classes)
    sentences = []
    if last.chained.accuracy is not None:
        real = f" ({share(last.real.accuracy)} of real images" if last.real.accuracy is not None else " ("
        real += f"{', ' if last.real.accuracy is not None else ''}chance {share(1 / max(1, classes))})"
        sentences.append(
            f"A classifier trained on real images recognises {share(last.chained.accuracy)} of the cascade's "
            f"{last.size} px samples{real}."
        )
    if last.per_class:
        worst = min(last.per_class, key=lambda name: last.per_class[name])
        sentences.append(f"The hardest class is {worst}, {share(last.per_class[worst])}.")
    if last.chained.fid is not None:
        fid = f"Their chained FID is {number(last.chained.fid)}"
        fid += f"; real held-out images score {number(last.real.fid)}." if last.real.fid is not None else "."
        sentences.append(fid)
    if last.gap is not None and last.oracle is not None:
        cause = "most of it is lost below" if last.gap > (last.oracle.fid or 0.0) else "most of it is its own"
        costs = f"the chain costs {number(last.gap)}, so {cause}" if last.gap > 0 else "the chain costs nothing"
        sentences.append(f"Given real low-res images, {last.name} alone reaches {number(last.oracle.fid)}: {costs}.")
    return " ".join(sentences) or "No scores were taken."


class Level(NamedTuple):
    """The augmentation level of a stage as a person reads it."""

    s: float
    kind: Kind
    logsnr: float | None
    step: float | None


def _level_of(stage: StageSection, report: Report) -> Level | None:
    """None for the base stage. log-SNR and step come from a trial at the same level where the stage has none."""
    if stage.low_res_size is None:
        return None
    tried = [point for section in report.searches if section.stage == stage.name for point in section.points]
    same = next((point for point in tried if point.level == stage.level), None)
    logsnr = stage.logsnr if stage.logsnr is not None or same is None else same.logsnr
    step = stage.ddpm_step if stage.ddpm_step is not None or same is None else same.ddpm_step
    return Level(stage.level, stage.kind, logsnr, step)


def _level(level: Level | None) -> str:
    if level is None:
        return "–"
    kind = f", {KIND_NAMES[level.kind]}" if level.s else ""
    return f"{level.s:g}{kind}"


def _class_rows(report: Report) -> list[tuple[str, list[float | None]]]:
    """(class, accuracy of each stage that has any), the worst at the last stage first."""
    stages = [stage for stage in report.stages if stage.per_class]
    rows = [(name, [stage.per_class.get(name) for stage in stages]) for name in report.dataset.classes]
    rows = [(name, shares) for name, shares in rows if any(value is not None for value in shares)]
    return sorted(rows, key=lambda row: (row[1][-1] is None, row[1][-1], row[0]))


def _setting_groups(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """(top-level section, [(dotted path as ``--set`` takes it, value)]); stages are sections of their own."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for path, value in _flat(settings, ""):
        parts = path.split(".")
        depth = 2 if parts[0] == "stages" and len(parts) > 2 else 1
        group = ".".join(parts[:depth]) if len(parts) > 1 else "experiment"
        groups.setdefault(group, []).append((path, value))
    return list(groups.items())


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and (value or not path):
        for key, inner in value.items():
            yield from _flat(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def number(value: float | None) -> str:
    """Three significant digits, from a thousand to a million all of them, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")


def share(value: float | None) -> str:
    """A share in [0, 1] as per cent (with a space that no line breaks at), or a dash."""
    return "–" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def clock(seconds: float) -> str:
    """Seconds as a person says them: 0.4 s, 52 s, 3 min 05 s, 2 h 10 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
