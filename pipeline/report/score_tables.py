"""The tables of scores in a report: which columns they need, what stands in them, and the footnotes of the figures.

Words and numbers alone; the templates set them. A column that no row has a figure for is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.cas.passport_words import cas_told
from pipeline.report.parts import Report, StageSection
from pipeline.report.scores import FeatureScores
from pipeline.report.wording import estimate, number, share
from pipeline.scoring.passport_words import told

EXTRACTORS = {"classifier": "the data set's own classifier", "inception": "Inception-v3", "dinov2": "DINOv2"}


def extractor_words(name: str) -> str:
    """A net as a person knows it; of a family the member is told, too: DINOv2 (dinov2-vit-l-14)."""
    if name in EXTRACTORS:
        return EXTRACTORS[name]
    family = name.split("-")[0]
    return f"{EXTRACTORS[family]} ({name})" if family in EXTRACTORS else name


class Column(NamedTuple):
    """A column: its header, the figure that it is of and how a row's cell is written."""

    header: str
    figure: str
    text: Callable[[Any], str]


class ScoreRow(NamedTuple):
    """A line of a table; ``flags`` belong to its first cell, the Frechet distance."""

    stage: StageSection
    kind: str
    cells: list[str]
    flags: list[str]


class ScoreTable(NamedTuple):
    """All rows of one extractor: ``features`` says which."""

    features: str
    headers: list[str]
    rows: list[ScoreRow]


def _with_error(figure: str) -> Callable[[Any], str]:
    return lambda row: estimate(getattr(row, figure), getattr(row, f"{figure}_error"))


def _with_spread(figure: str) -> Callable[[Any], str]:
    return lambda row: estimate(getattr(row, figure), getattr(row, f"{figure}_std"))


def _plain(figure: str) -> Callable[[Any], str]:
    return lambda row: number(getattr(row, figure))


def _share(figure: str) -> Callable[[Any], str]:
    return lambda row: share(getattr(row, figure))


def _columns(extractor: str) -> list[Column]:
    distance = "FD-DINOv2" if extractor.startswith("dinov2") else "FID"
    return [
        Column(distance, "fid", _with_error("fid")),
        Column(f"{distance}∞", "fid_infinity", _with_error("fid_infinity")),
        Column(f"{distance} to held-out", "fid_val", _plain("fid_val")),
        Column("KID", "kid", _with_spread("kid")),
        Column("Inception score", "inception_score", _with_spread("inception_score")),
        Column("sFID", "sfid", _plain("sfid")),
        Column("precision", "precision", _share("precision")),
        Column("recall", "recall", _share("recall")),
    ]


def score_tables(report: Report) -> list[ScoreTable]:
    """A table for the main scorer, then one for each that was taken beside it; none without any figure."""
    passports = [row.passport for stage in report.stages for row in stage.rows.values() if row.passport]
    main = passports[0].extractor.name if passports else ""
    further = dict.fromkeys(name for stage in report.stages for row in stage.rows.values() for name in row.also)
    tables = [_table(report.stages, main, "")] + [_table(report.stages, name, name) for name in further]
    return [table for table in tables if table.headers]


def _table(stages: Sequence[StageSection], extractor: str, among: str) -> ScoreTable:
    """Of the main scorer, or of the one called ``among`` the further ones."""
    sets = [(stage, kind, row) for stage in stages for kind, row in stage.rows.items()]
    found: list[tuple[StageSection, str, FeatureScores]] = [
        (stage, kind, row.also[among] if among else row) for stage, kind, row in sets if not among or among in row.also
    ]
    known, rows = _columns(extractor), [row for *_, row in found]
    columns = [column for column in known if any(getattr(row, column.figure, None) is not None for row in rows)]
    if columns and columns[0] != known[0]:
        columns = [known[0], *columns]  # a refused distance is a dash with its reason

    def cells(row: FeatureScores) -> list[str]:
        return [column.text(row) if hasattr(row, column.figure) else "–" for column in columns]

    lines = [ScoreRow(stage, kind, cells(row), row.flags) for stage, kind, row in found]
    return ScoreTable(extractor_words(extractor), [column.header for column in columns], lines)


def footnotes(report: Report) -> dict[str, int]:
    """The sentences that stand under the scores, numbered from 1: flags, and why a gap is not taken."""
    return {sentence: number for number, sentence in enumerate(dict.fromkeys(_sentences(report)), start=1)}


def _sentences(report: Report) -> Iterator[str]:
    for stage in report.stages:
        for row in stage.rows.values():
            yield from row.flags
            for further in row.also.values():
                yield from further.flags
        if stage.gap_refusal:
            yield stage.gap_refusal


class PassportTable(NamedTuple):
    """The passports of a stage's rows side by side: (label, one value where all agree, else one of each column)."""

    name: str
    columns: list[str]
    rows: list[tuple[str, list[str]]]


def passport_tables(report: Report) -> list[PassportTable]:
    """A table per stage whose scores have passports, and one of its classification accuracy score."""
    tables = (table for stage in report.stages for table in (_passports(stage), _cas_passports(stage)))
    return [table for table in tables if table.columns]


def _passports(stage: StageSection) -> PassportTable:
    found: dict[str, Mapping[str, str]] = {}
    for kind, row in stage.rows.items():
        for name, scores in [("", row), *row.also.items()]:
            if scores.passport is not None:
                found[f"{kind}, {extractor_words(name)}" if name else kind] = dict(told(scores.passport))
    return _side_by_side(stage.name, found)


def _cas_passports(stage: StageSection) -> PassportTable:
    scores = {"trained on samples": stage.cas, "trained on real images": stage.cas_real}
    found = {kind: dict(cas_told(score.passport)) for kind, score in scores.items() if score and score.passport}
    return _side_by_side(f"{stage.name}, classification accuracy score", found)


def _side_by_side(name: str, found: Mapping[str, Mapping[str, str]]) -> PassportTable:
    """The passports ``found`` by column, each as its labels and values."""
    labels = dict.fromkeys(label for fields in found.values() for label in fields)
    rows = [(label, [fields.get(label, "–") for fields in found.values()]) for label in labels]
    return PassportTable(
        name, list(found), [(label, values[:1] if len(set(values)) == 1 else values) for label, values in rows]
    )
