"""The forecast of an experiment: from its own figures, impossible numbers said to be so, mistakes in one sentence."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from pipeline.calibration import Measured
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.forecast import optimizer_bytes
from pipeline.forecasting import forecast, load_of, rates_of
from pipeline.machines import GPUS, Cluster, Machine, numbers_of_gpus
from pipeline.planning import data_facts, reckon

NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
MACHINE = Machine("h100", 0.4)


def experiment_of(tmp_path: Path, **changes: Any) -> Experiment:
    training = {"steps": 3600, "batch_size": 64, "micro_batch": 4, "averages": {"every": 100}}
    fields: dict[str, Any] = {
        "name": "forecast",
        "store": str(tmp_path / "store"),
        "data": {"kind": "shards", "path": str(tmp_path / "shards"), "expects": {"train": 12000, "classes": 10}},
        "stages": {"base": {"size": 16, "net": NET, "training": training}},
        "resources": {"workers": 4, "cpus_per_worker": 3, "loader_processes": 2},
    }
    return Experiment.model_validate(fields | changes)


def test_figures_follow_from_the_step_and_impossible_numbers_have_a_reason(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    figures = reckon(experiment, MACHINE)
    found = forecast(experiment, figures, MACHINE, Cluster((1, 16, 17)), Measured())["stages"]["base"]
    one, sixteen, more = found["rows"]
    assert more == {"gpus": 17, "impossible": "impossible: a batch of 64 has 16 micro-batches of 4"}
    assert sixteen["share"] == 4
    assert one["images_per_second"] == pytest.approx(64 / one["step"])
    assert sixteen["hours"] == pytest.approx(sixteen["step"])  # 3600 steps
    assert sixteen["gpu_hours"] == pytest.approx(16 * sixteen["step"])
    assert sixteen["efficiency"] == pytest.approx(one["step"] / (16 * sixteen["step"]))
    assert found["calibration"] is None
    assert found["utilisation"] == 0.4


def test_the_load_is_the_experiments_own(tmp_path: Path) -> None:
    experiment = experiment_of(tmp_path)
    plan = reckon(experiment, MACHINE)["plan"]["base"]
    load = load_of(experiment, "base", plan, data_facts(experiment))
    assert optimizer_bytes(load) == 2 * 4 * 7 * plan["parameters"], "five states and two averages"
    assert load.flops == pytest.approx(plan["training_gflops"] * 1e9)
    assert load.image_bytes == 3 * 16**2
    assert load.decoded == pytest.approx(2 * 1871 * 16**2), "two processes, 16 times as fast a side as at 256 px"
    assert load.ahead
    alone = experiment_of(tmp_path, resources={"workers": 4})
    assert not load_of(alone, "base", plan, data_facts(alone)).ahead


def test_a_stored_form_says_how_it_is_decoded(tmp_path: Path) -> None:
    forms = make_forms([(16, "raw"), (32, "png")])
    ingest_drawn(tmp_path / "shards", seed=0, forms=forms, train=40, val=10, shard_size=16)
    experiment = experiment_of(tmp_path)
    facts = data_facts(experiment)
    assert facts.forms == {16: ("raw", 16)}
    plan = reckon(experiment, MACHINE)["plan"]["base"]
    assert load_of(experiment, "base", plan, facts).decoded == pytest.approx(2 * 80_646 * 16)
    larger = facts.__class__(**{**asdict(facts), "forms": {16: ("png", 32)}})
    assert math.isinf(load_of(experiment, "base", plan, larger).decoded), "nobody measured it"


def test_rates_are_the_data_sheets_in_bytes_and_the_network_a_wish() -> None:
    rates = rates_of(MACHINE, Cluster((8,), network_gbit=400))
    assert rates.network == 50e9
    assert rates_of(MACHINE, Cluster((8,))).network == GPUS["h100"].network / 8 * 1e9
    assert rates.flops == pytest.approx(0.4 * 989e12)
    assert (rates.memory, rates.link, rates.read) == (3.35e12, 450e9, 1e9)


def test_numbers_of_gpus_come_in_order_and_once() -> None:
    assert numbers_of_gpus("64, 8,512,8") == (8, 64, 512)
    for text in ("", "8,,64", "0,8", "-8", "8;64", "eight", "1.5"):
        with pytest.raises(UserError, match="such as 8,64,512"):
            numbers_of_gpus(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_gbit": 0.0}, "--network-gbit 0 must be above 0"),
        ({"network_gbit": math.nan}, "--network-gbit nan must be above 0"),
        ({"gpus_per_node": 0}, "--gpus-per-node 0 must be 1 or more"),
        ({"read_mb": -1.0}, "--read-mb -1 must be above 0"),
    ],
)
def test_machines_that_cannot_be_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Cluster((8,), **changes)
