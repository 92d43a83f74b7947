"""Searches: rounds, what trials share, points and the choice among them; and training settings on a real cluster."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline import workflow
from pipeline.collecting.searches import sections_of
from pipeline.dag import Node, Progress, Task, ancestry
from pipeline.events import Silence
from pipeline.experiment import load_experiment, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.report.search_wording import told_budget
from pipeline.results import Result
from pipeline.search import trials
from pipeline.search.budget import Ledger, prefix_of
from pipeline.search.proposals import with_drawn_lists
from pipeline.search.run import rounds_of, search_stages
from pipeline.search.spec import Uniform, Values, combinations, grid_of
from pipeline.search.trials import failed_point, point_of, run_trial, targets_of
from pipeline.storage import open_storage
from pipeline.sweep.actors import ActorPool
from pipeline.sweep.graph import ActorGraph
from pipeline.sweep.trial import Trials
from pipeline.tuning.log import ATTEMPTS
from pipeline.tuning.round import TrainingRound

TEXT = """\
name: tiny
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 3, batch_size: 8}
    sampling: {steps: 2}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 3, batch_size: 8}
    sampling: {steps: 2}
evaluation: {samples: 16, reference: 60, block: 16, classifier: {steps: 3, channels: [8, 8]}}
search:
  samples: 20
  space:
    stages.base.sampling.steps: {values: [2, 3]}
    stages.sr.sampling.level: {values: [0.0, 0.2]}
    stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}
resources: {cpus_per_worker: 0.5, log_every: 1}
"""


def load(folder: Path, *overrides: str) -> Experiment:
    (folder / "tiny.yaml").write_text(TEXT)
    return load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}", *overrides])


def shared_names(targets: Iterable[Sequence[Node]]) -> set[str]:
    """Names of the nodes that more than one trial needs."""
    needed = [node for trial in targets for node in ancestry(trial)]
    uses = Counter(node.digest for node in needed)
    return {node.name for node in needed if uses[node.digest] > 1}


def test_stagewise_rounds_go_up_the_cascade_and_joint_is_one(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert [(stage, len(paths)) for stage, paths in rounds_of(experiment)] == [("base", 1), ("sr", 2)]
    assert [(stage, len(paths)) for stage, paths in rounds_of(load(tmp_path, "search.mode=joint"))] == [("sr", 3)]


def test_grid_is_every_combination(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    assert experiment.search is not None
    paths = ["stages.sr.sampling.level", "stages.sr.sampling.augmentation"]
    assert [tuple(trial.values()) for trial in grid_of(experiment.search, paths)] == [
        (0.0, "truncated"),
        (0.0, "non_truncated"),
        (0.2, "truncated"),
        (0.2, "non_truncated"),
    ]


def test_trials_of_sampling_share_everything_below_the_stage(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    path = "stages.sr.sampling.level"
    shared = shared_names(targets_of(with_settings(experiment, {path: level}), "sr") for level in (0.0, 0.2))
    assert {"chained/base", "train/base", "train/sr", "real/train/16", "classifier/judge"} <= shared
    assert not shared & {"chained/sr", "oracle/sr", "scores/chained/sr"}


def test_rounds_follow_the_order_of_the_stages_in_all_cascades(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        "stages.single={size: 16, net: {kind: unet, channels: 8}, training: {steps: 3, batch_size: 8}}",
        "cascades={alone: [single], main: [base, sr]}",
        "search.space={stages.sr.sampling.steps: {values: [2]}, stages.single.sampling.steps: {values: [2, 3]}}",
    )
    assert [stage for stage, _ in rounds_of(experiment)] == ["sr", "single"]
    assert [node.name for node in targets_of(experiment, "single")] == ["scores/chained/single"]


def test_null_lists_and_nested_settings_make_trials_that_share_the_training(tmp_path: Path) -> None:
    experiment = load(
        tmp_path,
        "stages.sr.sampling.schedule={kind: linear_beta}",
        "stages.sr.sampling.guidance=2.0",
        "stages.sr.training.averages={every: 1}",
        "search.space={stages.sr.sampling.ema_length: {values: [null, 0.1]}, "
        "stages.sr.sampling.guidance_interval: {values: [null, [-2, 4]]}, "
        "stages.sr.sampling.schedule.beta_end: {values: [0.02, 0.03]}}",
    )
    ((_, paths),) = rounds_of(experiment)
    assert experiment.search is not None
    tried = grid_of(experiment.search, paths)
    assert tried[0] == dict(zip(paths, (None, None, 0.02), strict=True))
    assert tried[-1] == dict(zip(paths, (0.1, [-2.0, 4.0], 0.03), strict=True))
    targets = [targets_of(with_settings(experiment, settings), "sr") for settings in tried]
    assert len({nodes[0].digest for nodes in targets}) == 8
    assert {"train/sr", "train/base", "chained/base"} <= shared_names(targets)


def test_settings_that_mean_the_same_are_one_trial_and_impossible_ones_a_failed_point(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    storage = open_storage(experiment.store)
    made = Trials(experiment, "sr", storage, ActorGraph(storage, ActorPool(1, {}))).made
    level = {"stages.sr.sampling.level": 0.2}
    own = made(level | {"stages.sr.sampling.steps": 2})  # the YAML's own steps
    assert made(level).identity == own.identity
    assert made(level | {"stages.sr.sampling.steps": 3}).identity != own.identity
    kinds = [made({"stages.sr.sampling.augmentation": kind}).identity for kind in ("truncated", "non_truncated")]
    assert kinds[0] == kinds[1], "at s = 0 both kinds hand over the finished image"
    impossible = made(level | {"stages.sr.augmentation": None})
    assert impossible.point is not None
    assert impossible.point["status"] == "failed"
    assert "trained augmentation levels" in impossible.point["error"]
    assert impossible.identity != own.identity


@pytest.mark.parametrize(("metric", "objective"), [("chained_fid", None), ("chained_accuracy", -0.5)])
def test_a_score_that_is_no_number_is_never_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, objective: float | None
) -> None:
    experiment = load(tmp_path, f"search.metric={metric}")
    scores = {"samples": 20, "fid": math.nan, "accuracy": 0.5}
    monkeypatch.setattr(trials, "stored", lambda *_: Result(tmp_path, scores, 1.0, True))
    point = point_of(experiment, "sr", {"stages.sr.sampling.level": 0.2}, open_storage(experiment.store))
    assert point["objective"] == objective
    if metric == "chained_fid":
        assert point["status"] == "failed"
        assert point["error"] == "the chained_fid of this trial is nan, so its samples are of no use"


def test_a_trial_that_raises_is_a_failed_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise FloatingPointError("no finite image")

    monkeypatch.setattr(trials, "execute", broken)
    point = run_trial(load(tmp_path), "sr", {"stages.sr.sampling.level": 0.2})
    assert (point["status"], point["error"]) == ("failed", "FloatingPointError: no finite image")
    assert run_trial(load(tmp_path), "sr", {"stages.sr.sampling.level": 0.9})["error"].count("outside the trained") == 1


def test_a_first_look_is_the_beginning_of_all_samples(tmp_path: Path) -> None:
    experiment = load(tmp_path, "data.val=60", "search.samples=60", "search.screening={samples: 42}")
    assert experiment.search is not None
    assert experiment.search.first_look(16) == 48, "whole canonical blocks"
    whole, look = Nodes(experiment, trial=True), Nodes(experiment, trial=True, look=48)
    assert whole.chained("sr").context["earlier"] == look.chained("sr").key
    assert {**whole.chained("sr").config, "count": 48} == look.chained("sr").config
    assert "earlier" not in whole.oracle("sr").context, "an oracle decides nothing, so it has no first look"
    alone = Nodes(load(tmp_path, "data.val=60", "search.samples=60"), trial=True)
    assert alone.chained("sr").digest == whole.chained("sr").digest, "what is drawn is the same with a look and without"


def test_combinations_are_all_or_every_value_and_the_corners() -> None:
    space = {"a": Values(values=(1, 2, 3)), "b": Values(values=("x", "y")), "c": Uniform(uniform=(0.0, 1.0))}
    assert len(list(combinations(space, 100))) == 12
    few = list(combinations(space, 8))
    assert {settings["a"] for settings in few} == {1, 2, 3}
    assert {"a": 3, "b": "y", "c": 1.0} in few
    assert {"a": 2, "b": "y", "c": 1.0} not in few


def run_search(experiment: Experiment) -> dict[str, Any]:
    """The search node, here, and that what it left is JSON."""
    out = Path(experiment.store) / "out"
    out.mkdir(exist_ok=True, parents=True)
    context = {"experiment": experiment.model_dump(mode="json")}
    summary = search_stages(Task("search", {}, {}, out, context, open_storage(experiment.store), Progress()))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads((out / "search.json").read_text(), parse_constant=refuse) == summary
    return summary


def ledger_of(experiment: Experiment, hours_ago: float = 0.0) -> Ledger:
    """The ledger of another command, that began so long ago."""
    assert experiment.search is not None
    storage, prefix = open_storage(experiment.store), prefix_of(experiment, experiment.search)
    begun = time.monotonic() - 3600.0 * hours_ago
    return Ledger(storage, prefix, experiment.search.budget, experiment.resources, started=begun)


@pytest.mark.parametrize("algorithm", ["grid", "optuna"])
def test_a_round_that_the_budget_kept_from_beginning_keeps_the_declared_settings(
    tmp_path: Path, algorithm: str
) -> None:
    """A command that was killed has spent its hours for the next one; nothing of this search begins, and it ends: not
    even a training of the declared weights, which no trial would be drawn from."""
    experiment = load(tmp_path, "search.budget.hours=2", f"search.algorithm={algorithm}")
    ledger_of(experiment, hours_ago=3.0).write()
    summary = run_search(experiment)
    assert open_storage(experiment.store).list("results") == [], "nothing was computed"
    assert summary["chosen"] == {}
    assert [(found["points"], found["chosen"], found["front"]) for found in summary["rounds"]] == [([], {}, [])] * 2
    for found in summary["rounds"]:
        assert "the budget was spent before" in found["why"]
        assert "declared settings stay" in found["why"]
    assert summary["spent"]["hours"] == pytest.approx(3.0, abs=0.1)
    sections = sections_of(experiment, summary)
    assert [section.chosen for section in sections] == [None, None]
    assert "of 2 hours by the clock" in told_budget(sections)


def journaled(experiment: Experiment, settings: dict[str, Any], status: str, **point: Any) -> None:
    """A trial of the round of ``sr`` that ended in an earlier command."""
    search = experiment.search
    assert search is not None
    trials = TrainingRound(with_drawn_lists(experiment), search, "sr", tuple(search.space), {})
    log, key = trials.log(open_storage(experiment.store)), trials.key(settings)
    for _ in range(ATTEMPTS if status == "failed" else 1):
        log.begin(key, trials.identity, settings, 0.0)
        told = {**failed_point(settings, ""), "status": status, "error": None, "cost_hours": 0.5, **point}
        log.end(key, status, told)  # type: ignore[arg-type]


LEVELS, LEVEL = "stages.sr.augmentation.noise.levels", "stages.sr.sampling.level"
TRAINED = f"search.space={{{LEVELS}: {{values: [[0.0, 0.3], [0.0, 0.4]]}}, {LEVEL}: {{values: [0.1, 0.2]}}}}"


def test_a_round_that_trains_tries_what_was_asked_for_and_no_level_besides(tmp_path: Path) -> None:
    """All that was asked for ended before, so that nothing is left to train: the declared level, 0, is not."""
    experiment = load(tmp_path, TRAINED, "search.algorithm=grid", "search.budget.gpu_hours=8")
    scores = {"fid": 5.0, "fid_error": 1.0, "accuracy": 0.5, "samples": 20, "fid_without": []}
    for number, settings in enumerate(grid_of(experiment.search, [LEVELS, LEVEL])):  # type: ignore[arg-type]
        if number:
            journaled(experiment, settings, "finished", objective=5.0 + number, chained=scores)
        else:
            journaled(experiment, settings, "pruned", rungs=[[1, 9.0]])
    summary = run_search(experiment)
    (found,) = summary["rounds"]
    assert [point["status"] for point in found["points"]] == ["pruned", "finished", "finished", "finished"]
    assert summary["chosen"] == {LEVELS: [0.0, 0.3], LEVEL: 0.2}
    assert summary["spent"]["gpu_hours"] == 2.0
    assert told_budget(sections_of(experiment, summary)) == "The search spent 2.00 of 8 GPU-hours."


def test_where_no_trial_finished_the_first_error_is_told(tmp_path: Path) -> None:
    experiment = load(tmp_path, TRAINED, "search.algorithm=grid")
    for number, settings in enumerate(grid_of(experiment.search, [LEVELS, LEVEL])):  # type: ignore[arg-type]
        ended = {"status": "failed", "error": f"the fault of {number}"} if number > 1 else {"status": "pruned"}
        journaled(experiment, settings, **ended)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no trial of the search at sr finished: the fault of 2"):
        run_search(experiment)


@pytest.mark.slow
@pytest.mark.ray
def test_training_settings_are_searched_by_the_same_section(tmp_path: Path, ray_cluster: None) -> None:
    space = "search.space={stages.sr.augmentation.noise.levels: {values: [[0.0, 0.2], [0.0, 0.4]]}}"
    figures = workflow.run(load(tmp_path, space), "report", events=Silence())
    runs = [path.name for path in (tmp_path / "store" / "runs").iterdir()]
    assert len([name for name in runs if name.startswith("train-sr")]) == 2  # one training for each range
    assert len([name for name in runs if name.startswith("train-base")]) == 1
    assert figures["chosen"]["stages.sr.augmentation.noise.levels"] in ([0.0, 0.2], [0.0, 0.4])
    assert "stages.sr.augmentation.noise.levels" in Path(figures["report"]).read_text()
