"""One YAML file, one validated experiment.

``load_experiment`` reads the file, applies ``--set`` overrides, checks every value and the stages against each
other, and gives a frozen ``Experiment`` (see ``experiment_spec``). A mistake is a ``UserError`` of one sentence
with file, line and path. Nothing here imports torch, Ray or MLflow, so a mistake is answered at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.ablation.cells import check_cells
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.search.spec import Values, combinations, listed
from pipeline.sentences import first_message, located

CHECKED_TRIALS = 500  # of a round of a search; larger searches are checked at their corners


def digest_of(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of ``value``: sorted keys, no spaces, floats as Python prints them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def load_experiment(path: Path | str, overrides: Sequence[str] = ()) -> Experiment:
    """Read, override (``a.b=c``, c as YAML) and validate. Raises UserError naming file, line and path."""
    path = Path(path)
    document, data = _read(path, overrides)
    try:
        experiment = Experiment.model_validate(data)
        check_search(experiment)
        check_cells(experiment)
    except ValidationError as error:
        raise UserError(located(path, document, data, error)) from error
    return experiment


def read_settings(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the file and the overrides say, as they say it: no defaults, nothing validated."""
    return _read(Path(path), overrides)[1]


def _read(path: Path, overrides: Sequence[str]) -> tuple[Any, dict[str, Any]]:
    """The file with the lines of its keys, and as plain values with the overrides applied."""
    document = _document(path)
    if not isinstance(document, dict):
        raise UserError(f"{path}: an experiment is a mapping of settings, such as `name: demo`")
    data = _plain(document)
    for override in overrides:
        apply_override(data, override)
    return document, data


def _document(path: Path) -> Any:
    """The file as ruamel reads it, with the lines of its keys."""
    if path.is_dir():
        raise UserError(f"{path} is a folder; name an experiment file in it")
    if not path.is_file():
        raise UserError(
            f"there is no experiment file {path}; experiments that ship with Rayfall are in jobs/experiments"
        )
    try:
        return YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text from byte {error.start} on; an experiment is a YAML file") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path}{f':{mark.line + 1}' if mark else ''}: not valid YAML: {_problem(error)}") from error


def _problem(error: YAMLError) -> str:
    """What the parser says, without its picture of the place."""
    return getattr(error, "problem", None) or str(error).strip().splitlines()[0]


def with_settings(experiment: Experiment, settings: Mapping[str, Any]) -> Experiment:
    """A copy with dotted ``settings`` applied and everything validated again (ValidationError when impossible)."""
    return Experiment.model_validate(applied(experiment, settings))


def applied(experiment: Experiment, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The experiment as nested plain values with dotted ``settings`` applied, not validated. UserError where one leads
    through a value that has no parts."""
    data = experiment.model_dump(mode="json")
    for path, value in settings.items():
        _set(data, path, value)
    return data


def apply_override(data: dict[str, Any], override: str) -> None:
    """Apply one ``a.b.c=value`` to nested ``data`` in place; the value is read as YAML 1.2."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(
            f"--set {override}: give it as path=value, for example seed=1 or stages.base.training.steps=100"
        )
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise UserError(f"--set {override}: the value is not valid YAML: {_problem(error)}") from error
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


def check_search(experiment: Experiment) -> None:
    """Refuse a search that contains an impossible trial, before anything takes a GPU. Raises UserError.

    Settings are tried together, as trials will have them: some fit only with others.
    """
    search = experiment.search
    if search is None:
        return
    for path, distribution in search.space.items():
        section, _, rest = path.partition(".")
        if section != "stages" or rest.split(".")[0] not in experiment.stages:
            raise UserError(
                f"search.space {path}: a search takes paths that begin with stages.<name>; "
                f"stages are {', '.join(experiment.names)}"
            )
        if not isinstance(distribution, Values) and _is_whole(experiment, path, *listed(distribution)):
            raise UserError(
                f"search.space {path}: this setting is a whole number, and a range gives fractions; list its values, "
                "as in {values: [8, 16, 32]}"
            )
    for _, paths in search.rounds(experiment.names, experiment.last):
        for settings in combinations({path: search.space[path] for path in paths}, CHECKED_TRIALS):
            if (mistake := _mistake(experiment, settings)) is not None:
                # One setting that is wrong by itself is named alone.
                alone = [{path: value} for path, value in settings.items()]
                blamed = next((one for one in alone if _mistake(experiment, one) == mistake), settings)
                told = ", ".join(f"{path} = {json.dumps(value)}" for path, value in blamed.items())
                raise UserError(f"search.space {told}: {mistake}")


def _is_whole(experiment: Experiment, path: str, low: float, high: float) -> bool:
    """Whether a setting refuses a fraction between ``low`` and ``high``, whose ends may be whole by chance."""
    try:
        with_settings(experiment, {path: low + (high - low) / math.pi})
    except ValidationError as error:
        return error.errors()[0]["type"] == "int_from_float"
    return False


def _mistake(experiment: Experiment, settings: Mapping[str, Any]) -> str | None:
    try:
        changed = with_settings(experiment, settings).model_dump(mode="json", include={"stages"})
    except ValidationError as error:
        return first_message(error)
    for path, value in settings.items():
        made = changed
        for key in path.split("."):
            made = made[key]
        if _converted(value, made):
            return f"the setting is {json.dumps(made)} then; write it so, without quotes"
    return None


def _converted(given: Any, made: Any) -> bool:
    """Whether reading a setting makes another value of it, such as 0.1 of "0.1": a search would show what was given."""
    if isinstance(given, dict):
        return any(_converted(value, made[key]) for key, value in given.items())
    return isinstance(given, str | bool) and (type(given) is not type(made) or given != made)


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
