"""What a person wants submitted, read and checked here before anything is sent. Loads neither Ray nor torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pipeline.addresses import without_secret, without_secrets
from pipeline.errors import UserError
from pipeline.experiment import digest_of, load_experiment, read_settings
from pipeline.experiment_spec import Experiment
from pipeline.submission.credentials import chosen
from pipeline.workflow import tracking_uri

Command = Literal["run", "train", "search", "ablate", "evaluate"]
COMMANDS: tuple[Command, ...] = get_args(Command)
ROOT = Path(__file__).parents[2]  # the source tree that is at work, and is carried
# Settings that are paths, and may name a file that is carried.
_PATHS = ("source", "path", "weights")


@dataclass(frozen=True)
class Order:
    """What a person asks for. ``settings`` are overrides; ``passed`` the values to hand over unseen."""

    file: Path
    settings: Sequence[str]
    command: Command
    passed: Mapping[str, str]
    experiment: Experiment
    again: bool = False
    only: Sequence[str] = ()  # stages of a training, all where none is named

    @property
    def digest(self) -> str:
        """What is to be done, not where and by which code: the same for the same experiment and command."""
        settings = self.experiment.model_dump(mode="json", exclude={"resources", "description"})
        stages = {"only": sorted(set(self.only))} if self.only else {}
        return digest_of({"command": self.command, "experiment": settings, **stages})


def read_order(
    file: Path,
    settings: Sequence[str],
    command: str,
    passed: Sequence[str] = (),
    *,
    only: Sequence[str] = (),
    again: bool = False,
) -> Order:
    """The order, with everything checked that can be checked here. UserError says what is wrong; nothing is sent."""
    known = command_of(command)
    experiment = load_experiment(file, settings)
    for section in ("search", "ablation"):
        if command == {"ablation": "ablate"}.get(section, section) and getattr(experiment, section) is None:
            raise UserError(f"experiment {experiment.name} has no {section} section; add one to {command} it")
    _require_stages(experiment, known, only)
    _require_no_secret(experiment, file)
    _require_shared(file, settings)
    tracking_uri(experiment)
    return Order(file, settings, known, chosen(passed, os.environ), experiment, again, tuple(only))


def command_of(name: str) -> Command:
    """``name``, where a job can be that; else UserError."""
    found = next((command for command in COMMANDS if command == name), None)
    if found is None:
        raise UserError(f"--command {name}: a job can be one of {', '.join(COMMANDS)}")
    return found


def _require_stages(experiment: Experiment, command: Command, only: Sequence[str]) -> None:
    if only and command != "train":
        raise UserError(f"--only {only[0]}: one stage alone can be trained (--command train), and this is {command}")
    for name in only:
        if name not in experiment.names:
            raise UserError(f"--only {name}: the experiment's stages are {', '.join(experiment.names)}")


def _require_no_secret(experiment: Experiment, file: Path) -> None:
    settings = dict(_strings(experiment.model_dump(mode="json")))
    for path, value in settings.items():
        if without_secrets(value) != value:
            raise UserError(
                f"{file}: {path} is {without_secret(value)} and more that lets one in, which would be readable on the "
                "cluster; leave it out and hand it over by --pass-env, such as MLFLOW_TRACKING_USERNAME and _PASSWORD"
            )


def _require_shared(file: Path, settings: Sequence[str]) -> None:
    """A relative path is one in the job's own copy of the code: nothing is found there but code, and it goes away."""
    given = read_settings(file, settings)
    store = str(given.get("store", Experiment.model_fields["store"].default))
    if _is_relative(store):
        raise UserError(
            f"store {store} is a relative path, and a job's own folder goes away with it; give one that all nodes of "
            "the cluster see, such as --set store=/mnt/rayfall/store"
        )
    for path, value in _strings(given):
        if path.rpartition(".")[2] in _PATHS and _is_relative(value) and not _is_carried(value):
            raise UserError(
                f"{path} {value} is a relative path outside of what a job carries; give one that all nodes of the "
                "cluster see, or s3://bucket/prefix"
            )


def _is_relative(location: str) -> bool:
    return "://" not in location and not location.startswith(("/", "~", "s3:/"))


def _is_carried(location: str) -> bool:
    from pipeline.submission.package import cargo_of

    return Path.cwd() == ROOT and (ROOT / location).is_file() and location in cargo_of(ROOT).files


def _strings(settings: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested settings, with its dotted path."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _strings(value, f"{path}.{key}" if path else str(key))
    elif isinstance(settings, list | tuple):
        for number, value in enumerate(settings):
            yield from _strings(value, f"{path}.{number}")
    elif isinstance(settings, str):
        yield path, settings
