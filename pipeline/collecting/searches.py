"""From the stored result of a search to the report's sections on it, one for every round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.comparing import paired_error
from pipeline.experiment_spec import Experiment
from pipeline.levels import facts_of_level
from pipeline.outcome import Outcome
from pipeline.report.plotting import finite
from pipeline.report.search_parts import Place, SearchPoint, SearchSection, Times, end_of
from pipeline.report.setting_names import differing
from pipeline.tuning.costs import time_use

# What of a trial's summary, and of its chained and oracle scores, a report shows.
_SCORES = {
    "chained": {"fid": "chained_fid", "fid_error": "chained_fid_error", "accuracy": "accuracy", "recall": "recall"},
    "oracle": {"fid": "oracle_fid", "fid_error": "oracle_fid_error"},
}


def searches_of(outcome: Outcome) -> list[SearchSection]:
    """A section for each round of the search; none without one."""
    return [] if outcome.search is None else sections_of(outcome.experiment, outcome.search.summary)


def sections_of(experiment: Experiment, summary: Mapping[str, Any]) -> list[SearchSection]:
    """A section for each round of ``summary``, the result of the search of ``experiment``."""
    spent = summary.get("spent", {})
    return [_section(experiment, found, spent) for found in summary["rounds"]]


def _section(experiment: Experiment, found: Mapping[str, Any], spent: Mapping[str, float]) -> SearchSection:
    points = found["points"]
    varied = differing([point["settings"] for point in points])
    matching = [n for n, point in enumerate(points) if point["settings"] == found["chosen"] and not point["error"]]
    chosen = matching[0] if matching else None
    best = points[chosen] if chosen is not None else None
    budget = experiment.search.budget if experiment.search else None
    sharing = found.get("sharing", {})
    return SearchSection(
        stage=found["stage"],
        metric=found["metric"],
        kind=found.get("kind", "sampling"),
        varied=varied,
        points=[_point(experiment, varied, point, best) for point in points],
        chosen=chosen,
        front=found.get("front", []),
        why=found.get("why", ""),
        shared=found.get("shared", ""),
        wall_seconds=sharing.get("wall_seconds"),
        busy_share=sharing.get("busy_share"),
        times=_times(points) if found.get("kind") == "training" else None,
        budget_hours=budget.hours if budget else None,
        budget_gpu_hours=budget.gpu_hours if budget else None,
        spent_hours=spent.get("hours"),
        spent_gpu_hours=spent.get("gpu_hours"),
    )


def _point(
    experiment: Experiment, varied: list[str], point: Mapping[str, Any], best: Mapping[str, Any] | None
) -> SearchPoint:
    # What was dropped has a look alone, which may be of fewer sampler steps too: no score to stand beside others'.
    scores = point if end_of(point) == "finished" else {}
    figures = {
        mine: (scores.get(kind) or {}).get(theirs)
        for kind, names in _SCORES.items()
        for theirs, mine in names.items()
    }  # fmt: skip
    return SearchPoint(
        settings={path: point["settings"].get(path) for path in varied},
        status=end_of(point),
        error=point["error"] or "",
        objective=point["objective"],
        samples=scores.get("samples") or (scores.get("chained") or {}).get("samples"),
        seconds=point["seconds"],
        start_seconds=point.get("start_seconds"),
        cost_hours=point.get("cost_hours", 0.0),
        net_calls=point.get("net_calls"),
        rungs=finite(point.get("rungs", ())),
        places=_places(experiment, varied, point["settings"]),
        **figures,
        **_behind(scores, best),
    )


def _behind(point: Mapping[str, Any], best: Mapping[str, Any] | None) -> dict[str, float | None]:
    """The difference to the chosen trial, which FIDs of as many samples alone have."""
    mine, other = point.get("chained"), best.get("chained") if best else None
    if best is point or not mine or not other or mine["samples"] != other["samples"]:
        return {}
    if mine["fid"] is None or other["fid"] is None:
        return {}
    return {"behind": mine["fid"] - other["fid"], "behind_error": paired_error(mine, other)}


def _places(experiment: Experiment, varied: list[str], settings: Mapping[str, Any]) -> dict[str, Place]:
    """Kind and level of each stage whose augmentation is searched at sampling time."""
    found = {}
    for name, stage in experiment.stages.items():
        own = {key: f"stages.{name}.sampling.{key}" for key in ("level", "augmentation")}
        below = f"stages.{experiment.below(name)}.schedule"
        elsewhere = any(f"{path}.".startswith(f"{below}.") for path in varied)  # then a level's log-SNR is not one
        if stage.low_res_size is None or elsewhere or not set(own.values()) & set(varied):
            continue
        level = float(settings.get(own["level"], stage.sampling.level))
        facts = facts_of_level(experiment, name, level)
        found[name] = Place(
            kind=settings.get(own["augmentation"], stage.sampling.augmentation),
            level=level,
            logsnr=facts.logsnr,
            ddpm_step=facts.step,
            of_steps=facts.of_steps,
        )
    return found


def _times(points: list[Mapping[str, Any]]) -> Times:
    return Times(**{name: value for name, value in time_use(points).items() if name in Times.model_fields})
