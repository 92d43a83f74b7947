"""The experiments that ship: each can be read, costs what its first lines say, and has the nets of its paper."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiment import load_experiment, with_settings
from pipeline.machines import Machine
from pipeline.planning import reckon
from pipeline.search.proposals import drawn_of
from pipeline.search.spec import trains

EXPERIMENTS = Path(__file__).parents[2] / "jobs" / "experiments"
PUBLISHED = sorted(path.stem for path in EXPERIMENTS.glob("*.yaml") if path.stem not in ("demo", "cifar10"))
MICRO = sorted(path.stem for path in EXPERIMENTS.glob("micro/*.yaml"))


@cache
def reckoned(name: str) -> dict[str, Any]:
    return reckon(load_experiment(EXPERIMENTS / f"{name}.yaml"), Machine("h100", 0.4))


def test_every_system_has_its_presets() -> None:
    simple = [f"simple_{net}_{size}" for net in ("unet", "uvit") for size in (128, 256, 512)]
    assert sorted(["adm_256", "cdm_64", "cdm_128", "cdm_256", "sr3_256", *simple]) == PUBLISHED
    assert MICRO == ["cdm", "ddpm", "simple_diffusion", "sr3"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_first_lines_of_a_preset_say_what_it_costs(name: str) -> None:
    head = (EXPERIMENTS / f"{name}.yaml").read_text().split("\nname:")[0]
    figures = reckoned(name)
    told = re.search(
        r"64 h100 at 40% of their peak: ([\d,]+) GPU-hours of training, ([\d,]+) hours;\n# (.+) param", head
    )
    assert told is not None, "the head of a preset says what `rayfall plan` reckons"
    assert told[1] == f"{figures['training_gpu_hours']:,.0f}"
    assert told[2] == f"{figures['training_gpu_hours'] / 64:,.0f}"
    assert told[3] == " + ".join(f"{stage['parameters']:,}" for stage in figures["plan"].values())
    assert "Published" in head
    assert "from memory" in head or "read" in head


def test_the_nets_of_adm_have_exactly_their_parameters() -> None:
    plan = reckoned("adm_256")["plan"]
    assert [stage["parameters"] for stage in plan.values()] == [295_904_454, 311_795_910]


def test_the_net_of_sr3_is_about_as_large_as_published() -> None:
    # Its layout is remembered, not read; and ours has a label embedding that the paper's has not.
    assert reckoned("sr3_256")["plan"]["sr256"]["parameters"] == pytest.approx(625e6, rel=0.05)


def test_a_u_vit_of_256_px_costs_what_others_counted() -> None:
    # 555 G multiply-adds and 2 to 2.5 billion parameters, as later papers list them.
    stage = reckoned("simple_uvit_256")["plan"]["uvit256"]
    assert stage["forward_gflops"] / 2 == pytest.approx(555, rel=0.03)
    assert 2e9 < stage["parameters"] < 2.5e9


def test_the_example_of_a_search_trains_prunes_screens_and_has_a_budget() -> None:
    """As its first lines say; it samples six times what it trained, and never trains what it does not search."""
    experiment = load_experiment(EXPERIMENTS / "searches" / "training.yaml")
    search = experiment.search
    assert search is not None
    rounds = search.rounds(experiment.names, experiment.last)
    assert [(stage, any(map(trains, paths))) for stage, paths in rounds] == [("sr16", True), ("sr32", False)]
    assert {search.algorithm_of(paths) for _, paths in rounds} == {"drawn"}
    assert {len(drawn_of(search, paths)) for _, paths in rounds} == {search.trials} == {6}
    assert search.pruning is not None
    assert search.screening is not None
    assert search.screening.sampling_steps == experiment.stages["sr32"].sampling.steps // 2
    assert search.budget.hours == 0.5
    assert search.concurrency is None
    head = (EXPERIMENTS / "searches" / "training.yaml").read_text().split("\nname:")[0]
    for told in ("minutes on two CPU cores", "six trainings", "half the steps", "half an hour"):
        assert told in head
    for _, paths in rounds:
        for settings in drawn_of(search, paths):
            with_settings(experiment, settings)
    assert all(stage["parameters"] < 3e6 for stage in reckoned("searches/training")["plan"].values())


@pytest.mark.parametrize("name", [f"micro/{name}" for name in MICRO])
def test_micro_examples_can_be_planned(name: str) -> None:
    figures = reckoned(name)
    assert all(stage["parameters"] < 3e6 for stage in figures["plan"].values())
    assert figures["data"]["train"] == 12000
