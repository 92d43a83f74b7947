"""The figures of an outcome as MLflow takes them: flat metrics, passports, tags. No MLflow here.

The few of ``headline`` have the same names in every run, so that runs of any kind stand side by side; an evaluation has
all others beside them, each figure under one name. What was not taken or was refused has no metric. "accuracy" is that
of samples under the judge, which was trained on real images; "cas_top1" and "cas_top5" are the classification accuracy
score. One never has the other's name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.comparing import FidScore, fid_gap
from pipeline.outcome import Outcome, cascades_of, gap_error_of
from pipeline.scoring.passport import Passport

OWN = ("accuracy", "kid", "precision", "recall")  # of the headline, under the names that scores give them
KINDS = ("chained", "oracle", "real")
BESIDE = ("restoration", "bound")  # whose summaries are figures throughout
TAGGED = ("samples", "reference.digest", "extractor.name", "extractor.sha256", "size", "resize", "labels")


def metrics_of(outcome: Outcome, name: str) -> dict[str, float]:
    """The flat metrics of stage ``name``: chained_fid, kid, oracle_kid, real_recall, chained_dinov2_fid, gap,
    chained_cas_top1, real_cas_top1, chain_colour_drift, restoration_psnr, bound_bits_per_dim and so on."""
    summaries = summaries_of(outcome, name)
    found = all_figures(summaries)
    if (error := gap_error_of(summaries)) is not None:
        found["gap_error"] = error
    for kind in BESIDE:
        if (result := outcome.results.get(f"{kind}/{name}")) is not None:
            found |= prefixed(kind, result.summary)
    return found | _accuracy_scores(outcome, name) | _chain(outcome, name) | _memorisation(outcome, name)


def summaries_of(outcome: Outcome, name: str) -> dict[str, Mapping[str, Any]]:
    """The scores of stage ``name`` by the kind of images."""
    return {kind: result.summary for kind in KINDS if (result := outcome.scores(kind, name)) is not None}


def all_figures(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Every single figure of ``scores`` (by kind of images) as kind_figure, of further scorers kind_scorer_figure;
    those of ``headline`` under its names."""
    found: dict[str, float] = {}
    for kind, summary in scores.items():
        found |= prefixed(kind, summary)
        for scorer, further in summary["also"].items():
            found |= prefixed(f"{kind}_{scorer}", further)
    own = {f"chained_{figure}" for figure in OWN}
    return {name: value for name, value in found.items() if name not in own} | headline(scores)


def headline(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """chained_fid, chained_fid_error, oracle_fid, gap (chained minus oracle FID, where their passports allow it), and
    accuracy, kid, precision and recall of the chained images."""
    chained, oracle = scores.get("chained") or {}, scores.get("oracle") or {}
    fids = {"chained_fid": chained.get("fid"), "chained_fid_error": chained.get("fid_error")}
    found = _numbers({**fids, "oracle_fid": oracle.get("fid"), **{figure: chained.get(figure) for figure in OWN}})
    if (gap := fid_gap(FidScore.of(chained), FidScore.of(oracle))) is not None:
        found["gap"] = gap
    return found


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
    found = passports_in(summaries_of(outcome, name))
    for kind, result in (("cas", outcome.results.get(f"cas/{name}")), ("cas_real", outcome.cas_real(name))):
        if result is not None:
            found[kind] = result.summary["passport"]
    return found


def passports_in(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The passports of ``scores`` (by kind of images) and of their further scorers, of those that have one."""
    found: dict[str, dict[str, Any]] = {}
    for kind, summary in scores.items():
        rows = {kind: summary, **{f"{kind}_{scorer}": one for scorer, one in summary["also"].items()}}
        found |= {name: one["passport"] for name, one in rows.items() if one.get("passport") is not None}
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
