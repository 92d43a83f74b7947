"""From the stored result of a search to the report's sections and notes on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.levels import facts_of_level
from pipeline.outcome import Outcome
from pipeline.report_parts import SearchPoint, SearchSection


def searches_of(outcome: Outcome) -> list[SearchSection]:
    """A section for each round of the search that has a figure against s."""
    if outcome.search is None:
        return []
    sections = []
    for found in outcome.search.summary["rounds"]:
        if not _is_of_levels(found):
            continue
        stage = found["stage"]
        points = [_point(outcome, stage, point) for point in found["points"] if point["error"] is None]
        chosen = _sampling(outcome, stage, found["chosen"])
        steps = facts_of_level(outcome.experiment, stage, 0.0).of_steps
        sections.append(
            SearchSection(stage=stage, metric=found["metric"], points=points, chosen=chosen, ddpm_steps=steps)
        )
    return sections


def _is_of_levels(found: Mapping[str, Any]) -> bool:
    """Whether a round of the search varied how the low-res image is handed over, and nothing else."""
    own, searched = f"stages.{found['stage']}.sampling.", _searched(found)
    return bool(searched) and all(path in (f"{own}level", f"{own}augmentation") for path in searched)


def _searched(found: Mapping[str, Any]) -> list[str]:
    """The paths that differ between the points of a round."""
    values: dict[str, set[str]] = {}
    for point in found["points"]:
        for path, value in point["settings"].items():
            values.setdefault(path, set()).add(json.dumps(value))
    return [path for path, seen in values.items() if len(seen) > 1]


def search_notes(outcome: Outcome) -> list[str]:
    """A sentence for each round that chose something and has no figure against s."""
    rounds = outcome.search.summary["rounds"] if outcome.search else []
    return [
        f"The search at {found['stage']} chose "
        + ", ".join(f"{path} = {_setting(found['chosen'][path])}" for path in _searched(found))
        + f" of {len(found['points'])} trials by {found['metric']}."
        for found in rounds
        if _searched(found) and not _is_of_levels(found)
    ]


def _setting(value: Any) -> str:
    """As YAML has it: null is a choice, too."""
    return value if isinstance(value, str) else json.dumps(value)


def _sampling(outcome: Outcome, stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and level that a point of the search used at ``stage``."""
    sampling = outcome.experiment.stages[stage].sampling
    prefix = f"stages.{stage}.sampling."
    level = settings.get(f"{prefix}level", sampling.level)
    return {"kind": settings.get(f"{prefix}augmentation", sampling.augmentation), "level": float(level)}


def _point(outcome: Outcome, stage: str, point: Mapping[str, Any]) -> SearchPoint:
    place = _sampling(outcome, stage, point["settings"])
    facts = facts_of_level(outcome.experiment, stage, place["level"])
    return SearchPoint(
        **place,
        logsnr=facts.logsnr,
        ddpm_step=facts.step,
        chained_fid=point["chained"]["fid"],
        oracle_fid=point["oracle"]["fid"] if point["oracle"] else None,
        accuracy=point["chained"]["accuracy"],
        recall=point["chained"]["recall"],
        seconds=point["seconds"],
    )
