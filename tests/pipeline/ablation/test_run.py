"""An ablation on a real Ray cluster at the smallest size: what it computes, what it shares, what it survives."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from rich.console import Console
from typer.testing import CliRunner

from jobs.ablating import print_ablation_plan
from jobs.cli import app
from pipeline.ablation.run import Ablation, watched_by
from pipeline.ablation.standing import ablation_standing
from pipeline.ablation.workflow import plan_ablation, report_ablation, run_ablation
from pipeline.commits import CommitLog
from pipeline.dag import Node, source_of, stored
from pipeline.errors import UserError
from pipeline.events import Silence
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.session import Session
from pipeline.storage import LocalStorage
from pipeline.watching.run import curve_of

TEXT = """\
name: tiny_ablation
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 2, batch_size: 8}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 2, batch_size: 8}
    sampling: {steps: 3}
evaluation: {samples: 24, reference: 60, block: 16, memorised: 0, classifier: {steps: 5, channels: [8, 8]}}
resources: {cpus_per_worker: 0.5, log_every: 2, sampling_workers: 1}
ablation:
  baseline: clean
  cells:
    clean: {}
    noisy:
      search:
        samples: 20
        space:
          stages.sr.sampling.level: {values: [0.1, 0.3]}
          stages.sr.sampling.augmentation: {values: [truncated, non_truncated]}
    # Its first step throws the weights out of range: the loss of the next is no number.
    broken: {stages.sr.training: {steps: 2, batch_size: 8, learning_rate: 1.0e+30, warmup: 0}}
  equal: [{cells: [clean, noisy], relative_margin: 0.5}]
"""
DURING = "evaluation.during={every: 1, samples: 20, reference: 60}"


class Seen(Silence):
    """Remembers which nodes were computed."""

    def __init__(self) -> None:
        self.computed: list[str] = []

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        del seconds
        if not reused:
            self.computed.append(node)


def load(folder: Path, *settings: str) -> Experiment:
    file = folder / "tiny.yaml"
    file.write_text(TEXT)
    return load_experiment(file, [f"store={folder / 'store'}", *settings])


def commit(node: Node, storage: LocalStorage) -> None:
    """Some result of ``node``."""
    log = CommitLog(storage, node.key, owner="test", clock=time.time)
    name, _ = log.new_folder("files")
    log.commit(name, {"summary": {}, "seconds": 0.0, "source": source_of(node.function)})


def ablate(experiment: Experiment) -> tuple[dict[str, Any], list[str]]:
    seen = Seen()
    figures = run_ablation(experiment, events=seen, command="rayfall ablate", program=["rayfall", "run", "tiny.yaml"])
    return figures, seen.computed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ablation")


@pytest.fixture(scope="module")
def first(folder: Path, ray_cluster: None) -> tuple[dict[str, Any], list[str]]:
    return ablate(load(folder))


@pytest.mark.ray
def test_every_cell_has_a_figure_for_every_seed_and_the_broken_one_is_shown_as_failed(
    first: tuple[dict[str, Any], list[str]],
) -> None:
    figures, _ = first
    json.dumps(figures, allow_nan=False)

    assert {name: cell["n"] for name, cell in figures["cells"].items()} == {"clean": 3, "noisy": 3, "broken": 0}
    assert list(figures["failed"]) == [f"broken, seed {seed}" for seed in (0, 1, 2)]
    for why in figures["failed"].values():
        assert "train/sr failed: FloatingPointError" in why
        (trace,) = re.findall(r"\(traceback: (.*)\)$", why)
        assert "FloatingPointError" in Path(trace).read_text().splitlines()[-1]
        assert len(Path(trace).read_text().splitlines()) > 2
    difference = figures["cells"]["noisy"]["differences"]["chained_fid"]
    assert difference["n"] == 3
    assert difference["low"] < difference["mean"] < difference["high"]
    assert len(figures["equalities"]) == 1


@pytest.mark.ray
def test_the_store_says_where_every_replicate_stands(first: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    found = ablation_standing(load(folder))
    failed = {row.cell for row in found.replicates if row.counts.get("failed")}
    assert failed == {row.cell for row in found.replicates if row.failure is not None} == {"broken"}
    assert all(set(row.counts) == {"done"} for row in found.replicates if row.cell != "broken")
    told = [node.error for node in found.standing.nodes.values() if node.state == "failed"]
    assert told
    assert all("not finite" in error or "loss is" in error for error in told if error is not None)


@pytest.mark.ray
def test_no_run_stays_open_and_trainings_of_a_failed_replicate_end_as_they_came_out(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    client = MlflowClient(tracking_uri=first[0]["tracking"])
    opened = client.get_experiment_by_name("tiny_ablation")
    assert opened is not None
    runs = client.search_runs([opened.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}
    stages = [run for run in runs if run.data.tags["rayfall.kind"] == "stage"]
    assert {run.info.status for run in stages if run.data.params["stage"] == "base"} == {"FINISHED"}
    assert [run.info.status for run in stages].count("FAILED") == 3  # the stage of the broken cell, under each seed


@pytest.mark.ray
def test_weights_and_low_res_images_are_made_once_for_the_cells_that_share_them(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    figures, computed = first
    trained = [name for name in computed if ": train/" in name]

    # base, and the stage above it as declared, under each of three seeds; the broken one never ends.
    assert len(trained) == len(set(trained)) == figures["sharing"]["trainings_run"] == 6
    assert figures["sharing"]["trainings_asked"] == 15
    chose = {cell.replicate.name: cell.experiment.stages["sr"].sampling for cell in Ablation.of(load(folder)).cells}
    for seed in (0, 1, 2):
        drawn = {name for name in computed if name.startswith(f"seed {seed}") and name.endswith(": chained/base")}
        # What is truncated on the way is another trajectory than what is finished.
        apart = chose[f"noisy, seed {seed}"].augmentation == "truncated"
        users = ("clean and broken", "noisy") if apart else ("clean and broken",)
        assert drawn == {f"seed {seed}, {one}: chained/base" for one in users}
    for name in ("data", "classifier/features", "real/train/16"):
        assert computed.count(name) == 1
    assert computed.count("classifier/judge") == 1, "for the cells that do not search, and then for the trials too"
    results = [path.name for path in (folder / "store" / "results").iterdir()]
    assert len([name for name in results if name.startswith("classifier-judge-")]) == 1


@pytest.mark.ray
def test_the_same_command_computes_nothing_but_what_failed(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    figures, computed = ablate(load(folder))

    assert computed == []  # what failed fails again, so nothing of it is finished
    assert list(figures["failed"]) == list(first[0]["failed"])
    assert figures["cells"] == first[0]["cells"]
    assert first[0]["sharing"]["wall_seconds"] > 0
    assert figures["sharing"]["wall_seconds"] is None, "nothing was computed"


@pytest.mark.ray
def test_the_command_ends_with_1_for_what_failed_and_tells_the_rest_as_json(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    command = ["ablate", str(folder / "tiny.yaml"), "--set", f"store={folder / 'store'}"]
    answer = CliRunner().invoke(app, [*command, "--json"])

    assert answer.exit_code == 1, answer.output
    figures = json.loads(answer.stdout)
    assert list(figures["failed"]) == [f"broken, seed {seed}" for seed in (0, 1, 2)]
    assert figures["cells"] == first[0]["cells"]
    assert Path(figures["report"]).is_file()


@pytest.mark.ray
def test_what_failed_stays_known_until_its_own_batch_is_tried_again(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    experiment = load(folder)
    ablation = Ablation.of(experiment)
    with Session(experiment, Silence()) as session:
        batch = next(ablation.compute(session))
    assert {cell.replicate.seed for cell in batch} == {0, 1}
    assert [cell.failure for cell in ablation.cells if cell.replicate.seed == 2] == [None] * 3, "here it is to come"

    known = {cell.replicate.name: cell.failure for cell in Ablation.of(experiment).cells if cell.failure}
    assert list(known) == list(first[0]["failed"])


@pytest.mark.ray
def test_a_later_seed_computes_its_own_replicates_alone(first: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    without = "ablation.cells={clean: {}, noisy: {stages.sr.sampling.steps: 2}}"
    more = load(folder, without, "ablation.seeds=[0, 1, 2, 5]")
    plan = {(row["cell"], row["seed"]): row for row in plan_ablation(more)["replicates"]}
    assert {key: row["trains"] for key, row in plan.items() if row["trains"]} == {("clean", 5): ["base", "sr"]}

    figures, computed = ablate(more)

    assert {name: cell["n"] for name, cell in figures["cells"].items()} == {"clean": 4, "noisy": 4}
    trained = {name for name in computed if ": train/" in name}
    assert trained == {"seed 5, clean and noisy: train/base", "seed 5, clean and noisy: train/sr"}
    assert not any(name.startswith("seed 0, clean") for name in computed)


@pytest.mark.ray
def test_a_replicate_alone_is_an_experiment_whose_results_are_there(
    first: tuple[dict[str, Any], list[str]], folder: Path
) -> None:
    ablation = Ablation.of(load(folder))
    cell = next(cell for cell in ablation.cells if cell.replicate.name == "noisy, seed 1")

    found = stored(Nodes(cell.replicate.experiment).search(), cell.storage)
    assert found is not None
    assert cell.experiment.stages["sr"].sampling.level == found.summary["chosen"]["stages.sr.sampling.level"]
    scores = stored(Nodes(cell.experiment).scores("chained", "sr"), cell.storage)
    assert scores is not None
    assert scores.summary["passport"]["seed"] == cell.experiment.evaluation.seed


@pytest.mark.ray
def test_the_report_is_written_again_from_what_is_stored(first: tuple[dict[str, Any], list[str]], folder: Path) -> None:
    out = folder / "again.html"
    figures = report_ablation(load(folder), path=out, command="rayfall ablate", program=["rayfall", "run", "tiny.yaml"])

    assert figures["cells"] == first[0]["cells"]
    page = out.read_text()
    assert "FloatingPointError" in page
    assert "noisy" in page


@pytest.mark.ray
def test_stages_are_scored_while_an_ablation_trains_them(tmp_path: Path, ray_cluster: None) -> None:
    cells = "ablation.cells={clean: {}, few: {stages.sr.sampling.steps: 2}, other: {stages.sr.label_drop: 0.5}}"
    experiment = load(tmp_path, DURING, cells, "ablation.equal=[]")
    figures, _ = ablate(experiment)

    ablation = Ablation.of(experiment)
    points = {
        cell.replicate.name: {
            stage: [point.step for point in curve_of(cell.declared, cell.storage, stage).points()]
            for stage in ("base", "sr")
        }
        for cell in ablation.cells
    }
    for seed in (0, 1, 2):
        # The last step is always there; one before it may be over before its turn.
        assert points[f"clean, seed {seed}"]["base"][-1:] == [2]
        assert points[f"clean, seed {seed}"]["sr"][-1:] == [2]
        assert points[f"other, seed {seed}"]["sr"][-1:] == [2]
        assert points[f"few, seed {seed}"]["sr"] == [], "a training is scored once, as its first cell samples"
    assert "FID of the averaged weights while training" in Path(figures["report"]).read_text()


def test_a_training_is_watched_for_the_first_cell_that_asks_for_it(tmp_path: Path) -> None:
    cells = [cell for cell in Ablation.of(load(tmp_path, DURING)).cells if cell.replicate.seed == 1]

    watched = {cell.replicate.name: stages for cell, stages in watched_by(cells).items()}

    assert watched == {"clean, seed 1": ["base", "sr"], "broken, seed 1": ["sr"]}


def test_seeds_of_which_nothing_is_to_be_trained_come_one_by_one(tmp_path: Path) -> None:
    ablation = Ablation.of(load(tmp_path, "ablation.seeds=[0, 1, 2, 3]"))

    def seeds() -> list[set[int]]:
        return [{cell.replicate.seed for cell in batch} for batch in ablation.batches()]

    assert seeds() == [{0}, {1}, {2}, {3}]
    for cell in ablation.cells:
        for node in cell.trainings():
            if cell.replicate.cell != "broken" or cell.replicate.seed < 2:
                commit(node, cell.storage)
    assert seeds() == [{0}, {1}, {2, 3}], "two trainings at once, where there are any"


def test_a_failure_is_known_for_what_was_to_be_computed_and_for_nothing_else(tmp_path: Path) -> None:
    ablation = Ablation.of(load(tmp_path))
    failed, other = ablation.cells[2], ablation.cells[4]

    def known(*settings: str) -> dict[str, str]:
        found = Ablation.of(load(tmp_path, *settings)).cells
        return {cell.replicate.name: cell.failure for cell in found if cell.failure is not None}

    ablation.failures.remember({failed.identity: "it was lost"})
    assert known() == {failed.replicate.name: "it was lost"}
    assert known("evaluation.samples=23") == {}
    assert known("stages.base.training.steps=3") == {}
    ablation.failures.remember({other.identity: None})
    assert known() == {failed.replicate.name: "it was lost"}
    ablation.failures.remember({failed.identity: None})
    assert known() == {}


def test_a_plan_says_what_failed_and_what_a_search_may_change(tmp_path: Path) -> None:
    ablation = Ablation.of(load(tmp_path))

    def told() -> str:
        stream = io.StringIO()
        print_ablation_plan(Console(file=stream, width=200), plan_ablation(load(tmp_path)))
        return stream.getvalue()

    assert "failed last time" not in told()
    ablation.failures.remember({ablation.cells[2].identity: "train/sr failed: [odd]"})
    lines = told().splitlines()
    assert "failed last time" in lines[0]
    assert [line.split()[0] for line in lines if "≈" in line] == ["noisy"] * 3 + ["9"]
    (row,) = [line for line in lines if "[odd]" in line]
    assert row.split()[:2] == ["broken", "0"]


def test_no_report_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing of the ablation tiny_ablation is whole"):
        report_ablation(load(tmp_path), path=None, command="rayfall ablate", program=["rayfall"])
