"""The JSON schema that editors use says what the loader says."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "docs" / "experiment.schema.json"
EXPERIMENTS = ROOT / "jobs" / "experiments"
SHIPPED = sorted(EXPERIMENTS.rglob("*.yaml"))


def test_the_committed_schema_is_up_to_date() -> None:
    assert json.loads(SCHEMA.read_text()) == Experiment.model_json_schema(), "run `make schema`"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(EXPERIMENTS)))
def test_shipped_experiments_load_and_fit_the_schema_they_name(path: Path) -> None:
    load_experiment(path)
    first = path.read_text().splitlines()[0]
    named = first.removeprefix("# yaml-language-server: $schema=")
    assert (path.parent / named).resolve() == SCHEMA
    jsonschema.validate(YAML(typ="safe").load(path), json.loads(SCHEMA.read_text()))


def test_the_schema_refuses_an_unknown_key() -> None:
    document = YAML(typ="safe").load(SHIPPED[0])
    document["stages"] = {name: {**stage, "colour": "red"} for name, stage in document["stages"].items()}
    with pytest.raises(jsonschema.ValidationError, match="colour"):
        jsonschema.validate(document, json.loads(SCHEMA.read_text()))
