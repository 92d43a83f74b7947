"""What an ablation would cost: what replicates share counts once, whatever the seeds and however stages are sampled."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipeline.ablation.cells import replicates_of
from pipeline.ablation.planning import reckon_ablation
from pipeline.dag import ancestry
from pipeline.experiment import load_experiment
from pipeline.machines import Machine
from pipeline.nodes import Nodes
from pipeline.planning import reckon

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
    # Of base8 one set, and one more for each level at which it is cut short; of sr32 seven, and the oracle's at four
    # levels, which has no kind: half of the images that one evaluation draws of sr32 are the oracle's.
    assert experiment.evaluation.held_out_images == experiment.evaluation.samples
    graphs = [Nodes(one.experiment).evaluation() for one in replicates_of(experiment)]
    sets = {node.digest for graph in graphs for node in ancestry(graph) if node.name.startswith(("chained", "oracle"))}
    assert found["draws"] == len(sets) == 5 * (4 + 7 + 4)
    assert found["sampling_gpu_hours"] == pytest.approx(5 * (4 * drawn["base8"] + (7 + 4) * drawn["sr32"] / 2))


def test_trainings_that_a_search_does_itself_are_in_none_of_the_sums() -> None:
    search = "{samples: 200, space: {stages.sr32.label_drop: {values: [0.1, 0.2]}}}"
    cell = f"ablation.cells.searched={{search: {search}}}"
    found = reckoned("blur", "ablation.seeds=[0, 1, 2]", cell)
    assert (found["cells"], found["seeds"], found["searches"]) == (6, 3, 3)
    assert found["trainings"] == 3 * (1 + 5), "base8, and sr32 of the five cells that train it as declared"
    assert found["trainings_asked"] == 3 * (5 * 2 + 1)


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
