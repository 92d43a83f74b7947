"""Which scores may stand against each other, and how they come out: cascades by FID, chained beside oracle images.

What forbids it is for the passports to say: see ``pipeline.scoring.passport``. No torch, and no NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pipeline.scoring.passport import Passport, differences, rank

# An oracle is given real images: that is what the gap is of. Its classes are those of the held-out images, which
# samples of the real class histogram have, and samples of all classes in turn have where the classes are balanced.
_GAP = ("source.kind", "labels")


class Entrant(NamedTuple):
    """A cascade as far as a ranking needs it."""

    name: str
    size: int
    fid: float | None
    passport: Passport | None


class Standing(NamedTuple):
    """Cascades of one ``size``: places by name (1 is the lowest FID), or none and a sentence that says why."""

    size: int
    places: dict[str, int]
    refusal: str


def standings(entrants: Iterable[Entrant]) -> list[Standing]:
    """The standing of the cascades of each size that several have, in the order in which sizes appear."""
    by_size: dict[int, list[Entrant]] = {}
    for entrant in entrants:
        by_size.setdefault(entrant.size, []).append(entrant)
    return [_standing(size, rows) for size, rows in by_size.items() if len(rows) > 1]


def _standing(size: int, rows: Sequence[Entrant]) -> Standing:
    scored = [row for row in rows if row.fid is not None]
    if without := [row.name for row in scored if row.passport is None]:
        return Standing(size, {}, f"not ranked: {', '.join(without)} came without a passport")
    ranking = rank({row.name: (row.passport, row.fid) for row in scored if row.passport is not None})
    return Standing(size, {name: place for place, name in enumerate(ranking.order, start=1)}, ranking.refusal)


class Rated(Protocol):
    """Scores of a set of images, as far as a gap needs them."""

    @property
    def fid(self) -> float | None: ...

    @property
    def passport(self) -> Passport | None: ...


class FidScore(NamedTuple):
    """A FID and what it is of."""

    fid: float | None
    passport: Passport | None

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> FidScore:
        """Out of the summary of a node of scores."""
        told = summary.get("passport")
        return cls(summary.get("fid"), None if told is None else Passport.model_validate(told))


def fid_gap(chained: Rated | None, oracle: Rated | None) -> float | None:
    """Chained minus oracle FID: what the chain's own low-res images cost. None where one is missing, not finite, or
    their passports forbid it."""
    if chained is None or oracle is None or chained.fid is None or oracle.fid is None:
        return None
    if gap_refusal(chained.passport, oracle.passport):
        return None
    gap = float(chained.fid - oracle.fid)
    return gap if math.isfinite(gap) else None


def gap_refusal(chained: Passport | None, oracle: Passport | None) -> str:
    """The fields for which the chained and the oracle FID of a stage give no gap; empty where they do."""
    if chained is None or oracle is None:
        return ""
    found = differences(chained, oracle)
    return ", ".join(one.field for one in found if one.matters and one.field not in _GAP)


def within_error(
    one: tuple[float | None, float | None], other: tuple[float | None, float | None], paired: float | None = None
) -> bool:
    """Whether two (score, standard error) differ by no more than twice the error of their difference; equals do not.

    That is ``paired`` where it is known, else as if they were independent. False where one of them is not known.
    """
    (a, error_a), (b, error_b) = one, other
    if a is None or b is None or error_a is None or error_b is None:
        return False
    return abs(a - b) <= 2 * (math.hypot(error_a, error_b) if paired is None else paired)


def paired_error(a: Mapping[str, Any], b: Mapping[str, Any]) -> float | None:
    """Standard error of the difference of two FIDs, from two results of ``pipeline.scoring.family.scores_of`` on the
    same sample indices.

    The delete-a-block jackknife of the difference (``pipeline.scoring.error_bars``): the same blocks are left out of
    both, so what both owe to the same seeds and labels cancels. None where a set had too few samples for blocks, or
    the counts differ.
    """
    if a["samples"] != b["samples"] or not a["fid_without"] or not b["fid_without"]:
        return None
    apart = [one - other for one, other in zip(a["fid_without"], b["fid_without"], strict=True)]
    mean, blocks = math.fsum(apart) / len(apart), len(apart)
    return math.sqrt((blocks - 1) / blocks * math.fsum((value - mean) ** 2 for value in apart))
