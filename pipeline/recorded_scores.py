"""The figures of an outcome as MLflow takes them: flat metrics, passports, tags. No MLflow here.

What was not taken or was refused has no metric. "accuracy" is that of samples under the judge, which was trained on
real images; "cas_top1" and "cas_top5" are the classification accuracy score. One never has the other's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.outcome import Outcome, cascades_of, gap_error_of, gap_of
from pipeline.scoring.passport import Passport

KINDS = ("chained", "oracle", "real")
BESIDE = ("restoration", "bound")  # whose summaries are figures throughout
TAGGED = ("samples", "reference.digest", "extractor.name", "extractor.sha256", "size", "resize", "labels")


def metrics_of(outcome: Outcome, name: str) -> dict[str, float]:
    """The flat metrics of stage ``name``: chained_fid, oracle_kid, real_recall, chained_dinov2_fid, gap_fid,
    chained_cas_top1, real_cas_top1, chain_colour_drift, restoration_psnr, bound_bits_per_dim and so on."""
    found: dict[str, float] = {}
    summaries = {kind: result.summary for kind in KINDS if (result := outcome.scores(kind, name)) is not None}
    for kind, summary in summaries.items():
        found |= prefixed(kind, summary)
        for scorer, further in summary["also"].items():
            found |= prefixed(f"{kind}_{scorer}", further)
    if (gap := gap_of(summaries)) is not None:
        found["gap_fid"] = gap
        if (error := gap_error_of(summaries)) is not None:
            found["gap_fid_error"] = error
    for kind in BESIDE:
        if (result := outcome.results.get(f"{kind}/{name}")) is not None:
            found |= prefixed(kind, result.summary)
    return found | _accuracy_scores(outcome, name) | _chain(outcome, name) | _memorisation(outcome, name)


def _accuracy_scores(outcome: Outcome, name: str) -> dict[str, float]:
    found = {"chained": outcome.results.get(f"cas/{name}"), "real": outcome.cas_real(name)}
    figures = ("cas_top1", "cas_top5")
    return {
        f"{kind}_{figure}": value
        for kind, result in found.items()
        if result is not None
        for figure, value in _numbers({key: result.summary.get(key) for key in figures}).items()
    }


def _chain(outcome: Outcome, name: str) -> dict[str, float]:
    """Of the chained images unless the name says oracle."""
    result = outcome.results.get(f"chain/{name}")
    if result is None:
        return {}
    summary = result.summary
    found = {"colour_drift": summary["colour_drift"], "colour_noise": summary.get("colour_noise")}
    for figure in ("high_frequency_ratio", "consistency"):
        by_kind = summary[figure] or {}
        found |= {figure: by_kind.get("chained"), f"oracle_{figure}": by_kind.get("oracle")}
    return prefixed("chain", found)


def _memorisation(outcome: Outcome, name: str) -> dict[str, float]:
    result = outcome.results.get(f"memorisation/{name}")
    return {} if result is None else prefixed("memorisation", {"nearer": result.summary.get("nearer")})


def comparison_of(outcome: Outcome) -> dict[str, float]:
    """The flat metrics of the cascades that are compared: cascade.main.fid, cascade.single.net_calls, ..."""
    rows = cascades_of(outcome)
    return {f"cascade.{name}.{key}": value for name, row in rows.items() for key, value in _numbers(row).items()}


def prefixed(prefix: str, figures: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers of ``figures`` as prefix_figure; how many samples they are of is the passport's to say."""
    return {f"{prefix}_{key}": value for key, value in _numbers(figures).items() if key != "samples"}


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    """The single, finite numbers among ``figures``."""
    return {
        key: float(value)
        for key, value in figures.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def passports_of(outcome: Outcome, name: str) -> dict[str, dict[str, Any]]:
    """The passports of the rows of stage ``name``: chained, oracle, real, chained_dinov2 and so on; cas, cas_real."""
    found = {}
    for kind in KINDS:
        if (result := outcome.scores(kind, name)) is not None:
            found[kind] = result.summary["passport"]
            found |= {f"{kind}_{scorer}": one["passport"] for scorer, one in result.summary["also"].items()}
    for kind, result in (("cas", outcome.results.get(f"cas/{name}")), ("cas_real", outcome.cas_real(name))):
        if result is not None:
            found[kind] = result.summary["passport"]
    return found


def passport_tags(passport: Mapping[str, Any]) -> dict[str, str]:
    """The digest of a passport and what matters of it, to search runs by: rayfall.passport, rayfall.passport.samples
    and so on."""
    tags = {"rayfall.passport": Passport.model_validate(passport).digest}
    for path in TAGGED:
        value: Any = passport
        for key in path.split("."):
            value = value[key]
        tags[f"rayfall.passport.{path}"] = str(value)
    return tags
