"""cluster.yaml is what Ray's launcher and EC2 accept, as far as can be told without an account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
from botocore.validate import ParamValidator
from ruamel.yaml import YAML

PATH = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(PATH)
    return found


def test_it_fits_the_launchers_schema_and_full_check(cluster: dict[str, Any]) -> None:
    import ray.autoscaler
    from ray.autoscaler._private.util import prepare_config, validate_config

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    validate_config(prepare_config(cluster))
    with pytest.raises(jsonschema.ValidationError, match="idle_minutes"):
        jsonschema.validate({**cluster, "idle_minutes": 5}, schema)


def test_every_node_config_is_a_request_that_ec2_knows(cluster: dict[str, Any]) -> None:
    request = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances").input_shape
    allowed = request.members["InstanceMarketOptions"].members["MarketType"].enum
    for kind in cluster["available_node_types"].values():
        config = kind["node_config"]
        report = ParamValidator().validate({"MinCount": 1, "MaxCount": 1, **config}, request)
        assert not report.has_errors(), report.generate_report()
        assert config.get("InstanceMarketOptions", {"MarketType": "spot"})["MarketType"] in allowed


def test_the_head_is_on_demand_and_gpus_come_as_spot_first(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"]
    head = kinds[cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["GPU"] == 0
    gpus = {name: kind for name, kind in kinds.items() if kind["resources"].get("GPU")}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] <= cluster["max_workers"] for kind in gpus.values())
    spot = {name for name, kind in gpus.items() if "InstanceMarketOptions" in kind["node_config"]}
    on_demand = set(gpus) - spot
    assert on_demand, "something must stand by for the time when there is no spot capacity"
    assert min(kinds[name]["priority"] for name in spot) > max(kinds[name].get("priority", 0) for name in on_demand)


def test_the_image_has_the_pinned_ray(cluster: dict[str, Any]) -> None:
    pinned = next(line for line in (PATH.parent / "constraints.txt").read_text().splitlines() if line[:5] == "ray==")
    version = pinned.removeprefix("ray==")
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{version}-py311")
    assert cluster["docker"]["head_image"].startswith(f"rayproject/ray:{version}-py311")
