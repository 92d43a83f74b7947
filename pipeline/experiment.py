"""One YAML file, one validated experiment.

``load_experiment`` reads the file, applies ``--set`` overrides, checks every value and the stages against each
other, and gives a frozen ``Experiment`` (see ``experiment_spec``). A mistake is a ``UserError`` of one sentence
with file, line and path. Nothing here imports torch, Ray or MLflow, so a mistake is answered at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment, first_message
from pipeline.search_spec import combinations

CHECKED_TRIALS = 500  # of a round of a search; larger searches are checked at their corners


def digest_of(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of ``value``: sorted keys, no spaces, floats as Python prints them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Read, override (``a.b=c``, c as YAML) and validate. Raises UserError naming file, line and path."""
    path = Path(path)
    if not path.is_file():
        raise UserError(
            f"there is no experiment file {path}; experiments that ship with Rayfall are in jobs/experiments"
        )
    try:
        document = YAML(typ="rt").load(path.read_text())
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {error.problem}") from error
    if not isinstance(document, dict):
        raise UserError(f"{path}: an experiment is a mapping of settings, such as `name: demo`")
    data = _plain(document)
    for override in overrides:
        apply_override(data, override)
    try:
        experiment = Experiment.model_validate(data)
        _check_search(experiment)
    except ValidationError as error:
        raise UserError(_sentence(path, document, data, error)) from error
    return experiment


def with_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """A copy with dotted ``settings`` applied and everything validated again (ValidationError when impossible)."""
    data = experiment.model_dump(mode="json")
    for path, value in settings.items():
        _set(data, path, value)
    return Experiment.model_validate(data)


def apply_override(data: dict[str, Any], override: str) -> None:
    """Apply one ``a.b.c=value`` to nested ``data`` in place; the value is read as YAML 1.2."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(
            f"--set {override}: give it as path=value, for example seed=1 or stages.base.training.steps=100"
        )
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except MarkedYAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML: {error.problem}") from error
    _set(data, path.strip(), value)


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    node: Any = data
    for number, key in enumerate(parents):
        if not isinstance(node, dict):
            raise UserError(f"{path}: {'.'.join(parents[:number])} is a single value and has no {key!r}")
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
    if not isinstance(node, dict):
        raise UserError(f"{path}: {'.'.join(parents)} is a single value and has no {last!r}")
    node[last] = value


def _check_search(experiment: Experiment) -> None:
    """Refuse a search that contains an impossible trial, before anything takes a GPU.

    Settings are tried together, as trials will have them: some fit only with others.
    """
    search = experiment.search
    if search is None:
        return
    for path in search.space:
        section, _, rest = path.partition(".")
        if search.mode == "stagewise" and (section != "stages" or rest.split(".")[0] not in experiment.stages):
            raise UserError(
                f"search.space {path}: a stagewise search takes paths that begin with stages.<name>; "
                f"stages are {', '.join(experiment.names)}"
            )
    for _, paths in search.rounds(experiment.names, experiment.last):
        for settings in combinations({path: search.space[path] for path in paths}, CHECKED_TRIALS):
            if (mistake := _mistake(experiment, settings)) is not None:
                # One setting that is wrong by itself is named alone.
                alone = [{path: value} for path, value in settings.items()]
                blamed = next((one for one in alone if _mistake(experiment, one) == mistake), settings)
                told = ", ".join(f"{path} = {json.dumps(value)}" for path, value in blamed.items())
                raise UserError(f"search.space {told}: {mistake}")


def _mistake(experiment: Experiment, settings: Mapping[str, Any]) -> str | None:
    try:
        with_settings(experiment, settings)
    except ValidationError as error:
        return first_message(error)
    return None


def _plain(node: Any) -> Any:
    """Round-trip YAML containers and scalars as plain Python, so that nothing of the file travels further."""
    if isinstance(node, dict):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _sentence(path: Path, document: Any, data: Any, error: ValidationError) -> str:
    """One sentence for the first mistake: file, line, dotted path, what is wrong.

    ``data`` is the document with the overrides applied; a setting that only an override gave has no line.
    """
    first = error.errors()[0]
    line, trail = None, []
    for key in first["loc"]:
        inside = key in data if isinstance(data, dict) else isinstance(data, list) and isinstance(key, int)
        if inside:
            data = data[key]
            trail.append(str(key))
        elif first["type"] == "missing" and key == first["loc"][-1]:
            trail.append(str(key))
        if isinstance(document, dict) and key in document:
            line = document.lc.key(key)[0] + 1  # type: ignore[attr-defined]
            document = document[key]
    where = f"{path}:{line}" if line else str(path)
    text = "this setting is missing" if first["type"] == "missing" else first_message(error)
    given = f" (given: {first['input']!r})" if isinstance(first["input"], str | int | float | bool) else ""
    others = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{where}: {'.'.join(trail) + ': ' if trail else ''}{text}{given}{others}"
