"""Scores while stages train: which moment is next, that nothing else depends on them, and a real run that has them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline import workflow
from pipeline.commits import CommitLog
from pipeline.dag import ancestry, stored
from pipeline.events import Silence
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.storage import open_storage
from pipeline.tracking.addresses import tracking_uri
from pipeline.watching.points import Point
from pipeline.watching.run import Watch, curve_of
from pipeline.watching.weights import WATCHED, Weights

TEXT = """\
name: watched
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 8, batch_size: 8}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 6, batch_size: 8}
    sampling: {steps: 3, level: 0.1, augmentation: truncated}
evaluation:
  samples: 24
  reference: 60
  block: 16
  classifier: {steps: 5, channels: [8, 8]}
resources: {cpus_per_worker: 0.5, log_every: 2}
"""
DURING = "evaluation.during={every: 3, samples: 20, reference: 60}"


def load(folder: Path, *overrides: str) -> Experiment:
    folder.mkdir(exist_ok=True)
    (folder / "watched.yaml").write_text(TEXT)
    return load_experiment(folder / "watched.yaml", [f"store={folder / 'store'}", *overrides])


def digests(experiment: Experiment) -> dict[str, str]:
    return {node.name: node.digest for node in ancestry(Nodes(experiment).evaluation())}


def test_watching_changes_no_digest_and_no_run(tmp_path: Path) -> None:
    plain, watched = load(tmp_path), load(tmp_path, DURING)
    assert digests(watched) == digests(plain)
    runs = [Nodes(experiment).train("sr").context["run"] for experiment in (plain, watched)]
    assert runs[0] == runs[1]


def test_trials_of_a_search_are_not_watched(tmp_path: Path) -> None:
    experiment = load(tmp_path, DURING)
    assert Nodes(experiment).train("sr").context["watch_every"] == 3
    assert Nodes(experiment, trial=True).train("sr").context["watch_every"] is None
    assert Nodes(load(tmp_path)).train("sr").context["watch_every"] is None


@pytest.mark.parametrize(
    ("override", "another"),
    [
        ("evaluation.during.samples=30", True),
        ("evaluation.during.reference=50", True),
        ("evaluation.during.sampling_steps=2", True),
        ("stages.sr.sampling.guidance=2.0", True),
        ("stages.base.training.batch_size=16", True),
        ("evaluation.classifier.steps=6", True),
        ("evaluation.labels=histogram", True),
        ("evaluation.scorer={kind: inception, weights: x.pth}", False),  # it plays no part here
        ("evaluation.during.every=1", False),
        ("evaluation.during.sampling_steps=7", False),  # no stage takes as many
        ("stages.sr.training.steps=20", False),  # the run goes on, and so does its curve
        ("stages.base.sampling.ema_length=0.1", False),  # there is none before the end
        ("evaluation.samples=25", False),
    ],
)
def test_a_curve_is_of_one_run_and_one_way_to_score(override: str, another: bool, tmp_path: Path) -> None:
    averages = ["stages.base.training.averages={every: 4}"]
    storage = open_storage(tmp_path)
    curves = [curve_of(Nodes(load(tmp_path, DURING, *averages, *more)), storage, "sr").key for more in ([], [override])]
    assert (curves[0] != curves[1]) == another


class Bench:
    """A watch that nobody started, on logs written by hand; ``said`` is what the person reads."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.experiment = load(folder, DURING)
        self.nodes, self.storage = Nodes(self.experiment), open_storage(self.experiment.store)
        self.watch = Watch(self.nodes, ["base", "sr"], self.storage, self.said.append)
        self.now = 0.0

    def publish(self, stage: str, **info: Any) -> Path:
        """An entry in the log of ``stage``, with weights; returns their folder."""
        self.now += 1.0
        run = self.nodes.train(stage).context["run"]
        log = CommitLog(self.storage, run, owner="test", clock=lambda: self.now)
        name, folder = log.new_folder("weights")
        (folder / "ema.safetensors").write_bytes(b"")
        log.commit(name, info)
        return folder

    def due(self, **options: bool) -> tuple[str, int, dict[str, int]] | None:
        found = self.watch.due(last_only=options.get("last_only", False))
        return found and (found[0], found[1].step, {name: below.step for name, below in found[2].items()})

    def scored(self, stage: str, step: int) -> None:
        self.watch.curves[stage].add(Point(step, {}, None, 0.0, 0.0, 20, 60, 1.0, "classifier", "uniform"))


def test_moments_come_in_the_order_they_were_set_aside(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.due() is None
    bench.publish("base", **{WATCHED: 3})
    bench.publish("sr", **{WATCHED: 3})
    assert bench.due() == ("base", 3, {})
    bench.scored("base", 3)
    bench.publish("base", **{WATCHED: 6})
    assert bench.due() == ("sr", 3, {"base": 6})  # older, and chained on the newest below
    bench.scored("sr", 3)
    assert bench.due() == ("base", 6, {})
    bench.scored("base", 6)
    assert bench.due() is None
    assert bench.said == []


def test_a_stage_waits_for_weights_below_it_and_any_checkpoint_will_do(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish("sr", **{WATCHED: 3})
    assert bench.due() is None
    bench.publish("base", step=2)
    assert bench.due() == ("sr", 3, {"base": 2})
    bench.publish("base", step=9)  # of a longer run than is asked for
    assert bench.due() == ("sr", 3, {"base": 2})


def test_weights_that_were_replaced_are_left_out_and_it_is_said_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    folder = bench.publish("base", **{WATCHED: 3})
    (folder / "ema.safetensors").unlink()
    bench.publish("base", **{WATCHED: 6})
    for _ in range(2):
        assert bench.due() == ("base", 6, {})
    assert len(bench.said) == 1
    assert bench.said[0].startswith("train/base: step 3 is not scored: later weights came")


def test_at_the_end_only_the_last_step_of_each_stage_is_scored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.publish("base", **{WATCHED: 6})
    bench.publish("base", step=8, final=True)
    bench.publish("sr", step=6, final=True)
    assert bench.due(last_only=True) == ("base", 8, {})
    assert [line.split(":")[1] for line in bench.said] == [" step 6 is not scored"]
    bench.scored("base", 8)
    assert bench.due(last_only=True) == ("sr", 6, {"base": 8})
    bench.scored("sr", 6)
    assert bench.due(last_only=True) is None


class InTurn(Watch):
    """A watch on logs written by hand whose scores cost nothing; ``scored`` are their steps."""

    scored: list[int]

    def _places(self) -> tuple[Path, ...]:
        return ()

    def _score(self, name: str, weights: Weights, below: dict[str, Weights], places: tuple[Path, ...]) -> None:
        self.scored.append(weights.step)
        self.left_out.add((name, weights.step))


@pytest.mark.parametrize(("failed", "scored"), [(False, [8]), (True, [])])
def test_what_is_due_is_seen_when_a_watch_has_its_turn(failed: bool, scored: list[int], tmp_path: Path) -> None:
    """Training goes on, and ends, while another watch has its turn."""
    bench = Bench(tmp_path)
    bench.publish("base", **{WATCHED: 3})

    class Turns:
        """As a lock that another watch holds is entered."""

        def __enter__(self) -> None:
            if not watch.over.is_set():
                bench.publish("base", step=8, final=True)
                watch.end(failed=failed)

        def __exit__(self, *error: object) -> None:
            del error

    watch = InTurn(bench.nodes, ["base"], bench.storage, bench.said.append, Turns())
    watch.scored = []
    watch._watch()
    assert watch.scored == scored


def test_classifiers_wait_for_no_cpu_and_are_the_ones_that_the_evaluation_uses(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    targets = bench.watch.targets
    assert {node.cpus for node in targets} == {0.0}
    evaluation = digests(bench.experiment)
    assert {node.name: node.digest for node in targets}.items() <= evaluation.items()


def final_weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    storage = open_storage(experiment.store)
    found: dict[str, torch.Tensor] = {}
    for name in experiment.names:
        result = stored(Nodes(experiment).train(name), storage)
        assert result is not None
        weights = load_file(result.folder / "ema.safetensors")
        found |= {f"{name}/{key}": value for key, value in weights.items()}
    return found


@contextmanager
def killing(name: str) -> Iterator[list[int]]:
    """Kill every process of this one's Ray that calls itself ``name`` while the block runs; gives their ids."""
    over, killed = threading.Event(), list[int]()

    def kill() -> None:
        while not over.wait(0.05):
            for process in psutil.Process().children(recursive=True):
                try:
                    if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{name}"):
                        killed.append(process.pid)
                        process.kill()
                except psutil.Error:
                    continue

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_run_is_scored_while_it_trains_and_ends_in_the_same_bits(tmp_path: Path, ray_cluster: None) -> None:
    from mlflow.tracking import MlflowClient

    plain, watched = load(tmp_path / "plain"), load(tmp_path / "watched", DURING)
    workflow.run(plain, "train", events=Silence())
    workflow.run(watched, "train", events=Silence())

    expected = final_weights(plain)
    for name, value in final_weights(watched).items():
        assert torch.equal(value, expected[name]), name

    def check(last: dict[str, int]) -> None:
        client = MlflowClient(tracking_uri=tracking_uri(watched))
        experiments = [found.experiment_id for found in client.search_experiments(filter_string="name = 'watched'")]
        runs = {run.info.run_name: run.info.run_id for run in client.search_runs(experiments)}
        for stage, step in last.items():
            points = curve_of(Nodes(watched), open_storage(watched.store), stage).points()
            assert points[-1].step == step
            assert {(point.features, point.labels) for point in points} == {("classifier", "uniform")}
            for figure in ("fid", "kid", "accuracy"):
                history = client.get_metric_history(runs[f"train/{stage}"], f"during_{figure}")
                assert [(metric.step, metric.value) for metric in history] == [
                    (point.step, getattr(point, figure)) for point in points
                ]
        below = client.get_metric_history(runs["train/sr"], "during_below_base")
        assert (below[-1].step, below[-1].value) == (last["sr"], last["base"])

    check({"base": 8, "sr": 6})
    workflow.run(watched, "train", events=Silence())  # computes nothing, tracks nothing twice
    check({"base": 8, "sr": 6})


@pytest.mark.ray
@pytest.mark.slow
def test_killing_who_scores_leaves_the_training_whole(tmp_path: Path, ray_cluster: None) -> None:
    experiment = load(tmp_path, DURING)
    with killing("during/") as killed:
        found = workflow.run(experiment, "train", events=Silence())
    assert killed
    assert {name: summary["step"] for name, summary in found["stages"].items()} == {"base": 8, "sr": 6}
    assert curve_of(Nodes(experiment), open_storage(experiment.store), "base").points() == []
