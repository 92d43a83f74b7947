"""An ablation in MLflow: the tree, what is found again, what later cells and seeds add, and its registered weights."""

from __future__ import annotations

import csv
import json
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from pipeline.ablation.opened_runs import Key, OpenedAblation, close_ablation, open_ablation, trainings_of
from pipeline.ablation.parts import AblationReport, CellRow, Replicate
from pipeline.ablation.recording import record_ablation
from pipeline.ablation.run import Ablation
from pipeline.ablation.workflow import tracked
from pipeline.commits import CommitLog
from pipeline.dag import Node, stored
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment, TrackingSpec
from pipeline.nodes import Nodes
from pipeline.storage import open_storage
from pipeline.tracking.registry import registered
from pipeline.tracking.runs import Tracker

STAGES = {"base8": 8, "sr16": 16, "sr32": 32}
SECONDS = 90.0
HISTORY = [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]


def declared(cells: Mapping[str, Mapping[str, Any]], name: str, store: Path) -> Experiment:
    """An experiment with the stages of the made-up report, and its cells."""
    stages: dict[str, Any] = {}
    for stage, size in STAGES.items():
        stages[stage] = {"size": size, "net": {"kind": "unet", "channels": 8}}
        stages[stage]["training"] = {"steps": 20, "batch_size": 8}
        if size > 8:
            stages[stage] |= {"low_res_size": size // 2, "augmentation": {"noise": {"levels": [0.0, 0.4]}}}
    return Experiment.model_validate({
        "name": name, "data": {"kind": "drawn", "size": 32}, "stages": stages, "store": store,
        "ablation": {"baseline": next(iter(cells)), "seeds": [0, 1, 2], "cells": cells},
    })  # fmt: skip


def replicates_of(experiment: Experiment) -> dict[Key, Experiment]:
    """Every cell trains its last stage another way; those below are shared by the cells of a seed."""
    assert experiment.ablation is not None
    return {
        (cell, seed): with_settings(
            experiment, {"ablation": None, "seed": seed, "stages.sr32.training.learning_rate": 1e-4 * (number + 1)}
        )
        for seed in experiment.ablation.seeds
        for number, cell in enumerate(experiment.ablation.all_cells())
    }


def train(one: Experiment, *stages: str) -> None:
    """Have the results of the trainings of ``stages`` stored, with their curves."""
    for stage in stages:
        put(trainings_of(one)[stage], one, {"seconds": SECONDS})


def score(one: Experiment, replicate: Replicate) -> None:
    """Have the scores of ``replicate`` stored, and what is measured of the last stage beside them."""
    nodes = Nodes(one)
    for scored in replicate.stages:
        for kind, scores in (("chained", scored.chained), ("oracle", scored.oracle)):
            if scores is not None:
                put(nodes.scores(kind, scored.stage), one, scores.model_dump(mode="json") | {"fid_without": []})
    put(nodes.restoration("sr32"), one, {"psnr": 21.5})


def put(node: Node, one: Experiment, summary: Mapping[str, Any]) -> None:
    storage = open_storage(one.store)
    if stored(node, storage) is None:
        log = CommitLog(storage, node.key, owner="me", clock=time.time)
        name, folder = log.new_folder("files")
        (folder / "history.json").write_text(json.dumps(HISTORY))
        log.commit(name, {"source": "", "summary": dict(summary), "seconds": 1.0})


def opened_of(experiment: Experiment, replicates: Mapping[Key, Experiment], uri: str) -> OpenedAblation:
    opened = OpenedAblation(uri, open_storage(experiment.store))
    open_ablation(opened, experiment, replicates, identity="one")
    return opened


class Store:
    """What one test writes, and how it reads it."""

    def __init__(self, folder: Path, report: AblationReport, uri: str, name: str) -> None:
        self.folder, self.report, self.uri, self.name = folder, report, uri, name
        self.client = MlflowClient(tracking_uri=self.uri)

    def record(self, report: AblationReport) -> str:
        experiment = declared({cell.name: cell.settings for cell in report.cells}, self.name, self.folder)
        replicates = {key: one for key, one in replicates_of(experiment).items() if key[1] in report.seeds}
        opened = opened_of(experiment, replicates, self.uri)
        whole = {(cell.name, one.seed): one for cell in report.cells for one in cell.finished}
        for key, one in replicates.items():
            train(one, *(STAGES if key in whole else ("base8", "sr16")))
            if key in whole:
                score(one, whole[key])
        made = record_ablation(
            report, self.uri, experiment=experiment, page="<p>report</p>", identity="one",
            replicates={key: replicates[key] for key in whole},
        )  # fmt: skip
        if not any(cell.missing for cell in report.cells):
            close_ablation(opened, "FAILED")
        return made

    def runs(self, filter_string: str = "") -> list[Run]:
        opened = self.client.get_experiment_by_name(self.name)
        assert opened is not None
        return list(self.client.search_runs([opened.experiment_id], filter_string, max_results=1000))

    def state(self) -> dict[str, Any]:
        """Everything there is: names, places, params, metrics with their number of points, tags, statuses."""
        return {
            run.info.run_id: (
                run.info.run_name, run.info.status, run.data.params, run.data.tags,
                {name: len(self.client.get_metric_history(run.info.run_id, name)) for name in run.data.metrics},
            )
            for run in self.runs()
        }  # fmt: skip

    def above(self, name: str) -> set[str]:
        """Names of the runs that those called ``name`` stand under."""
        runs = {run.info.run_id: run for run in self.runs()}
        mine = [run for run in runs.values() if run.info.run_name == name]
        return {str(runs[run.data.tags["mlflow.parentRunId"]].info.run_name) for run in mine}

    def artifact(self, run: str, path: str) -> str:
        return (Path(self.client.get_run(run).info.artifact_uri.removeprefix("file://")) / path).read_text()


def of_cells(report: AblationReport, count: int, **changes: Any) -> AblationReport:
    """The report as it was when only its first cells were declared."""
    cells = report.cells[:count]
    known = {cell.name for cell in cells}
    claims = [claim for claim in report.equalities if set(claim.cells) <= known]
    front = [name for name in report.front if name in known]
    return report.model_copy(update={"cells": cells, "equalities": claims, "front": front, **changes})


def with_seeds(report: AblationReport, count: int) -> AblationReport:
    def cut(cell: CellRow) -> CellRow:
        return cell.model_copy(update={"replicates": cell.replicates[:count]})

    return report.model_copy(update={"seeds": report.seeds[:count], "cells": [cut(cell) for cell in report.cells]})


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: making it takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/mlflow.db"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, ablation: AblationReport, uri: str) -> Store:
    return Store(tmp_path_factory.mktemp("ablation"), ablation, uri, "made-up")


@pytest.fixture(scope="module")
def parent(store: Store) -> str:
    """Two of three cells first, then all; then all of it again, which must add nothing."""
    few = of_cells(store.report, 3, front=["noise-small", "noise-large"])
    parent = store.record(of_cells(few, 2))
    assert len(store.runs("tags.`rayfall.kind` = 'trial'")) == 6
    first = store.state()
    assert store.record(few) == parent
    later = store.state()
    assert set(first) < set(later)
    assert {run: entry[2] for run, entry in first.items()} == {run: later[run][2] for run in first}
    store.record(few)
    again = store.state()
    assert again == later
    return parent


def test_an_ablation_is_one_tree_of_replicates(store: Store, parent: str) -> None:
    assert [run.info.run_id for run in store.runs("tags.`rayfall.kind` = 'ablation'")] == [parent]
    trials = store.runs("tags.`rayfall.kind` = 'trial'")
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent}
    assert Counter(run.info.status for run in trials) == {"FINISHED": 8, "FAILED": 1}
    by_name = {run.info.run_name: run for run in trials}
    assert set(by_name) == {
        f"{cell} seed {seed}" for cell in ("none", "noise-small", "noise-large") for seed in range(3)
    }
    one = by_name["noise-small seed 1"]
    assert one.data.params == {
        "cell": "noise-small", "seed": "1", "sr32.augmentation.kind": "noise", "sr32.augmentation.max_level": "0.2",
    }  # fmt: skip
    assert set(by_name["none seed 0"].data.params) == set(one.data.params)
    wanted = {"chained_fid", "chained_fid_error", "oracle_fid", "gap", "accuracy", "recall"}
    times = {"seconds", "device_seconds", "training_seconds", "start_seconds"}
    assert set(one.data.metrics) == wanted | times | {"level"}
    replicate = store.report.cell("noise-small").replicates[1]
    assert replicate.chained is not None
    assert one.data.metrics["chained_fid"] == replicate.chained.fid
    assert one.data.metrics["seconds"] == replicate.seconds
    assert one.data.metrics["device_seconds"] == replicate.device_seconds == 4 * replicate.seconds


def test_what_replicates_share_stands_once_under_the_ablation(store: Store, parent: str) -> None:
    stages = store.runs("tags.`rayfall.kind` = 'stage'")
    shared = [run for run in stages if run.data.tags["mlflow.parentRunId"] == parent]
    assert sorted(run.info.run_name for run in shared) == [
        f"train/{stage} seed {seed}" for stage in ("base8", "sr16") for seed in range(3)
    ]
    trials = {run.info.run_id: run for run in store.runs("tags.`rayfall.kind` = 'trial'")}
    own = [run for run in stages if run.data.tags["mlflow.parentRunId"] in trials]
    assert [run.info.run_name for run in own] == ["train/sr32"] * 9
    curves = {run.info.run_id: store.client.get_metric_history(run.info.run_id, "loss") for run in own}
    drawn = [[(point.step, point.value) for point in curve] for curve in curves.values()]
    assert drawn.count([(10, 0.5), (20, 0.25)]) == 8  # the ninth failed
    assert Counter(run.info.status for run in stages) == {"FINISHED": 14, "FAILED": 1}
    assert {run.info.end_time - run.info.start_time for run in stages if run.info.status == "FINISHED"} == {90_000}
    assert {name: own[0].data.params[name] for name in ("stage", "size", "training.steps")} == {
        "stage": "sr32", "size": "32", "training.steps": "20",
    }  # fmt: skip
    evaluations = store.runs("tags.`rayfall.kind` = 'evaluation'")
    whose = Counter(run.data.tags["mlflow.parentRunId"] for run in evaluations if run.info.run_name == "evaluate/sr32")
    assert sorted(whose) == sorted(run for run, trial in trials.items() if trial.info.status == "FINISHED")
    assert len(evaluations) == 8 + 6  # of sr32; of base8 and sr16, which the cells of a seed share
    assert {
        run.data.metrics.get("restoration_psnr") for run in evaluations if run.info.run_name == "evaluate/sr32"
    } == {21.5}


def test_a_filter_of_the_documentation_finds_the_seeds_of_a_cell(store: Store, parent: str) -> None:
    told = "tags.`rayfall.kind` = 'trial' and params.cell = 'none'"
    assert told in (Path(__file__).parents[3] / "docs" / "mlflow.md").read_text()
    assert sorted(run.data.params["seed"] for run in store.runs(told)) == ["0", "1", "2"]


def test_a_replicate_lasts_as_long_as_it_took(store: Store, parent: str) -> None:
    trials = store.runs("tags.`rayfall.status` = 'finished'")
    for run in trials:
        one = store.report.cell(run.data.params["cell"]).replicates[int(run.data.params["seed"])]
        assert run.info.end_time - run.info.start_time == int(1000 * one.seconds)
    assert len(trials) == 8


def test_failure_choice_front_and_baseline_are_tags(store: Store, parent: str) -> None:
    failed = store.runs("tags.`rayfall.status` = 'failed'")
    assert [run.info.run_name for run in failed] == ["noise-large seed 2"]
    assert failed[0].data.tags["rayfall.error"].startswith("TrainingFailedError")
    assert "chained_fid" not in failed[0].data.metrics

    def cells(tag: str) -> set[str]:
        return {run.data.params["cell"] for run in store.runs(f"tags.`rayfall.{tag}` = 'true'")}

    assert (cells("chosen"), cells("front"), cells("baseline")) == (
        {"noise-small"}, {"noise-small", "noise-large"}, {"none"},
    )  # fmt: skip


def test_a_former_choice_is_none_any_more(tmp_path: Path, ablation: AblationReport, uri: str) -> None:
    store = Store(tmp_path, ablation, uri, "changed")
    few = with_seeds(of_cells(ablation, 2), 1)
    store.record(few)
    store.record(few.model_copy(update={"chosen": "none", "front": ["none"]}))
    for tag in ("chosen", "front"):
        assert [run.data.params["cell"] for run in store.runs(f"tags.`rayfall.{tag}` = 'true'")] == ["none"]
    version = store.client.get_model_version_by_alias("changed", "chosen")
    assert (version.version, version.tags["rayfall.cell"]) == (2, "none")


def test_tables_and_the_page_are_artifacts(store: Store, parent: str) -> None:
    run = store.client.get_run(parent)
    assert run.data.metrics["replicates_failed"] == 1
    assert run.data.metrics["cells"] == 3
    assert len(run.data.metrics) < 10
    assert "lowest mean chained FID" in run.data.tags["mlflow.note.content"]
    table = json.loads(store.artifact(parent, "table.json"))
    assert table["chosen"] == "noise-small"
    assert [cell["name"] for cell in table["cells"]] == ["none", "noise-small", "noise-large"]
    assert "grid_png" not in table["cells"][0]
    rows = list(csv.DictReader(store.artifact(parent, "table.csv").splitlines()))
    mine = next(row for row in rows if (row["cell"], row["metric"]) == ("noise-small", "chained_fid"))
    assert float(mine["mean"]) == store.report.cell("noise-small").mean("chained_fid")
    difference = store.report.cell("noise-small").differences["chained_fid"]
    assert (float(mine["difference_mean"]), float(mine["difference_low"])) == (difference.mean, difference.low)
    replicates = list(csv.DictReader(store.artifact(parent, "replicates.csv").splitlines()))
    assert [row["status"] for row in replicates].count("failed") == 1
    assert store.artifact(parent, "report.html") == "<p>report</p>"
    figures = [file.path for file in store.client.list_artifacts(parent, "figures")]
    assert "figures/differences.svg" in figures
    view = json.loads(
        store.client.get_experiment(run.info.experiment_id).tags["mlflow.sharedViewState.rayfall-ablation"]
    )
    state = json.loads(view["state"])
    assert len(store.runs(state["searchFilter"])) == 9
    assert state["compareRunCharts"][0]["selectedParams"][0] == "cell"


def test_the_chosen_cell_is_a_model_version(store: Store, parent: str) -> None:
    versions = store.client.search_model_versions("name = 'made-up'")
    assert len(versions) == 1
    version = store.client.get_model_version_by_alias("made-up", "chosen")
    assert (version.tags["rayfall.cell"], version.tags["rayfall.seed"]) == ("noise-small", "0")
    point = registered(Tracker(store.uri), "made-up")
    assert list(point.weights) == list(STAGES)
    assert version.source == point.weights["sr32"]
    first = store.report.cell("noise-small").replicates[0]
    assert first.chained is not None
    assert point.scores["chained_fid"] == first.chained.fid
    assert version.run_id is not None
    assert store.client.get_run(version.run_id).info.run_name == "noise-small seed 0"


def test_a_replicate_to_come_stays_open_until_it_is_there(tmp_path: Path, ablation: AblationReport, uri: str) -> None:
    store = Store(tmp_path, ablation, uri, "waiting")
    few = with_seeds(of_cells(ablation, 2), 2)
    waiting = Replicate(seed=1, status="missing")
    row = few.cells[1].model_copy(update={"replicates": [few.cells[1].replicates[0], waiting]})
    store.record(few.model_copy(update={"cells": [few.cells[0], row]}))
    assert [
        run.info.run_name for run in store.runs("attributes.status = 'RUNNING' and tags.`rayfall.kind` = 'trial'")
    ] == ["noise-small seed 1"]
    [parent] = store.runs("tags.`rayfall.kind` = 'ablation'")
    assert (parent.data.metrics["replicates_failed"], parent.data.metrics["replicates_to_come"]) == (0, 1)
    assert parent.info.status == "RUNNING"
    assert store.above("evaluate/base8") == {"ablation waiting", "none seed 1"}
    store.record(few)
    assert store.above("evaluate/base8") == {"ablation waiting"}, "the other came to those of seed 1 as well"
    assert {run.info.status for run in store.runs()} == {"FINISHED"}
    assert store.runs("tags.`rayfall.error` LIKE '%'") == []


def test_what_is_opened_has_live_curves_and_ends_with_the_command(
    tmp_path: Path, ablation: AblationReport, uri: str
) -> None:
    experiment = declared({cell.name: cell.settings for cell in ablation.cells[:2]}, "opened", tmp_path)
    replicates = {key: one for key, one in replicates_of(experiment).items() if key[1] == 0}
    opened = opened_of(experiment, replicates, uri)
    client = MlflowClient(tracking_uri=uri)
    assert opened.parent is not None
    client.set_tag(opened.parent, "mlflow.note.content", "what was found")
    assert opened_of(experiment, replicates, uri) == opened
    assert client.get_run(opened.parent).data.tags["mlflow.note.content"] == "what was found"
    first, second = (opened.tracking[cell, 0].runs for cell in ("none", "noise-small"))
    assert first["base8"] == second["base8"]
    assert first["sr32"] != second["sr32"]
    client.set_terminated(first["base8"])
    train(replicates["none", 0], "sr16")
    close_ablation(opened, "KILLED")
    ended = [client.get_run(run).info.status for run in [first["sr32"], opened.parent, *opened.trials.values()]]
    assert ended == ["KILLED"] * 4
    assert client.get_run(first["base8"]).info.status == "FINISHED"  # it had ended by itself
    assert client.get_run(first["sr16"]).info.status == "FINISHED"  # it was stored, if not yet recorded
    assert [point.step for point in client.get_metric_history(first["sr16"], "loss")] == [10, 20]


def test_an_opening_that_is_cut_short_can_be_closed_and_a_run_that_cannot_be_ended_keeps_no_other_open(
    tmp_path: Path, ablation: AblationReport, uri: str
) -> None:
    experiment = declared({cell.name: cell.settings for cell in ablation.cells[:2]}, "short", tmp_path)
    replicates = {key: one for key, one in replicates_of(experiment).items() if key[1] == 0}
    opened = OpenedAblation(uri, open_storage(experiment.store))
    wrong = replicates | {("unknown", 0): replicates["none", 0]}  # a cell that is not declared ends the opening
    with pytest.raises(KeyError):
        open_ablation(opened, experiment, wrong, identity="one")
    assert len(opened.trials) == 2
    client = MlflowClient(tracking_uri=uri)
    client.delete_run(opened.trials["none", 0])  # as somebody may do on a page of MLflow
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        close_ablation(opened, "KILLED")
    kept = [opened.parent, opened.trials["noise-small", 0], *opened.trainings]
    assert {client.get_run(str(run)).info.status for run in kept} == {"KILLED"}


def test_what_ended_a_command_is_what_is_raised_whatever_closing_its_runs_raises(
    tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    experiment = declared({"none": {}, "drop": {"stages.sr32.label_drop": 0.5}}, "ended", tmp_path)
    experiment = experiment.model_copy(update={"tracking": TrackingSpec(uri=uri)})
    client = MlflowClient(tracking_uri=uri)
    parents = []

    def interrupted() -> None:
        with tracked(Ablation.of(experiment)) as runs:
            parents.append(str(runs.opened.parent))
            client.delete_run(runs.opened.trials["none", 0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "some runs in MLflow stay open: " in caplog.text
    assert client.get_run(parents[0]).info.status == "KILLED"
