"""The model registry of MLflow: the chosen point of a search or an ablation as a version of a model. Copies no weights.

A cascade is several trained stages and how each is sampled, so a version is a pointer: its tags hold the folder of each
stage's weights, base first, with its sampling settings, and the scores. Its *source* is the folder of the last stage
wherever MLflow takes it: any folder beside SQLite, ``s3://`` everywhere. An MLflow server refuses a folder that is none
of its own artifacts; there the source is ``cascade.json`` among the artifacts of the chosen run, which says the same as
the tags. (MLflow's LoggedModel would not do: the registry looks it up at the module-level address, not at ours.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.addresses import without_secret
from pipeline.errors import UserError
from pipeline.experiment import digest_of
from pipeline.tracking.runs import Tracker

ALIAS = "chosen"
POINT_TAG, CHAIN_TAG, SETTINGS_TAG = "rayfall.point", "rayfall.chain", "rayfall.settings"
WEIGHTS_TAG, SAMPLING_TAG, SCORE_TAG = "rayfall.weights.", "rayfall.sampling.", "score."
ARTIFACT = "cascade"


@dataclass(frozen=True)
class ChosenPoint:
    """What is registered of a cascade.

    ``weights`` has the folder (or ``s3://`` address) of each stage's training result, base first: what
    ``stages.checkpoints.load_trained`` reads. ``sampling`` has each stage's ``StageSamplingSpec`` as JSON. ``settings``
    are the dotted paths that made it, ``scores`` those of its last stage.
    """

    weights: Mapping[str, str]
    sampling: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    scores: Mapping[str, float]

    @property
    def identity(self) -> str:
        """Of what is sampled and how; scores may be taken anew."""
        return digest_of([list(self.weights.items()), self.sampling])

    def tags(self) -> dict[str, str]:
        """All of it, as tags of a model version."""
        return {
            POINT_TAG: self.identity,
            CHAIN_TAG: ",".join(self.weights),
            SETTINGS_TAG: json.dumps(self.settings, sort_keys=True),
            **{f"{WEIGHTS_TAG}{name}": folder for name, folder in self.weights.items()},
            **{f"{SAMPLING_TAG}{name}": json.dumps(one, sort_keys=True) for name, one in self.sampling.items()},
            **{f"{SCORE_TAG}{name}": repr(float(value)) for name, value in self.scores.items()},
        }


def register(
    tracker: Tracker, name: str, point: ChosenPoint, *, run: str, tags: Mapping[str, str] | None = None
) -> str:
    """The version of model ``name`` that is ``point``, made if it is new, with the alias "chosen".

    ``run`` is the run that it came out of, ``tags`` more to say of it.
    """
    client, identity = tracker.client, point.identity
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="Cascades that searches and ablations chose.")
    told = point.tags() | dict(tags or {})
    versions = client.search_model_versions(f"name = '{name}' and tags.`{POINT_TAG}` = '{identity}'")
    if versions:
        version = max(versions, key=lambda one: int(one.version))
        for key, value in told.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(name, version.version, key, value)
    else:
        tracker.log_dict(run, point.tags(), f"{ARTIFACT}/cascade.json")
        source = _source(tracker, point, run)
        version = client.create_model_version(name, source, run_id=run, tags=told, await_creation_for=0)
    number = str(version.version)
    if client.get_registered_model(name).aliases.get(ALIAS) != number:
        client.set_registered_model_alias(name, ALIAS, number)
    return number


def _source(tracker: Tracker, point: ChosenPoint, run: str) -> str:
    last = list(point.weights.values())[-1]
    return last if "://" in last or tracker.is_file else f"runs:/{run}/{ARTIFACT}"


def registered(tracker: Tracker, name: str, version: str | None = None) -> ChosenPoint:
    """What stands behind a version of model ``name``, as a rule the chosen one. Raises UserError when there is none."""
    client, place = tracker.client, without_secret(tracker.uri)
    if not client.search_registered_models(f"name = '{name}'"):
        raise UserError(f"there is no registered model {name} at {place}; a search or an ablation registers one")
    number = version or client.get_registered_model(name).aliases.get(ALIAS)
    found = client.search_model_versions(f"name = '{name}'")
    tags = next((one.tags for one in found if str(one.version) == str(number)), None)
    if tags is None or CHAIN_TAG not in tags:
        raise UserError(f"model {name} at {place} has no version {number or ALIAS} of ours")
    chain = tags[CHAIN_TAG].split(",")
    return ChosenPoint(
        weights={stage: tags[f"{WEIGHTS_TAG}{stage}"] for stage in chain},
        sampling={stage: json.loads(tags[f"{SAMPLING_TAG}{stage}"]) for stage in chain},
        settings=json.loads(tags[SETTINGS_TAG]),
        scores={key.removeprefix(SCORE_TAG): float(value) for key, value in tags.items() if key.startswith(SCORE_TAG)},
    )
