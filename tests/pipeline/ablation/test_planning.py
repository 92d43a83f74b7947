"""What an ablation would cost: what replicates share counts once, whatever the seeds and however stages are sampled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablation.planning import reckon_ablation
from pipeline.experiment import load_experiment
from pipeline.planning import Machine, reckon

ABLATIONS = Path(__file__).parents[3] / "jobs" / "experiments" / "ablations"
H100 = Machine("h100", 0.4)


def reckoned(name: str, *settings: str) -> dict[str, Any]:
    return reckon_ablation(load_experiment(ABLATIONS / f"{name}.yaml", settings), H100)


def test_replicates_that_differ_in_sampling_alone_share_their_trainings() -> None:
    found = reckoned("truncation")
    experiment = load_experiment(ABLATIONS / "truncation.yaml")
    one = reckon(experiment, H100)["plan"]
    assert (found["cells"], found["seeds"], found["searches"]) == (7, 5, 0)
    assert found["trainings"] == 10, "a base and a super-resolution stage for each of five seeds"
    assert found["trainings_asked"] == 70
    assert found["training_gpu_hours"] == pytest.approx(5 * sum(stage["gpu_hours"] for stage in one.values()))
    drawn = {name: stage["sampling_gpu_hours"] for name, stage in one.items()}
    # Each of the six levels and kinds draws sr32 anew; truncated ones need a trajectory of base8 that is cut short.
    assert 5 * (drawn["base8"] + 6 * drawn["sr32"] / 2) < found["sampling_gpu_hours"] <= 5 * 7 * sum(drawn.values())


def test_a_seed_more_costs_as_much_as_each_of_the_others() -> None:
    three, four = (reckoned("blur", f"ablation.seeds={seeds}") for seeds in ("[0, 1, 2]", "[0, 1, 2, 7]"))
    for figure in ("trainings", "training_gpu_hours", "sampling_gpu_hours"):
        assert four[figure] == pytest.approx(three[figure] * 4 / 3)


@pytest.mark.slow
def test_the_preset_for_many_gpus_says_what_it_costs() -> None:
    head = (ABLATIONS / "cdm_16_64.yaml").read_text().split("\nname:")[0]
    found = reckoned("cdm_16_64")
    told = re.search(r"(\d+) trainings in ([\d,]+) GPU-hours and ([\d,]+) of sampling", head.replace("\n# ", " "))
    assert told is not None, "the head of the preset says what `rayfall plan` reckons"
    assert told[1] == str(found["trainings"])
    assert told[2] == f"{found['training_gpu_hours']:,.0f}"
    assert told[3] == f"{found['sampling_gpu_hours']:,.0f}"
