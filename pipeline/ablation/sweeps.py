"""What the search of a replicate saw of its last stage over the augmentation level s. From stored results alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipeline.ablation.parts import SweepPoint
from pipeline.levels import facts_of_level
from pipeline.outcome import Outcome


def sweep_of(outcome: Outcome, stage: str) -> list[SweepPoint]:
    """The trials of ``stage`` over level and kind; nothing where a search varied something else too, or none was."""
    rounds = outcome.search.summary["rounds"] if outcome.search else []
    return [
        _point(outcome, stage, point, point["settings"] == found["chosen"])
        for found in rounds
        if found["stage"] == stage and _is_of_levels(found)
        for point in found["points"]
        if point["error"] is None and point.get("status", "finished") == "finished"
    ]


def _is_of_levels(found: Mapping[str, Any]) -> bool:
    own = f"stages.{found['stage']}.sampling."
    values: dict[str, set[str]] = {}
    for point in found["points"]:
        for path, value in point["settings"].items():
            values.setdefault(path, set()).add(json.dumps(value))
    searched = {path for path, seen in values.items() if len(seen) > 1}
    return bool(searched) and searched <= {f"{own}level", f"{own}augmentation"}


def _point(outcome: Outcome, stage: str, point: Mapping[str, Any], chosen: bool) -> SweepPoint:
    sampling = outcome.declared.stages[stage].sampling
    prefix = f"stages.{stage}.sampling."
    level = float(point["settings"].get(f"{prefix}level", sampling.level))
    facts = facts_of_level(outcome.experiment, stage, level)
    oracle = point["oracle"] or {}
    return SweepPoint(
        kind=point["settings"].get(f"{prefix}augmentation", sampling.augmentation),
        level=level,
        logsnr=facts.logsnr,
        ddpm_step=facts.step,
        chained_fid=point["chained"]["fid"],
        chained_fid_error=point["chained"].get("fid_error"),
        oracle_fid=oracle.get("fid"),
        accuracy=point["chained"]["accuracy"],
        chosen=chosen,
    )
