"""How figures are told in words: numbers, shares and durations as a person reads them; the sentences of a report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from pipeline.comparing import paired_error, within_error
from pipeline.report.parts import CascadeRow, Report, StageSection


def number(value: float | None) -> str:
    """Three significant digits, from a thousand to a million all of them, or a dash."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:#.3g}".rstrip(".")


def estimate(value: float | None, error: float | None) -> str:
    """A figure with its standard error, both to the second digit of the error: 14.43 ± 0.12."""
    if value is None or not error:
        return number(value)
    decimals = min(8, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:,.{decimals}f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{error:,.{decimals}f}"


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


def told_stages(report: Report) -> str:
    def one(stage: StageSection) -> str:
        oracle = f", oracle {number(stage.oracle.fid)}" if stage.oracle else ""
        return f"{stage.name} chained {number(stage.chained.fid)}{oracle}, real {number(stage.real.fid)}"

    return "; ".join(one(stage) for stage in report.stages) + "."


def told_curves(report: Report) -> str:
    """The FID of the fewest and of the most samples, and where that leads."""

    def one(stage: StageSection) -> str:
        (few, first), (many, last) = stage.chained.fid_curve[0], stage.chained.fid_curve[-1]
        found = f"{stage.name} chained {number(first)} of {few:,} samples, {number(last)} of {many:,}"
        return found + (f", extrapolated {number(infinite)}" if (infinite := stage.chained.fid_infinity) else "")

    return "; ".join(one(stage) for stage in report.stages if stage.chained.fid_curve) + "."


def told_spectra(report: Report) -> str:
    """How the power of fine detail compares with that of real images."""

    def one(name: str, ratios: Mapping[str, float | None]) -> str:
        found = [f"{kind} {number(ratio)}" for kind, ratio in ratios.items() if ratio is not None]
        return f"{name} {', '.join(found)} times the real high-frequency power"

    chains = [(stage.name, stage.chain.high_frequency_ratio) for stage in report.stages if stage.chain]
    return "; ".join(one(name, ratios) for name, ratios in chains) + "."


def told_progress(report: Report) -> str:
    ends = [(stage.name, stage.during[0], stage.during[-1]) for stage in report.stages if stage.during]
    found = [f"{name} from {number(a[1])} at step {a[0]:,} to {number(b[1])} at step {b[0]:,}" for name, a, b in ends]
    return "; ".join(found) + "."


def told_losses(report: Report) -> str:
    ends = [(stage.name, stage.loss[0][1], stage.loss[-1][1]) for stage in report.stages if stage.loss]
    return "; ".join(f"{name} from {number(first)} to {number(last)}" for name, first, last in ends) + "."


def verdict(report: Report) -> str:
    """What came out, in a few sentences made of the figures alone; what was not taken is not mentioned."""
    return " ".join(_verdicts(report)) or "No scores were taken."


def _verdicts(report: Report) -> Iterator[str]:
    last, classes = report.last, len(report.dataset.classes)
    if last.chained.accuracy is not None:
        real = f" ({share(last.real.accuracy)} of real images" if last.real.accuracy is not None else " ("
        real += f"{', ' if last.real.accuracy is not None else ''}chance {share(1 / max(1, classes))})"
        whose = f"cascade {report.cascades[0].name}" if report.cascades else "cascade"
        yield (
            f"A classifier trained on real images recognises {share(last.chained.accuracy)} of the {whose}'s "
            f"{last.size} px samples{real}."
        )
    if last.per_class:
        worst = min(last.per_class, key=lambda name: last.per_class[name])
        yield f"The hardest class is {worst}, {share(last.per_class[worst])}."
    if last.cas is not None and last.cas.cas_top1 is not None:
        ceiling = f", against {share(last.cas_real.cas_top1)} when trained on real ones" if last.cas_real else ""
        yield (
            f"A {last.cas.net} trained on {last.size} px samples alone recognises {share(last.cas.cas_top1)} of real "
            f"held-out images{ceiling}."
        )
    if last.chained.fid is not None:
        fid = f"The samples' chained FID is {estimate(last.chained.fid, last.chained.fid_error)}"
        yield fid + (f"; real held-out images score {number(last.real.fid)}." if last.real.fid is not None else ".")
    if last.gap is not None and last.oracle is not None:
        cause = "most of it is lost below" if last.gap > (last.oracle.fid or 0.0) else "most of it is its own"
        costs = f"the chain costs {number(last.gap)}, so {cause}" if last.gap > 0 else "the chain costs nothing"
        yield f"Given real low-res images, {last.name} alone reaches {number(last.oracle.fid)}: {costs}."
    yield from _rivals(report)


def _rivals(report: Report) -> Iterator[str]:
    """How the cascades of the last stage's size came out, or why they are not ranked."""
    size = report.last.size
    rows = {row.name: row for row in report.cascades if row.size == size}
    for standing in report.standings:
        if standing.size != size:
            continue
        if standing.refusal:
            yield f"The cascades that make {size} px are {standing.refusal}."
        elif len(standing.places) > 1:
            best, *others = (rows[name] for name in standing.places)
            told = " and ".join(f"{row.name} with {_price(row)}" for row in others)
            close = " The first two differ by less than twice the error of their difference."
            paired = paired_error(best.chained.model_dump(), others[0].chained.model_dump())
            near = within_error(_fid(best), _fid(others[0]), paired)
            yield (
                f"Of {len(standing.places)} cascades that make {size} px, {best.name} ({stages_in_words(best)}) has "
                f"the lowest FID: {_price(best)}, against {told}.{close if near else ''}"
            )


def _fid(row: CascadeRow) -> tuple[float | None, float | None]:
    return row.chained.fid, row.chained.fid_error


def _price(row: CascadeRow) -> str:
    fid = estimate(row.chained.fid, row.chained.fid_error)
    return f"{fid} for {row.net_calls} net calls per image"


def stages_in_words(row: CascadeRow) -> str:
    """The chain of a cascade, base first."""
    return " → ".join(row.stages)
