"""Settings as MLflow's params: flat, few, with short names. No MLflow here, and nothing is validated.

A param is text to MLflow, by which it filters (``params.`sr.level` = '0.1'``), sorts and draws axes; what reads as a
number has a number's axis.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Settings = Mapping[str, Any]
DROPPED = ("sampling", "training")  # sections of a stage that its settings are told without
DECLARED, NONE = "declared", "none"


def flat_params(trials: Sequence[Settings], declared: Mapping[str, Any], *, all_paths: bool) -> list[dict[str, str]]:
    """Of each trial its value at every place that any of the ``trials`` sets, the same names in each.

    ``trials`` are dotted paths to values, which may be mappings; ``declared`` is the nested experiment that they
    change. Without ``all_paths`` what is the same everywhere is left out.
    """
    paths = _leaves(trials)
    changed = [_changed(declared, trial) for trial in trials]
    values = {path: [_told(_at(one, path)) for one in changed] for path in paths}
    kept = [path for path in paths if all_paths or len(set(values[path])) > 1]
    names = param_names(kept)
    return [{names[path]: values[path][number] for path in kept} for number in range(len(trials))]


def param_names(paths: Sequence[str]) -> dict[str, str]:
    """``stages.sr.sampling.level`` is "sr.level", unless another of ``paths`` would begin with the same name."""
    short = {path: _short(path) for path in paths}
    starts = Counter(start for name in short.values() for start in _starts(name))
    return {path: name if starts[name] == 1 else path.removeprefix("stages.") for path, name in short.items()}


def _starts(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _short(path: str) -> str:
    stages, *parts = path.split(".")
    if stages != "stages":
        return path
    return ".".join(part for place, part in enumerate(parts) if not (place == 1 and part in DROPPED))


def _leaves(trials: Sequence[Settings]) -> list[str]:
    """The places that are set, in order of appearance, without those that others lie inside of."""
    found = list(
        dict.fromkeys(leaf for trial in trials for path, value in trial.items() for leaf in _inside(path, value))
    )
    return [leaf for leaf in found if not any(other.startswith(f"{leaf}.") for other in found)]


def _inside(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _inside(f"{path}.{key}", inner)
    else:
        yield path


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


def _at(nested: Any, path: str) -> Any:
    for key in path.split("."):
        nested = nested.get(key) if isinstance(nested, Mapping) else None
    return nested


def _told(value: Any) -> str:
    """As YAML has it; a mapping can only be what was declared, where other trials set none."""
    if value is None:
        return NONE
    if isinstance(value, Mapping) and value:
        return DECLARED
    return value if isinstance(value, str) else json.dumps(value)
