"""The report: what an experiment came to, as one HTML file that opens offline. No figures are computed here.

``Report`` (with its parts) says what a report holds, ``render`` sets it with the templates beside this package, and
``figure_files`` gives its figures alone. The same report gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.published.beside import published_beside
from pipeline.report import search_wording
from pipeline.report.figures import loss_figure, stages_figure
from pipeline.report.parts import Report, StageSection
from pipeline.report.plotting import inline
from pipeline.report.score_figures import curve_figure, during_figure, spectra_figure
from pipeline.report.score_tables import footnotes, passport_tables, score_tables
from pipeline.report.search_figures import is_sliced, settings_figure
from pipeline.report.search_parts import KIND_NAMES, Kind, SearchSection
from pipeline.report.search_wording import told_front, told_points, told_rungs
from pipeline.report.templating import Figure, page_environment, source
from pipeline.report.trial_figures import front_figure, rungs_figure
from pipeline.report.wording import (
    stages_in_words,
    told_curves,
    told_losses,
    told_progress,
    told_spectra,
    told_stages,
    verdict,
)

WORST_CLASSES = 20  # shown at once; the others are folded away


def render(report: Report) -> str:
    """The report as one self-contained HTML page."""
    environment = page_environment()
    environment.filters |= {"chain": stages_in_words, "level": _level}
    environment.globals["say"] = search_wording
    drawn = {name: inline(figure.svg, name, figure.description) for name, figure in _figures(report).items()}
    return environment.get_template("report.html").render(
        report=report,
        last=report.last,
        figures=drawn,
        search_figures=_search_figures(report.searches),
        script=source(environment, "sortable.js"),
        kinds=KIND_NAMES,
        verdict=verdict(report),
        levels={stage.name: _level_of(stage, report) for stage in report.stages},
        classes=_class_rows(report),
        worst_classes=WORST_CLASSES,
        tables=score_tables(report),
        notes=footnotes(report),
        passports=passport_tables(report),
        published=published_beside(report),
        standings={standing.size: standing for standing in report.standings},
        settings=_setting_groups(report.settings),
        chance=1 / max(1, len(report.dataset.classes)),
    )


def figure_files(report: Report) -> dict[str, str]:
    """The figures of ``report`` as stand-alone SVG documents by file name, to log or to put into a paper."""
    return {f"{name}.svg": figure.svg for name, figure in _figures(report).items()}


def _figures(report: Report) -> dict[str, Figure]:
    found = {
        "fid-by-stage": Figure(stages_figure(report.stages), "FID of each stage: " + told_stages(report)),
        "loss": Figure(loss_figure(report.stages), "Training loss against the step: " + told_losses(report)),
    }
    found |= {
        "fid-by-count": Figure(curve_figure(report.stages), "FID against the sample count: " + told_curves(report)),
        "spectra": Figure(spectra_figure(report.stages), "Power by frequency: " + told_spectra(report)),
        "fid-by-step": Figure(
            during_figure(report.stages),
            "FID during training, in the features of the data set's own classifier: " + told_progress(report),
        ),
    }
    for section, names in zip(report.searches, _search_figures(report.searches), strict=True):
        found |= {
            names.settings: Figure(settings_figure(section), "Scores by setting: " + told_points(section)),
            names.front: Figure(
                front_figure(section), "Pareto front of FID and accuracy: " + told_front(section) + "."
            ),
            names.rungs: Figure(rungs_figure(section), "Looks during training: " + told_rungs(section)),
        }
    return {name: figure for name, figure in found.items() if figure.svg}


class SearchFigures(NamedTuple):
    """The names of the figures of one round of a search, drawn or not."""

    settings: str
    front: str
    rungs: str
    sliced: bool


def _search_figures(sections: Sequence[SearchSection]) -> list[SearchFigures]:
    """Of each section, by its stage; those of a stage that had a round already are numbered."""
    found = []
    for position, section in enumerate(sections):
        before = sum(other.stage == section.stage for other in sections[:position])
        name = section.stage + (f"-{before + 1}" if before else "")
        kind = "level" if section.of_levels else "search"
        found.append(SearchFigures(f"{kind}-{name}", f"front-{name}", f"rungs-{name}", is_sliced(section)))
    return found


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
    trials = [point for section in report.searches for point in section.points]
    tried = [point.places[stage.name] for point in trials if stage.name in point.places]
    same = next((point for point in tried if point.level == stage.level), None)
    logsnr = stage.logsnr if stage.logsnr is not None or same is None else same.logsnr
    step = stage.ddpm_step if stage.ddpm_step is not None or same is None else same.ddpm_step
    return Level(stage.level, stage.kind, logsnr, step)


def _level(level: Level | None) -> str:
    if level is None:
        return "–"
    kind = f", {KIND_NAMES[level.kind]}" if level.s else ""
    return f"{level.s:g}{kind}"


class ClassRow(NamedTuple):
    """A class: its accuracy at each stage that has any, FID where any has it, and whether it is far below the mean."""

    name: str
    shares: list[float | None]
    fids: list[float | None]
    low: bool


def _class_rows(report: Report) -> list[ClassRow]:
    """By the accuracy of the last stage, the worst first."""
    stages = [stage for stage in report.stages if stage.per_class]
    scored = [stage for stage in report.stages if stage.per_class_fid]
    mean = report.last.chained.accuracy

    def last(name: str) -> float | None:
        return report.last.per_class.get(name)

    rows = []
    for name in sorted(report.dataset.classes, key=lambda name: (last(name) is None, last(name), name)):
        shares = [stage.per_class.get(name) for stage in stages]
        if any(value is not None for value in shares):
            mine = last(name)
            low = mine is not None and mean is not None and mine < mean - 0.1
            rows.append(ClassRow(name, shares, [stage.per_class_fid.get(name) for stage in scored], low))
    return rows


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
