"""A number of workers, or a range: how it is read, planned with and handed to Ray, and when a run is given up."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.machines import Machine
from pipeline.nodes import Nodes
from pipeline.planning import reckon
from pipeline.train_workers import scaling_of, while_it_advances

TEXT = """\
name: tiny
data: {kind: drawn, size: 8, train: 5000}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 10}
"""
MICRO = "stages.base.training.micro_batch=4"  # 4 + 4 + 2


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "tiny.yaml").write_text(TEXT)
    return load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}", *overrides])


@pytest.mark.parametrize(
    ("overrides", "fewest", "most"),
    [
        ([], 1, 1),
        (["resources.workers=10"], 10, 10),
        (["resources.workers={min: 2, max: 7}"], 2, 7),
        (["resources.workers={min: 3, max: 3}", MICRO], 3, 3),
    ],
)
def test_a_number_or_a_range(overrides: list[str], fewest: int, most: int, tmp_path: Path) -> None:
    resources = load(tmp_path, *overrides).resources
    assert (resources.fewest_workers, resources.most_workers) == (fewest, most)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (
            ["resources.workers=11"],
            "stages.base.training.batch_size 10 has 10 examples, too few for 11 workers; lower resources.workers to 10 "
            "or less",
        ),
        (
            ["resources.workers={min: 1, max: 4}", MICRO],
            "stages.base.training.batch_size 10 has 3 micro-batches of 4, too few for 4 workers; lower "
            "resources.workers to 3 or less",
        ),
        (["resources.workers={min: 3, max: 2}"], "resources.workers: a range of workers is given as min <= max"),
        (["resources.workers={min: 0, max: 2}"], "resources.workers.min: must be above 0"),
        (["resources.workers={max: 2}"], "resources.workers.min: this setting is missing"),
        (["resources.workers={min: 1, most: 2}"], "resources.workers: unknown key 'most'; known are min, max"),
        (["resources.workers=0"], "resources.workers: must be above 0"),
        (["resources.workers=many"], "resources.workers: must be a whole number"),
        (["stages.base.training.micro_batch=11"], "micro_batch 11 is a part of the global batch"),
    ],
)
def test_a_mistake_is_one_sentence(overrides: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, *overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_reckons_memory_with_the_fewest_and_time_with_the_most(tmp_path: Path) -> None:
    def plan(*overrides: str) -> dict[str, float]:
        return reckon(load(tmp_path, *overrides), Machine("h100", 0.4))["plan"]["base"]

    one, ten = plan(), plan("resources.workers=10")
    both = plan("resources.workers={min: 1, max: 10}")
    assert (one["batch_per_worker"], ten["batch_per_worker"], both["batch_per_worker"]) == (10, 1, 10)
    assert both["activation_gib"] == pytest.approx(one["activation_gib"])
    assert both["hours"] == pytest.approx(ten["hours"])
    assert plan("resources.workers=3")["batch_per_worker"] == 4  # 4 + 3 + 3
    micro = plan("resources.workers=2", MICRO)  # 4 and 4, or 2
    assert micro["batch_per_worker"] == 8
    assert micro["activation_gib"] == pytest.approx(0.4 * one["activation_gib"])


def test_the_number_of_workers_is_no_part_of_a_result(tmp_path: Path) -> None:
    digests = {
        Nodes(load(tmp_path, f"resources.workers={workers}")).train("base").digest
        for workers in ("1", "3", "{min: 1, max: 4}")
    }
    assert len(digests) == 1
    assert Nodes(load(tmp_path, MICRO)).train("base").digest not in digests


def test_what_ray_is_asked_for(tmp_path: Path) -> None:
    node = Nodes(load(tmp_path, "resources.workers={min: 1, max: 4}", "resources.gpus_per_worker=1")).train("base")
    assert scaling_of(node.context) == {
        "num_workers": (1, 4),
        "elastic_resize_monitor_interval_s": 120.0,
        "use_gpu": True,
        "resources_per_worker": {"CPU": 1.0, "GPU": 1.0},
    }
    fixed = scaling_of({"workers": 3, "cpus_per_worker": 2.0, "checkpoint_seconds": 1.0})
    assert fixed["num_workers"] == 3
    assert fixed["resources_per_worker"] == {"CPU": 2.0}


def test_a_run_goes_on_while_it_advances() -> None:
    todo, reached = [5, 9, None], [0]

    def attempt() -> None:
        if (step := todo.pop(0)) is not None:
            reached.append(step)
            raise ConnectionError

    while_it_advances(attempt, lambda: max(reached), ConnectionError)
    assert not todo


def test_a_run_that_stands_still_is_given_up() -> None:
    todo, reached = [5, 5, 9], [0]

    def attempt() -> None:
        reached.append(todo.pop(0))
        raise ConnectionError

    with pytest.raises(ConnectionError):
        while_it_advances(attempt, lambda: max(reached), ConnectionError)
    assert todo == [9]
