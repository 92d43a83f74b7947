"""Published results beside ours as a table in words, for the reports: nothing is judged here, and no HTML is made.

``published_table`` is what the macro of ``report/templates/published.html`` sets. All reasons that hold for every row
stand once; those of single rows, sources and notes are numbered footnotes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.published.rows import GUIDED, KINDS, SURE, PublishedRow, library, published_set, sizes_of
from pipeline.published.terms import incomparable, incomparable_cas, untold
from pipeline.report.notes import Notes
from pipeline.report.score_tables import extractor_words
from pipeline.report.scores import ClassificationScore, Scores
from pipeline.report.wording import estimate, number
from pipeline.scoring.passport import Passport, SourceKind

UNVERIFIED, UNTOLD = "†", "*"
# Which of our scores a published row is like; all others are like chained ones.
_FITS: Mapping[str, SourceKind] = {"upsampler": "oracle", "real": "real"}
_KIND_WORDS: Mapping[SourceKind, str] = {
    "chained": "chained",
    "oracle": "super-resolution alone",
    "real": "real images",
    "foreign": "from elsewhere",
}


class Ours(NamedTuple):
    """One score of ours as far as it has a published counterpart; see ``ours_of``. ``fid`` is to training images."""

    name: str
    kind: SourceKind
    fid: float | None = None
    fid_error: float | None = None
    fid_val: float | None = None
    inception_score: float | None = None
    inception_score_std: float | None = None
    passport: Passport | None = None
    cas: ClassificationScore | None = None


def ours_of(name: str, kind: SourceKind, scores: Scores, cas: ClassificationScore | None = None) -> Ours:
    """The part of a row of scores that published results have, too."""
    shared = {field: getattr(scores, field) for field in Ours._fields if hasattr(scores, field)}
    return Ours(name=name, kind=kind, cas=cas, **shared)


class Line(NamedTuple):
    """A row in words; ``small`` stands below its name. ``beside``: whether it may stand beside ours. ``*_marks`` are
    the numbers of notes."""

    name: str
    small: str
    kind: str
    guided: str
    cells: list[str]
    beside: str = ""
    sure: str = ""
    name_marks: Sequence[int] = ()
    beside_marks: Sequence[int] = ()
    sure_marks: Sequence[int] = ()


class PublishedTable(NamedTuple):
    """What the template sets. ``verdict`` is about all rows: the reasons ``common`` to them, if any, forbid to compare
    ours with them; ``mixed`` where some compare. ``cas`` are the reasons of the classification accuracy score. Without
    any row ``absence`` says why."""

    title: str
    headers: list[str]
    terms: str
    ours: list[Line]
    rows: list[Line]
    ablations: list[Line]
    verdict: str
    common: list[str]
    mixed: bool
    cas: list[str]
    notes: dict[str, int]
    absence: str

    def has(self, mark: str) -> bool:
        """Whether a figure carries a mark."""
        return any(mark in cell for line in (*self.rows, *self.ablations) for cell in line.cells)


class _Column(NamedTuple):
    header: str
    published: Callable[[PublishedRow], str]
    ours: Callable[[Ours], str]


def published_table(
    found: Sequence[PublishedRow], ours: Sequence[Ours], *, name: str, classes: Sequence[str], size: int
) -> PublishedTable:
    """The table of published rows (``pipeline.published.rows.rows_for``) beside ``ours``, the main score first.

    ``name`` and ``classes`` are those of our data set, ``size`` that of the images in px.
    """
    count = len(classes) or None
    asked = {_FITS.get(row.kind, "chained") for row in found}
    shown = [one for one in ours if one.kind in asked or one.kind not in _FITS.values()]
    columns = [column for column in _COLUMNS if any(column.published(row) != "–" for row in found)]
    reasons = [_reasons(row, shown, count) for row in found]
    common = [one for one in reasons[0] if all(one in others for others in reasons)] if reasons else []
    notes = Notes()
    lines = [_line(row, columns, why, common, notes) for row, why in zip(found, reasons, strict=True)]
    cas = [why for row in found for one in shown for why in incomparable_cas(row, one.cas, classes=count)]
    terms = list(dict.fromkeys(_terms(one.passport) for one in shown))
    results = sum(row.study == "result" for row in found)  # rows_for puts them first
    return PublishedTable(
        title=f"Published results on {found[0].dataset}, {size} px" if found else "",
        headers=[column.header for column in columns],
        terms=terms[0] if len(terms) == 1 else "",
        ours=[_own_line(one, columns, "" if len(terms) == 1 else _terms(one.passport)) for one in shown],
        rows=lines[:results],
        ablations=lines[results:],
        verdict=_verdict(reasons, common),
        common=common,
        mixed=not all(reasons),
        cas=[why for why in dict.fromkeys(cas) if why not in common],
        notes=notes.numbers,
        absence="" if found else _absence(name, classes, size),
    )


def _reasons(row: PublishedRow, ours: Sequence[Ours], classes: int | None) -> list[str]:
    """Why the scores of ours that are of the row's kind cannot stand beside it: the union over them."""
    fit = [one for one in ours if one.kind == _FITS.get(row.kind, "chained")] or list(ours[:1])
    return list(dict.fromkeys(why for one in fit for why in incomparable(row, one.passport, classes=classes)))


def _line(
    row: PublishedRow, columns: Sequence[_Column], reasons: Sequence[str], common: Sequence[str], notes: Notes
) -> Line:
    remarks = [row.note] if row.note else []
    if row.conditional is None:
        remarks.append("whether it is given the class is not told")
    elif not row.conditional:
        remarks.append("not given the class")
    about = [why for why in reasons if why not in common]
    if not reasons and (open_points := untold(row, None)):
        about = [f"not told: {'; '.join(open_points)}"]
    return Line(
        name=row.model,
        small=f"{row.variant}, {row.year}" if row.variant else str(row.year),
        kind=KINDS[row.kind],
        guided="–" if row.kind == "real" else "not told" if row.guidance is None else GUIDED[row.guidance],
        cells=[column.published(row) for column in columns],
        beside="no" if reasons else "as far as is told",
        sure=SURE[row.sure],
        name_marks=[notes.mark(_sentence(remark)) for remark in remarks],
        beside_marks=[notes.mark(_sentence(why)) for why in about],
        sure_marks=[notes.mark(_sentence(f"{row.paper}. Figures from: {row.source}"))],
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"


def _own_line(one: Ours, columns: Sequence[_Column], terms: str) -> Line:
    return Line(one.name, terms, _KIND_WORDS[one.kind], "", [column.ours(one) for column in columns])


def _figure(row: PublishedRow, figure: str, spread: float | None = None) -> str:
    """A figure with the digits it was published with, marked where it is from memory."""
    value = getattr(row, figure)
    if value is None:
        return "–"
    text = f"{value:g}" + ("" if spread is None else f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{spread:g}")
    return text if row.verified(figure) else text + UNVERIFIED


def _fid(row: PublishedRow) -> str:
    """FID to training images, or marked to what was not told."""
    return _figure(row, "fid_train") if row.fid is None else _figure(row, "fid") + UNTOLD


_COLUMNS = (
    _Column("FID to training images", _fid, lambda one: estimate(one.fid, one.fid_error)),
    _Column("FID to held-out images", lambda row: _figure(row, "fid_val"), lambda one: number(one.fid_val)),
    _Column(
        "Inception score",
        lambda row: _figure(row, "inception_score", row.inception_score_std),
        lambda one: estimate(one.inception_score, one.inception_score_std),
    ),
    _Column("CAS, top 1 and 5", lambda row: _both(row.cas_top1, row.cas_top5), lambda one: _own_cas(one.cas)),
)


def _own_cas(cas: ClassificationScore | None) -> str:
    return "–" if cas is None else _both(cas.cas_top1, cas.cas_top5)


def _both(top1: float | None, top5: float | None) -> str:
    shares = [f"{100 * share:.2f}" for share in (top1, top5) if share is not None]
    return f"{' / '.join(shares)}\N{NO-BREAK SPACE}%" if top1 is not None else "–"


def _terms(passport: Passport | None) -> str:
    if passport is None:
        return ""
    images = passport.reference.images
    reference = "" if images is None else f", {images:,} reference images"
    return f"{passport.samples:,} images, features of {extractor_words(passport.extractor.name)}{reference}"


def _verdict(reasons: Sequence[Sequence[str]], common: Sequence[str]) -> str:
    if not reasons:
        return ""
    if common:
        return "Not comparable: none of the published figures can be ranked with yours, because"
    if all(reasons):
        return "Not comparable: none of the published figures can be ranked with yours; the notes say what differs."
    return "Comparable as far as is told where the table says so; elsewhere the notes say what differs."


def _absence(name: str, classes: Sequence[str], size: int) -> str:
    title = published_set(name, classes)
    if title is not None:
        *smaller, largest = sizes_of(title)
        told = f"{', '.join(map(str, smaller))} and {largest} px"
        return f"The published results on {title} that come with Rayfall are at {told}; none is at {size} px."
    titles = " and ".join(library().datasets)
    return (
        f"The published results that come with Rayfall are on {titles}; a score on other images cannot stand beside "
        "them, so none is shown."
    )
