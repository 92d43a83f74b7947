"""Settings as MLflow's params: flat, few, with short names. No MLflow here, and nothing is validated.

A param is text to MLflow, by which it filters (``params.`sr.level` = '0.1'``), sorts and draws axes; what reads as a
number has a number's axis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.experiment_spec import Experiment
from pipeline.report.setting_names import param_names

Settings = Mapping[str, Any]
Place = tuple[str, ...]  # keys from the outside in: a key may have dots, as those of a search space do
DECLARED, NONE = "declared", "none"


def training_params(experiment: Experiment, name: str) -> dict[str, str]:
    """The params of every run of a training of stage ``name``: stage, size, seed, training.steps and so on."""
    stage = experiment.stages[name]
    told = {"size": stage.size, "seed": experiment.seed, "training": stage.training.model_dump(mode="json")}
    return {"stage": name, **_flat(told)}


def evaluation_params(experiment: Experiment, name: str, samples: int | None) -> dict[str, str]:
    """The params of every run of an evaluation of stage ``name``: stage, samples, sampling.steps and so on."""
    sampling = experiment.stages[name].sampling.model_dump(mode="json")
    return {"stage": name, **_flat({"samples": samples, "sampling": sampling})}


def _flat(told: Settings) -> dict[str, str]:
    return flat_params([told], {}, all_paths=True)[0]


def flat_params(trials: Sequence[Settings], declared: Mapping[str, Any], *, all_paths: bool) -> list[dict[str, str]]:
    """Of each trial its value at every place that any of the ``trials`` sets, the same names in each.

    ``trials`` are dotted paths to values, which may be mappings; ``declared`` is the nested experiment that they
    change. Without ``all_paths`` what is the same everywhere is left out.
    """
    places = _leaves(trials)
    changed = [_changed(declared, trial) for trial in trials]
    values = {place: [_told(_at(one, place)) for one in changed] for place in places}
    kept = [place for place in places if all_paths or len(set(values[place])) > 1]
    names = param_names([".".join(place) for place in kept])
    return [{names[".".join(place)]: values[place][number] for place in kept} for number in range(len(trials))]


def _leaves(trials: Sequence[Settings]) -> list[Place]:
    """The places that are set, in order of appearance, without those that others lie inside of."""
    found = dict.fromkeys(
        leaf for trial in trials for path, value in trial.items() for leaf in _inside(tuple(path.split(".")), value)
    )
    around = {place[:count] for place in found for count in range(len(place))}
    return [place for place in found if place not in around]


def _inside(place: Place, value: Any) -> Iterator[Place]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _inside((*place, key), inner)
    else:
        yield place


def _changed(declared: Mapping[str, Any], trial: Settings) -> dict[str, Any]:
    """``declared`` with the settings of a trial; only what is changed is copied."""
    changed = dict(declared)
    for path, value in trial.items():
        *parents, last = path.split(".")
        node = changed
        for key in parents:
            inner = node.get(key)
            node[key] = dict(inner) if isinstance(inner, Mapping) else {}
            node = node[key]
        node[last] = value
    return changed


def _at(nested: Any, place: Place) -> Any:
    for key in place:
        nested = nested.get(key) if isinstance(nested, Mapping) else None
    return nested


def _told(value: Any) -> str:
    """As YAML has it; a mapping can only be what was declared, where other trials set none."""
    if value is None:
        return NONE
    if isinstance(value, Mapping) and value:
        return DECLARED
    return value if isinstance(value, str) else json.dumps(value)
