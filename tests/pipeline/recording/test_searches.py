"""A search in MLflow: the tree, what became of each trial, what a filter finds, and the registered choice."""

from __future__ import annotations

import csv
import json
import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from pipeline.commits import CommitLog
from pipeline.experiment import load_experiment, with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.outcome import Outcome
from pipeline.recording.searches import record_search
from pipeline.results import Result
from pipeline.scoring.passport import ExtractorMark, Passport, ReferenceMark, SourceMark
from pipeline.storage import open_storage
from pipeline.tracking.registry import registered
from pipeline.tracking.runs import Tracker
from pipeline.tracking.views import LOWEST_FID, view_state

TEXT = """\
name: tiny
data: {kind: drawn, size: 16}
stages:
  base: {size: 8, net: {kind: unet, channels: 8}, training: {steps: 90, batch_size: 8}}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 90, batch_size: 8}
search:
  samples: 400
  space:
    stages.base.training.learning_rate: {loguniform: [0.0001, 0.01]}
    stages.sr.sampling.level: {values: [0.0, 0.2, 0.3]}
    stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}
"""
TRIAL = "tags.`rayfall.kind` = 'trial'"
# What each filter of docs/mlflow.md finds here; the one of a cell is tried where there are cells.
CELLS = f"{TRIAL} and params.cell = 'none'"
FOUND = {
    TRIAL: 7,
    f"{TRIAL} and params.stage = 'sr' and params.`sr.level` = '0.2'": 2,
    "tags.`rayfall.chosen` = 'true'": 2,
    "tags.`rayfall.front` = 'true'": 3,
    f"{TRIAL} and metrics.accuracy > 0.8 and metrics.chained_fid < 20": 1,
    "attributes.status = 'FAILED' and tags.`rayfall.error` LIKE '%OutOfMemory%'": 1,
    "tags.`rayfall.status` = 'pruned'": 1,
    "tags.`rayfall.passport.extractor.name` = 'inception'": 1,
}
RATE, LEVEL, KIND = "stages.base.training.learning_rate", "stages.sr.sampling.level", "stages.sr.sampling.augmentation"


def scores(fid: float, accuracy: float) -> dict[str, Any]:
    figures = {"fid": fid, "fid_error": 0.5, "kid": 0.01, "accuracy": accuracy, "precision": 0.5, "recall": 0.25}
    return {"samples": 20, **figures, "fid_without": [fid], "passport": None, "also": {}}


def point(settings: dict[str, Any], fid: float | None, accuracy: float = 0.5, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"settings": settings, "status": "finished", "error": None, "samples": 20, "seconds": 60.0}
    found |= {"objective": math.inf if fid is None else fid, "rungs": [], "start_seconds": None}
    if fid is not None:
        found |= {"chained": scores(fid, accuracy), "oracle": scores(fid - 2, 0.9)}
    return {**found, **changes}


def passport() -> dict[str, Any]:
    return Passport(
        samples=20, indices=(0, 20), source=SourceMark(kind="chained"),
        reference=ReferenceMark(name="drawn", split="train", images=40, near=40, digest="cd" * 32, lossy=False),
        extractor=ExtractorMark(name="inception", layer="pool3", sha256="ef" * 32), size=16, resize="bilinear",
        stages=(), labels="histogram", seed=1, precision="f32", block=16, device="cpu", revision="ab" * 20,
    ).model_dump(mode="json")  # fmt: skip


def summary() -> dict[str, Any]:
    trained = [
        point({RATE: 0.002}, 8.0, rungs=[[30, 20.0], [90, 8.5]], start_seconds=4.0, oracle=None),
        point({RATE: 0.01}, None, status="pruned", rungs=[[30, 90.0]], start_seconds=5.0),
    ]
    sampled = [
        point({RATE: 0.002, LEVEL: 0.0, KIND: "truncated"}, 6.0, 0.5),
        point({RATE: 0.002, LEVEL: 0.2, KIND: "truncated"}, 4.0, 0.6),
        point({RATE: 0.002, LEVEL: 0.2, KIND: "non_truncated"}, 5.0, 0.875),
        point({RATE: 0.002, LEVEL: 0.3, KIND: "truncated"}, 9.0, status="dropped", rungs=[[8, 30.0]]),
        point(
            {RATE: 0.002, LEVEL: 0.3, KIND: "non_truncated"},
            None,
            status="failed",
            error="torch.OutOfMemoryError: lost\n at 3",
        ),
    ]
    sharing = {"trials": 5, "shared_seconds": 10.0, "trial_seconds": 50.0, "saved_seconds": 40.0, "busy_share": 0.95}
    sampled[1]["chained"]["passport"] = passport()
    common = {"metric": "chained_fid"}
    rounds = [
        {**common, "stage": "base", "kind": "training", "points": trained, "chosen": trained[0]["settings"],
         "front": [0], "why": "It has the lowest FID."},
        {**common, "stage": "sr", "kind": "sampling", "points": sampled, "chosen": sampled[1]["settings"],
         "front": [1, 2], "why": "Nothing else comes near.", "sharing": sharing},
    ]  # fmt: skip
    return {"chosen": sampled[1]["settings"], "rounds": rounds}


def leave_trainings(experiment: Experiment) -> None:
    """A result of the trial that finished, a checkpoint of the one that was pruned."""
    storage = open_storage(experiment.store)
    for rate, final in ((0.002, True), (0.01, False)):
        node = Nodes(with_settings(experiment, {RATE: rate})).train("base")
        log = CommitLog(storage, node.key if final else node.context["run"], owner="me", clock=time.time)
        name, folder = log.new_folder("files")
        steps = (30, 60, 90) if final else (30,)
        (folder / "history.json").write_text(json.dumps([{"step": step, "loss": 1 / step} for step in steps]))
        source = (
            {"source": "", "summary": {"seconds": 90.0}, "seconds": 1.0} if final else {"step": 30, "seconds": 30.0}
        )
        log.commit(name, source)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    folder = tmp_path_factory.mktemp("search")
    (folder / "tiny.yaml").write_text(TEXT)
    experiment = load_experiment(folder / "tiny.yaml", [f"store={folder / 'store'}"])
    leave_trainings(experiment)
    found = summary()
    chosen = with_settings(experiment, found["chosen"])
    results = {
        f"train/{name}": Result(folder / f"train-{name}-01" / "files", {}, 1.0, reused=False) for name in ("base", "sr")
    }
    for kind, fid in (("chained", 4.25), ("oracle", 2.0)):
        results[f"scores/{kind}/sr"] = Result(folder, scores(fid, 0.625), 1.0, reused=False)
    return Outcome(experiment, chosen, results, [], Result(folder, found, 400.0, reused=False))


class Recorded:
    """A store with the search in it."""

    def __init__(self, outcome: Outcome, folder: Path) -> None:
        self.outcome, self.uri = outcome, f"sqlite:///{folder}/mlflow.db"
        self.tracker = Tracker(self.uri)
        self.opened = self.tracker.open_experiment("tiny")
        self.parent = self.tracker.run(self.opened, name="tiny", kind="experiment", key="experiment")
        self.client = MlflowClient(tracking_uri=self.uri)

    def record(self, outcome: Outcome) -> None:
        record_search(self.tracker, self.opened, self.parent, outcome)

    def runs(self, filter_string: str = "", order_by: list[str] | None = None) -> list[Run]:
        return list(self.client.search_runs([self.opened], filter_string, order_by=order_by))

    def kinds(self, kind: str) -> dict[str, Run]:
        return {run.info.run_name: run for run in self.runs(f"tags.`rayfall.kind` = '{kind}'")}

    def points(self, run: str, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(run, metric)
        return sorted((point.step, point.value) for point in history)


@pytest.fixture(scope="module")
def recorded(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    made = Recorded(outcome, tmp_path_factory.mktemp("mlflow"))
    made.record(outcome)
    return made


def test_trials_stand_under_the_search_with_what_was_searched(recorded: Recorded) -> None:
    (search,) = recorded.kinds("search").values()
    assert search.data.tags["mlflow.parentRunId"] == recorded.parent
    assert {name: search.data.metrics[name] for name in ("trials", "finished", "dropped", "pruned", "failed")} == {
        "trials": 7, "finished": 4, "dropped": 1, "pruned": 1, "failed": 1,
    }  # fmt: skip
    assert search.data.metrics["saved_seconds"] == 40.0
    assert "sr: Nothing else comes near." in search.data.tags["mlflow.note.content"]
    trials = recorded.kinds("trial")
    assert len(trials) == 7
    assert {run.data.tags["mlflow.parentRunId"] for run in trials.values()} == {search.info.run_id}
    trial = trials["trial/sr level 0.2, augmentation truncated"]
    assert trial.data.params == {"stage": "sr", "round": "2", "sr.level": "0.2", "sr.augmentation": "truncated"}
    expected = {"chained_fid": 4.0, "chained_fid_error": 0.5, "oracle_fid": 2.0, "gap": 2.0, "accuracy": 0.6}
    expected |= {"kid": 0.01, "precision": 0.5, "recall": 0.25, "seconds": 60.0}
    assert trial.data.metrics == expected
    assert trials["trial/base learning_rate 0.002"].data.params["base.learning_rate"] == "0.002"


def test_what_became_of_a_trial(recorded: Recorded) -> None:
    trials = recorded.kinds("trial")
    ends = {name.split(" ", 1)[1]: (run.info.status, run.data.tags["rayfall.status"]) for name, run in trials.items()}
    assert ends["learning_rate 0.01"] == ("KILLED", "pruned")
    assert ends["level 0.3, augmentation truncated"] == ("FINISHED", "dropped")
    assert ends["level 0.3, augmentation non_truncated"] == ("FAILED", "failed")
    assert [end for end, _ in ends.values()].count("FINISHED") == 5
    pruned = trials["trial/base learning_rate 0.01"]
    assert recorded.points(pruned.info.run_id, "pruning_fid") == [(30, 90.0)]
    assert set(pruned.data.metrics) == {"pruning_fid", "seconds", "start_seconds"}
    dropped = trials["trial/sr level 0.3, augmentation truncated"]
    assert dropped.data.metrics == {"screening_fid": 30.0, "seconds": 60.0}  # fewer samples: no chained_fid
    failed = trials["trial/sr level 0.3, augmentation non_truncated"]
    assert failed.data.tags["rayfall.error"] == "torch.OutOfMemoryError: lost\n at 3"
    assert failed.info.end_time - failed.info.start_time == 60_000


def test_grandchildren_are_trainings_and_evaluations(recorded: Recorded) -> None:
    trials = {run.info.run_id: name for name, run in recorded.kinds("trial").items()}
    stages = recorded.runs("tags.`rayfall.kind` = 'stage'")
    curves = {
        trials[run.data.tags["mlflow.parentRunId"]]: [step for step, _ in recorded.points(run.info.run_id, "loss")]
        for run in stages
    }
    assert curves == {"trial/base learning_rate 0.002": [30, 60, 90], "trial/base learning_rate 0.01": [30]}
    evaluations = recorded.runs("tags.`rayfall.kind` = 'evaluation'")
    assert len({run.data.tags["mlflow.parentRunId"] for run in evaluations} & set(trials)) == 4
    one = next(run for run in evaluations if run.data.metrics["chained_fid"] == 4.0)
    assert one.data.metrics["oracle_recall"] == 0.25
    assert one.data.metrics["kid"] == 0.01
    assert "chained_kid" not in one.data.metrics  # one figure, one name
    assert {name: one.data.params[name] for name in ("stage", "samples", "sampling.steps", "sampling.level")} == {
        "stage": "sr", "samples": "20", "sampling.steps": "32", "sampling.level": "0.2",
    }  # fmt: skip


def test_filters_of_the_documentation_find_what_they_say(recorded: Recorded) -> None:
    text = (Path(__file__).parents[3] / "docs" / "mlflow.md").read_text()
    filters = re.findall(r"^\| `` (.+?) `` \|", text, flags=re.MULTILINE)
    assert set(filters) == {*FOUND, CELLS}
    assert {one: len(recorded.runs(one)) for one in FOUND} == FOUND
    best = recorded.runs(f"{TRIAL} and params.stage = 'sr'", ["metrics.chained_fid ASC"])
    assert [run.data.metrics["chained_fid"] for run in best[:3]] == [4.0, 5.0, 6.0]
    level = recorded.runs(f"{TRIAL} and params.`sr.level` = '0.2' and metrics.accuracy > 0.65")
    assert [run.data.params["sr.augmentation"] for run in level] == ["non_truncated"]
    chosen = recorded.runs("tags.`rayfall.chosen` = 'true'")
    assert sorted(run.data.params["stage"] for run in chosen) == ["base", "sr"]
    assert len(recorded.runs("tags.`rayfall.front` = 'true' and params.stage = 'sr'")) == 2
    assert len(recorded.runs(f"{TRIAL} and attributes.status = 'KILLED'")) == 1  # its training is, too


def test_a_round_has_a_saved_view_with_axes_that_lose_no_line(recorded: Recorded) -> None:
    tags = recorded.client.get_experiment(recorded.opened).tags
    view = json.loads(tags["mlflow.sharedViewState.rayfall-search-2"])
    state = json.loads(view["state"])
    assert (view["name"], state["orderByKey"]) == ("Search sr", "metrics.`chained_fid`")
    assert len(recorded.runs(state["searchFilter"])) == 5
    assert "params.`sr.level`" in state["selectedColumns"]
    assert (state["orderByAsc"], state["compareRunCharts"][-1]["metricKey"]) == (True, "chained_fid")
    mixed: list[dict[str, Any]] = [
        {"a": "none", "b": "1", "c": "x", "d": "y"},
        {"a": "0.2", "b": "2", "c": "x", "d": "z"},
    ]
    parallel = view_state("of mine", "", [*mixed, {**mixed[0], "d": "w"}], LOWEST_FID)["compareRunCharts"][0]
    assert (parallel["type"], parallel["selectedParams"]) == ("PARALLEL", ["b", "d"])


def test_a_search_by_accuracy_is_seen_and_sorted_by_accuracy(outcome: Outcome, tmp_path: Path) -> None:
    assert outcome.search is not None
    found = summary()
    for one in found["rounds"]:
        one["metric"] = "chained_accuracy"
    found["rounds"][1]["points"][3]["rungs"] = [[8, 0.25]]
    result = Result(outcome.search.folder, found, 400.0, reused=False)
    recorded = Recorded(outcome, tmp_path)
    recorded.record(Outcome(outcome.declared, outcome.experiment, outcome.results, [], result))
    trials = recorded.kinds("trial")
    dropped = trials["trial/sr level 0.3, augmentation truncated"]
    assert dropped.data.metrics == {"screening_accuracy": 0.25, "seconds": 60.0}
    assert recorded.points(trials["trial/base learning_rate 0.01"].info.run_id, "pruning_fid") == [(30, 90.0)]
    tags = recorded.client.get_experiment(recorded.opened).tags
    state = json.loads(json.loads(tags["mlflow.sharedViewState.rayfall-search-2"])["state"])
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`accuracy`", False)
    assert state["compareRunCharts"][-1]["metricKey"] == "accuracy"


def test_trainings_take_as_long_as_they_took_and_a_repetition_adds_no_time(outcome: Outcome, tmp_path: Path) -> None:
    recorded = Recorded(outcome, tmp_path)
    recorded.record(outcome)
    first = {run.info.run_id: run.info for run in recorded.runs()}
    lasted = {
        (info.run_name, info.status): info.end_time - info.start_time
        for info in first.values()
        if info.end_time is not None and info.run_name.startswith("train/")
    }
    assert lasted == {("train/base", "FINISHED"): 90_000, ("train/base", "KILLED"): 30_000}
    time.sleep(0.05)
    recorded.record(outcome)
    again = {run.info.run_id: run.info for run in recorded.runs()}
    assert {run: (info.start_time, info.end_time) for run, info in again.items()} == {
        run: (info.start_time, info.end_time) for run, info in first.items()
    }


def test_tables_are_artifacts(recorded: Recorded) -> None:
    (search,) = recorded.kinds("search").values()
    root = Path(search.info.artifact_uri.removeprefix("file://"))
    rows = list(csv.DictReader((root / "trials.csv").read_text().splitlines()))
    assert [row["status"] for row in rows].count("finished") == 4
    assert rows[3]["sr.level"] == "0.2"
    assert json.loads((root / "search.json").read_text())["rounds"][1]["front"] == [1, 2]


def test_the_choice_is_registered_with_its_final_scores(recorded: Recorded, outcome: Outcome) -> None:
    found = registered(recorded.tracker, "tiny")
    assert list(found.weights) == ["base", "sr"]
    assert found.weights["sr"] == str(outcome.results["train/sr"].folder)
    assert found.sampling["sr"]["level"] == 0.2
    assert found.settings == outcome.search.summary["chosen"] if outcome.search else None
    assert found.scores["chained_fid"] == 4.25  # of the evaluation, not of the trial, which was selected


def test_a_repetition_adds_nothing_and_another_choice_moves_the_tag(outcome: Outcome, tmp_path: Path) -> None:
    recorded = Recorded(outcome, tmp_path)
    recorded.record(outcome)
    before = {run.info.run_id: (run.info, run.data.params, run.data.tags) for run in recorded.runs()}
    recorded.record(outcome)
    again = recorded.runs()
    assert {run.info.run_id for run in again} == set(before)
    for run in again:
        info, params, tags = before[run.info.run_id]
        assert (run.data.params, run.data.tags, run.info.status) == (params, tags, info.status)
        single = set(run.data.metrics) - {"pruning_fid", "loss"}
        assert all(len(recorded.points(run.info.run_id, name)) == 1 for name in single)
    assert outcome.search is not None
    changed = summary()
    changed["rounds"][1] |= {"chosen": changed["rounds"][1]["points"][2]["settings"], "front": [2]}
    recorded.record(Outcome(outcome.declared, outcome.experiment, outcome.results, [],
                            Result(outcome.search.folder, changed, 400.0, reused=False)))  # fmt: skip
    for tag in ("chosen", "front"):
        tagged = recorded.runs(f"tags.`rayfall.{tag}` = 'true' and params.stage = 'sr'")
        assert [run.data.params["sr.augmentation"] for run in tagged] == ["non_truncated"]
