"""From a store to the report of an ablation: every result in it is real to the graph, its figures are made up."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.ablation.collecting import collect_ablation
from pipeline.ablation.parts import AblationReport
from pipeline.ablation.run import Ablation
from pipeline.ablation.sweeps import sweep_of
from pipeline.ablation.tables import stage_table
from pipeline.commits import CommitLog
from pipeline.computing import function_of
from pipeline.dag import Node, Progress, Task, ancestry, source_of, stored
from pipeline.experiment import load_experiment
from pipeline.experiment_spec import Experiment
from pipeline.levels import facts_of_level
from pipeline.outcome import Outcome
from pipeline.results import Result
from pipeline.scoring.passport import ExtractorMark, Passport, ReferenceMark, SourceMark
from pipeline.storage import LocalStorage
from pipeline.watching.points import Point
from pipeline.watching.run import curve_of

TEXT = """\
name: collected
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.5]}}
    training: {steps: 4, batch_size: 8}
    sampling: {steps: 3, level: 0.2}
evaluation:
  samples: 24
  reference: 60
  memorised: 0
  classifier: {steps: 5, channels: [8, 8]}
  during: {every: 2, samples: 20, reference: 60}
resources: {workers: 2, sampling_workers: 1}
ablation:
  baseline: none
  cells:
    wide: {stages.sr.label_drop: 1.0}
    none: {}
    short: {stages.base.sampling.steps: 2}
"""
TRAINED = {"train/base": 10.0, "train/sr": 100.0}  # seconds of each training, on each of two workers
SCORED = "scores/chained/sr"  # one second; all else took none
THEN = "0123456789abcdef0123456789abcdef01234567"


def load(folder: Path, *settings: str) -> Experiment:
    file = folder / "collected.yaml"
    file.write_text(TEXT)
    return load_experiment(file, [f"store={folder / 'store'}", *settings])


def passport(samples: int) -> dict[str, Any]:
    """That of any scores of so many images."""
    reference = ReferenceMark(name="drawn", split="train", images=60, near=60, digest="cd" * 32, lossy=False)
    extractor = ExtractorMark(name="classifier", layer="all levels", sha256="ef" * 32)
    return Passport(
        samples=samples, indices=(0, samples), source=SourceMark(kind="chained"), reference=reference,
        extractor=extractor, size=16, resize="none", labels="uniform", seed=0, precision="f32", block=64, device="cpu",
        revision=THEN,
    ).model_dump(mode="json")  # fmt: skip


def put(node: Node, storage: LocalStorage, fid: float, revision: str) -> None:
    """A result of ``node``, unless there is one."""
    if stored(node, storage) is not None:
        return
    kind, summary = node.name.split("/")[0], dict[str, Any]()
    log = CommitLog(storage, node.key, owner="test", clock=time.time)
    name, folder = log.new_folder("files")
    if kind == "data":
        task = Task(node.name, node.config, {}, folder, node.context, storage, Progress())
        summary = function_of(node.function)(task) or {}
    elif kind == "train":
        summary = {"step": 4, "seconds": TRAINED[node.name], "loss": 0.1, "parameters": 9, "start_seconds": 1.5}
        (folder / "history.json").write_text(json.dumps([{"step": 2, "loss": 0.5}, {"step": 4, "loss": 0.1}]))
    elif kind in ("chained", "oracle", "real"):
        size = 8 if "base" in node.name or node.name.endswith("/8") else 16
        np.save(folder / "preview.npy", np.full((4, size, size, 3), len(node.digest) + size, np.uint8))
        np.save(folder / "preview_labels.npy", np.arange(4))
    elif kind == "scores":
        count = node.inputs["judged"].config["count"]
        summary = {"samples": count, "fid": fid, "accuracy": 0.9, "also": {}, "passport": passport(count)}
    elif kind == "classifier":
        summary = {"accuracy": {"16": 0.9}, "held_out": 40}
    seconds = 1.0 if node.name == SCORED else 0.0
    info = {"node": node.name, "summary": summary, "seconds": seconds, "source": source_of(node.function)}
    log.commit(name, info | {"revision": revision})


def collected(folder: Path, whole: Sequence[str], *settings: str, revisions: Sequence[str] = (THEN,)) -> AblationReport:
    """The report of a store in which the trainings of ``whole`` replicates, and all else of them, are there."""
    ablation = Ablation.of(load(folder, *settings))
    for number, cell in enumerate(cell for cell in ablation.cells if cell.replicate.name in whole):
        for node in ancestry(cell.targets()):
            put(node, cell.storage, 10.0 + number, revisions[number % len(revisions)])
        if cell.replicate.name == "none, seed 0":
            point = Point(2, {"base": 4}, 12.5, 0.1, 0.5, 20, 60, 1.0, "classifier", "uniform")
            curve_of(cell.declared, cell.storage, "sr").add(point)
    lost = next(cell for cell in ablation.cells if cell.replicate.name == "wide, seed 1")
    ablation.failures.remember({lost.identity: "train/sr failed: it was lost"})
    return collect_ablation(
        Ablation.of(load(folder, *settings)), created=0.0, command="rayfall ablate", program=["rayfall", "run"]
    )


WHOLE = ["none, seed 0", "none, seed 1", "none, seed 2", "short, seed 0", "short, seed 1", "wide, seed 0"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> AblationReport:
    return collected(tmp_path_factory.mktemp("collected"), WHOLE)


def test_what_failed_and_what_is_still_to_come_are_told_apart(report: AblationReport) -> None:
    found = {(cell.name, one.seed): (one.status, one.error) for cell in report.cells for one in cell.replicates}

    assert [key for key, (status, _) in found.items() if status == "finished"] == [
        ("wide", 0), ("none", 0), ("none", 1), ("none", 2), ("short", 0), ("short", 1),
    ]  # fmt: skip
    assert found["wide", 1] == ("failed", "train/sr failed: it was lost")
    assert found["wide", 2] == found["short", 2] == ("missing", None)


def test_seconds_are_those_of_all_workers_and_what_is_shared_counts_once(report: AblationReport) -> None:
    own = {cell.name: (cell.gpu_seconds, cell.reused_seconds) for cell in report.cells}

    # Two workers of one core: base 20 and sr 200 under each seed. The stage above is none's and short's together.
    assert own == {"wide": (200.0 + 1, 3 * 20.0), "none": (3.0, 3 * 220.0), "short": (2.0, 3 * 220.0)}
    assert [one.device_seconds for one in report.cell("none").replicates] == [221.0] * 3
    assert [one.seconds for one in report.cell("none").replicates] == [10.0 + 100.0 + 1] * 3  # by the clock
    assert [one.training_seconds for one in report.cell("wide").finished] == [100.0]  # by the clock
    sharing = report.sharing
    assert sharing.device == "CPU core"
    assert sharing.spent_seconds == 3 * 220.0 + 200.0 + 6
    assert sharing.separate_seconds == (3 * 220.0 + 3) + (3 * 220.0 + 2) + (3 * 20.0 + 200.0 + 1)
    assert sharing.saved_seconds == sharing.separate_seconds - sharing.spent_seconds
    assert (sharing.trainings_run, sharing.trainings_asked) == (7, 16)


def test_a_cell_names_the_first_other_one_with_its_trainings(report: AblationReport, tmp_path: Path) -> None:
    assert {cell.name: cell.shares_training_with for cell in report.cells} == {
        "wide": None, "none": "short", "short": "none",
    }  # fmt: skip
    two = "{none: {}, b: {stages.sr.label_drop: 1.0}, c: {stages.sr.label_drop: 1.0, stages.sr.sampling.steps: 2}}"
    among = collected(tmp_path, ["none, seed 0"], f"ablation.cells={two[:-1]}, wide: {{stages.sr.sampling.steps: 2}}}}")
    assert {cell.name: cell.shares_training_with for cell in among.cells} == {
        "none": "wide", "b": "c", "c": "b", "wide": "none",
    }  # fmt: skip


def test_a_cell_whose_search_trains_has_trainings_of_its_own(tmp_path: Path) -> None:
    searched = "{search: {samples: 20, space: {stages.sr.label_drop: {values: [0.1, 0.2]}}}}"
    other = searched.replace("0.2", "0.3")
    cells = f"ablation.cells={{none: {{}}, wide: {searched}, b: {other}}}"
    found = collected(tmp_path, ["none, seed 0"], cells)
    assert {cell.name: cell.shares_training_with for cell in found.cells} == dict.fromkeys(("none", "wide", "b"))


def test_why_no_cell_has_a_gap_is_told(tmp_path: Path) -> None:
    cells = "ablation.cells={none: {}, wide: {stages.sr.label_drop: 1.0}}"
    found = collected(tmp_path, ["none, seed 0"], cells, "evaluation.held_out=40")
    assert "No gap is told: chained and oracle scores differ in samples." in found.notes
    assert "gap" not in found.metrics


def test_only_images_that_all_cells_were_given_are_shown_as_such(report: AblationReport, tmp_path: Path) -> None:
    assert report.grid_seed == 0, "the seed that most cells finished"
    assert all(cell.grid_png and cell.oracle_png for cell in report.cells)
    # short draws the base stage in fewer steps, from the same weights.
    assert list(report.pictures) == ["real images, held out"]

    alike = "ablation.cells={none: {}, wide: {stages.sr.label_drop: 1.0}}"
    same = collected(tmp_path, ["none, seed 0", "none, seed 1", "wide, seed 1"], alike)
    assert same.grid_seed == 1
    assert list(same.pictures) == ["base, which all cells were given", "real images, held out"]


def test_a_cell_without_a_lower_stage_is_shown_with_those_that_it_has(tmp_path: Path) -> None:
    net = "net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}"
    alone = f"{{stages: {{sr: {{size: 16, {net}, training: {{steps: 4, batch_size: 8}}, sampling: {{steps: 3}}}}}}}}"
    whole = ["none, seed 0", "wide, seed 0"]
    found = collected(tmp_path, whole, f"ablation.cells={{none: {{}}, wide: {alone}}}")

    assert [one.stage for one in found.cell("wide").replicates[0].stages] == ["sr"]
    assert [one.stage for one in found.cell("none").replicates[0].stages] == ["base", "sr"]
    assert (found.cell("wide").replicates[0].level, found.cell("wide").oracle_png) == (0.0, None)
    assert list(found.pictures) == ["real images, held out"], "not every cell was given images of base"
    assert stage_table(found).rows[1] == ("wide", [("–", "–", "–"), ("–", "11.0", "–")])


def test_a_replicate_has_its_level_losses_and_scores_during_training(report: AblationReport, tmp_path: Path) -> None:
    first, second = report.cell("none").replicates[:2]

    assert (first.level, first.kind) == (0.2, "non_truncated")
    facts = facts_of_level(load(tmp_path), "sr", 0.2)
    assert (first.logsnr, first.ddpm_step) == (facts.logsnr, facts.step)
    assert first.loss == [(2, 0.5), (4, 0.1)]
    assert (first.during, second.during) == ([(2, 12.5)], [])
    assert report.metrics == ["chained_fid", "oracle_fid", "gap", "accuracy"]
    assert not any("gap" in note for note in report.notes)


def test_the_revision_is_that_of_the_results(report: AblationReport, tmp_path: Path) -> None:
    assert report.revision == THEN
    assert not [note for note in report.notes if "revision" in note]

    later = f"{THEN[::-1]}+changes"
    several = collected(tmp_path, ["none, seed 0", "none, seed 1"], revisions=(THEN, later))
    (note,) = [note for note in several.notes if "revision" in note]
    assert note.startswith("Results were computed at several revisions of the code: ")
    assert "at 0123456789ab" in note
    assert "at 76543210fedc with changes" in note


def test_points_of_a_search_over_level_and_kind_are_a_sweep_and_others_are_none(tmp_path: Path) -> None:
    experiment = load(tmp_path)
    level, kind = "stages.sr.sampling.level", "stages.sr.sampling.augmentation"

    def point(fid: float, error: str | None = None, **settings: Any) -> dict[str, Any]:
        return {"settings": settings, "error": error, "chained": {"fid": fid, "accuracy": 0.8}, "oracle": {"fid": 2.0}}

    def swept(*points: dict[str, Any], stage: str = "sr") -> list[tuple[str, float, float | None, bool]]:
        rounds = [{"stage": stage, "points": list(points), "chosen": points[0]["settings"]}]
        search = Result(tmp_path, {"rounds": rounds}, 1.0, reused=True)
        outcome = Outcome(experiment, experiment, {}, [], search)
        return [(one.kind, one.level, one.chained_fid, one.chosen) for one in sweep_of(outcome, "sr")]

    both = [point(5.0, **{level: 0.1, kind: "truncated"}), point(6.0, **{level: 0.3, kind: "non_truncated"})]
    assert swept(*both) == [("truncated", 0.1, 5.0, True), ("non_truncated", 0.3, 6.0, False)]
    assert swept(*both, point(9.0, error="lost", **{level: 0.4, kind: "truncated"})) == swept(*both)
    # A kind that is not searched is that of the YAML, and a setting that never changes is no search.
    assert swept(point(5.0, **{level: 0.1}), point(6.0, **{level: 0.3}))[0] == ("non_truncated", 0.1, 5.0, True)
    assert swept(*both, stage="base") == []
    steps = "stages.sr.sampling.steps"
    assert swept(point(5.0, **{level: 0.1, steps: 2}), point(6.0, **{level: 0.3, steps: 3})) == []
    assert len(swept(point(5.0, **{level: 0.1, steps: 2}), point(6.0, **{level: 0.3, steps: 2}))) == 2
