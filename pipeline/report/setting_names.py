"""Short names of settings, and their values as a person writes them: for tables, axes and params of MLflow.

Settings are mappings from dotted paths, as ``--set`` takes them, to plain JSON values. Nothing is checked here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

DROPPED = ("sampling", "training")  # sections of a stage that its params are named without


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paths whose values are not the same in all of ``settings``, in the order in which they first appear."""
    paths = dict.fromkeys(path for one in settings for path in one)
    absent = object()
    seen = {path: {_key(one.get(path, absent)) for one in settings} for path in paths}
    return [path for path in paths if len(seen[path]) > 1]


def _key(value: Any) -> str:
    """What two values have in common when they are one: 1 and 1.0 differ, as the digests of their trials do."""
    return json.dumps(value, sort_keys=True, default=lambda _: "absent")


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """The shortest name of each path that no other of ``paths`` has.

    ``stages.sr16.sampling.steps`` is "steps", beside that of another stage "sr16 steps", beside the training's
    "sampling.steps"; paths that are still alike keep all of themselves.
    """
    forms = {path: _forms(path) for path in paths}
    names = {}
    for path in paths:
        others = [forms[other] for other in paths if other != path]
        clear = (form for form in forms[path] if not any(form in other for other in others))
        names[path] = next(clear, path)
    return names


def _forms(path: str) -> list[str]:
    """Ways to name a path, the shortest first: without its section and its stage, with one of them, with both."""
    stage, inner = _of_stage(path)
    if not inner:
        return [path]
    bare = ".".join(inner[1:]) or inner[0]
    return list(dict.fromkeys([bare, ".".join(inner), f"{stage} {bare}", f"{stage} {'.'.join(inner)}", path]))


def _of_stage(path: str) -> tuple[str, list[str]]:
    """The stage whose setting it is, and the keys below; no keys where it is of no stage."""
    stages, *rest = path.split(".")
    return (rest[0], rest[1:]) if stages == "stages" and len(rest) > 1 else ("", [])


def param_names(paths: Sequence[str]) -> dict[str, str]:
    """``stages.sr.sampling.level`` is "sr.level", unless another of ``paths`` would begin with the same name.

    Unlike ``short_names`` it always has the stage, so that one setting has one name in all searches.
    """
    short = {path: _param(path) for path in paths}
    starts = Counter(start for name in short.values() for start in _starts(name))
    return {path: name if starts[name] == 1 else path.removeprefix("stages.") for path, name in short.items()}


def _param(path: str) -> str:
    stage, inner = _of_stage(path)
    if not inner:
        return path.removeprefix("stages.")
    return ".".join([stage, *(inner[1:] if inner[0] in DROPPED else inner)])


def _starts(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def told_value(value: Any) -> str:
    """A value as YAML has it, to four digits: null and false were chosen so, and are not absent."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}: {told_value(one)}" for key, one in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(told_value, value))}]"
    return json.dumps(value)


def told_settings(settings: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The values at the paths of ``names``: "steps 20, sampler ddim"."""
    return ", ".join(f"{name} {told_value(settings.get(path))}" for path, name in names.items())
