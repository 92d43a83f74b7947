"""From what nodes leave to the report, to the figures of a command and to MLflow: an outcome made by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.cas.passport import CasPassport
from pipeline.collecting.experiment import collect
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.experiment import load_experiment
from pipeline.outcome import Outcome, figures_of
from pipeline.recording.scores import comparison_of, metrics_of, passport_tags, passports_of
from pipeline.report.parts import Report
from pipeline.report.score_tables import passport_tables
from pipeline.report.writing import render
from pipeline.results import Result
from pipeline.scoring.passport import Passport, StageMark

TEXT = """\
name: tiny
data: {kind: drawn, size: 16}
stages:
  base: {size: 8, net: {kind: unet, channels: 8}, training: {steps: 3, batch_size: 8}}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 3, batch_size: 8}
  single: {size: 16, net: {kind: unet, channels: 8}, training: {steps: 3, batch_size: 8}}
cascades: {main: [base, sr], alone: [single]}
"""
FEW = "FID of 40 samples is flagged"


def passport(kind: str, **changes: Any) -> dict[str, Any]:
    return Passport(
        **{
            "samples": 40,
            "indices": (0, 40),
            "source": {"kind": kind},
            "reference": {"name": "drawn", "split": "train", "images": 100, "digest": "ab" * 32},
            "extractor": {"name": "classifier", "layer": "all levels", "sha256": "cd" * 32},
            "size": 16,
            "resize": "none",
            "labels": "uniform",
            "seed": 0,
            "precision": "f32",
            "block": 16,
            "device": "cpu",
            "revision": "unknown",
            **changes,
        }
    ).model_dump(mode="json")


def scores(kind: str, fid: float | None, **changes: Any) -> dict[str, Any]:
    further = {"samples": 40, "fid": None, "kid": 0.5, "precision": 0.5, "recall": 0.25, "flags": ["FD is refused"]}
    return {
        "samples": 40,
        "fid": fid,
        "fid_error": 0.5,
        "fid_infinity": 1.5,
        "fid_infinity_error": 0.75,
        "fid_without": [] if fid is None else [1.1 * fid, 0.9 * fid],
        "fid_curve": [[20, 9.0], [40, 6.0]],
        "fid_val": None,
        "kid": 0.0125,
        "kid_std": 0.001,
        "sfid": None,
        "inception_score": None,
        "inception_score_std": None,
        "precision": 0.5,
        "recall": 0.25,
        "accuracy": 0.875,
        "accuracy_top5": 1.0,
        "per_class": [1.0, None] + [0.5] * 8,
        "per_class_fid": [None] * 10,
        "flags": [FEW],
        "passport": passport(kind),
        "also": {"dinov2": {**further, "passport": passport(kind)}},
        **changes,
    }


def preview(folder: Path, size: int) -> Path:
    folder.mkdir()
    labels = np.repeat(np.arange(10), 2)
    np.save(folder / "preview.npy", np.full((20, size, size, 3), 7, np.uint8))
    np.save(folder / "preview_labels.npy", labels)
    return folder


CHAIN = {
    "size": 16,
    "colour": {"chained": [0.5] * 3, "oracle": None, "real": [0.25] * 3},
    "frequencies": [0.1, 0.5],
    "power": {"chained": [1.0, 0.5], "oracle": None, "real": [1.0, 1.0]},
    "colour_drift": 64.0,
    "colour_noise": 0.5,
    "high_frequency_ratio": {"chained": 0.5, "oracle": None},
    "consistency": {"chained": 0.02, "oracle": 0.01},
}
MEMORY = {
    "neighbours": [{"index": 3, "label": 2, "nearest": [17, 5], "distances": [0.5, 0.75]}],
    "reference": 100,
    "of": 400,
    "compared": 40,
    "distances": {"median": 1.0, "p01": 0.5},
    "real_distances": {"median": 1.25, "p01": 0.25},
    "nearer": 0.025,
    "scorer": "classifier",
}
CAS = {"cas_top1": 0.625, "cas_top5": None, "net": "small", "images": 100, "epochs": 2, "steps": 9, "seconds": 1.0}


def cas_passport(*stages: str) -> dict[str, Any]:
    mark = {"size": 16, "weights": None, "sampler": "ddpm", "steps": 2, "guidance": 1.0, "guidance_interval": None}
    mark |= {"augmentation": None, "level": None, "ema_length": None}
    return CasPassport(
        source="chained" if stages else "real",
        stages=tuple(StageMark.model_validate({**mark, "name": name}) for name in stages),
        data="ab" * 32,
        train_digest="cd" * 32,
        net="small",
        protocol="ef" * 32,
        images=100,
        size=16,
        seed=0,
        workers=2,
        precision="f32",
        device="cpu",
        revision="unknown",
    ).model_dump(mode="json")


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    (tmp_path / "x.yaml").write_text(TEXT)
    experiment = load_experiment(tmp_path / "x.yaml")
    ingest_drawn(tmp_path / "data" / "shards", seed=0, forms=make_forms([(16, "raw")]), train=40, val=20, shard_size=40)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "history.json").write_text(json.dumps([{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]))
    np.save(preview(tmp_path / "memory", 16) / "pairs.npy", np.full((1, 3, 16, 16, 3), 9, np.uint8))
    trained = {"parameters": 1200, "step": 3, "seconds": 2.0}
    judge = {"accuracy": {"16": 0.9}, "held_out": 20}
    found: dict[str, tuple[Path, dict[str, Any]]] = {
        "data": (tmp_path / "data", {}),
        "classifier/judge": (tmp_path, judge),
        "classifier/features": (tmp_path, judge),
        "scores/chained/base": (tmp_path / "base" / "1", scores("chained", 3.0)),
        "scores/chained/sr": (tmp_path / "sr" / "1", scores("chained", 6.0)),
        "scores/oracle/sr": (tmp_path, scores("oracle", 4.0)),
        "scores/chained/single": (tmp_path / "single" / "1", scores("chained", None, flags=["FID is refused"])),
        "scores/real/8": (tmp_path, scores("real", 1.0)),
        "scores/real/16": (tmp_path, scores("real", 1.0)),
        "oracle/sr": (preview(tmp_path / "oracle", 16), {}),
        "chain/sr": (tmp_path, CHAIN),
        "memorisation/sr": (tmp_path / "memory", MEMORY),
        "cas/sr": (tmp_path, {**CAS, "size": 16, "workers": 2, "passport": cas_passport("base", "sr")}),
        "cas/real/16": (
            tmp_path,
            {**CAS, "size": 16, "cas_top1": 0.75, "workers": 2, "passport": cas_passport()},
        ),
    }
    for name, size in (("base", 8), ("sr", 16), ("single", 16)):
        found[f"train/{name}"] = (tmp_path / "train", trained)
        found[f"chained/{name}"] = (preview(tmp_path / f"chained-{name}", size), {})
    for size in (8, 16):
        found[f"real/val/{size}"] = (preview(tmp_path / f"real-{size}", size), {})
    results = {name: Result(folder, summary, 1.0, reused=False) for name, (folder, summary) in found.items()}
    return Outcome(experiment, experiment, results, [], None, {"sr": [(100, 9.0), (200, 7.0)]})


@pytest.fixture
def collected(outcome: Outcome) -> Report:
    return collect(outcome, set(), created=0.0, command="rayfall run x.yaml")


def test_a_stage_has_what_its_nodes_found(collected: Report) -> None:
    stage = collected.stage("sr")
    assert (stage.chained.fid, stage.chained.fid_error, stage.chained.flags) == (6.0, 0.5, [FEW])
    assert stage.chained.also["dinov2"].kid == 0.5
    assert stage.chained.fid_curve == [(20, 9.0), (40, 6.0)]
    assert stage.gap == 2.0
    assert stage.gap_error == pytest.approx(0.2)  # blocks of the same indices: 6.6 - 4.4 and 5.4 - 3.6
    assert stage.chain is not None
    assert stage.chain.colour_shift == pytest.approx([63.75] * 3)
    assert (stage.cas and stage.cas.cas_top1, stage.cas_real and stage.cas_real.cas_top1) == (0.625, 0.75)
    assert stage.during == [(100, 9.0), (200, 7.0)]
    assert stage.per_class["bars"] == 1.0
    assert "checker" not in stage.per_class
    assert stage.per_class_fid == {}
    assert all(png and png.startswith(b"\x89PNG") for png in (stage.grid_png, stage.oracle_png, stage.real_png))


def test_near_images_are_pictures_with_their_distances(collected: Report) -> None:
    found = collected.stage("sr").memorisation
    assert found is not None
    (row,) = found.rows
    assert (row.index, row.label) == (3, "corner")
    assert [(near.index, near.distance) for near in row.nearest] == [(17, 0.5), (5, 0.75)]
    assert row.png.startswith(b"\x89PNG")
    assert (found.reference, found.of) == (100, 400)
    assert (found.real_near, found.nearer, found.scorer) == (0.25, 0.025, "the data set's own classifier")


def test_an_accuracy_score_has_a_passport_of_its_own(collected: Report) -> None:
    stage = collected.stage("sr")
    assert stage.cas is not None
    assert stage.cas.workers == 2
    tables = {table.name: table for table in passport_tables(collected)}
    table = tables["sr, classification accuracy score"]
    assert table.columns == ["trained on samples", "trained on real images"]
    rows = dict(table.rows)
    assert rows["computed in"] == ["f32 by 2 workers on cpu"]
    assert rows["stage sr"] == ["16 px, ddpm 2 steps, guidance 1", "–"]
    assert "base, classification accuracy score" not in tables
    assert "sr, classification accuracy score" in render(collected)


def test_a_search_without_a_preview_is_told_without_pictures(outcome: Outcome, tmp_path: Path) -> None:
    np.save(tmp_path / "memory" / "pairs.npy", np.empty((0, 4, 16, 16, 3), np.uint8))
    result = Result(tmp_path / "memory", {**MEMORY, "neighbours": []}, 1.0, reused=False)
    results = {**outcome.results, "memorisation/sr": result}
    report = collect(replace(outcome, results=results), set(), created=0.0, command="rayfall run x.yaml")
    page = render(report)
    assert "Searched among the first 100 of 400 training images" in page
    assert "There are no samples of the classes that a preview shows." in page


def test_what_was_not_done_is_absent_and_the_page_stands(collected: Report) -> None:
    base = collected.stage("base")
    assert (base.chain, base.cas, base.memorisation, base.oracle, base.bound, base.during) == (None,) * 5 + ([],)
    page = render(collected)
    for wanted in ("FID is refused", "FD is refused", "Classification accuracy score", "Nearest training images"):
        assert wanted in page


def test_the_figures_of_a_command_are_whole_and_json(outcome: Outcome) -> None:
    figures = json.loads(json.dumps(figures_of(outcome)))
    assert figures["stages"]["sr"]["gap"] == 2.0
    assert figures["stages"]["sr"]["gap_error"] == pytest.approx(0.2)
    assert figures["stages"]["single"]["gap"] is None
    assert figures["stages"]["sr"]["cas_real"]["cas_top1"] == 0.75
    assert {"chain", "memorisation", "cas"} <= set(figures["stages"]["sr"])
    assert figures["ranking"] == [{"size": 16, "order": ["main"], "refusal": ""}]  # the other has no FID
    assert figures["cascades"]["alone"]["fid"] is None


def test_metrics_are_flat_and_what_was_refused_is_left_out(outcome: Outcome) -> None:
    metrics = metrics_of(outcome, "sr")
    assert {name: metrics[name] for name in ("chained_fid", "chained_fid_error", "chained_fid_infinity")} == {
        "chained_fid": 6.0,
        "chained_fid_error": 0.5,
        "chained_fid_infinity": 1.5,
    }
    expected = {
        "oracle_kid": 0.0125,
        "real_accuracy": 0.875,
        "chained_accuracy_top5": 1.0,
        "gap": 2.0,
        "gap_error": pytest.approx(0.2),
        "chained_cas_top1": 0.625,
        "real_cas_top1": 0.75,
        "chained_dinov2_kid": 0.5,
        "chain_colour_drift": 64.0,
        "chain_high_frequency_ratio": 0.5,
        "chain_oracle_consistency": 0.01,
        "memorisation_nearer": 0.025,
    }
    assert {name: metrics[name] for name in expected} == expected
    assert not {"chained_fid_val", "chained_sfid", "chained_dinov2_fid", "chained_cas_top5"} & set(metrics)
    assert not [name for name in metrics if "samples" in name]
    assert "chained_fid" not in metrics_of(outcome, "single")
    assert "cascade.alone.fid" not in comparison_of(outcome)
    assert comparison_of(outcome)["cascade.main.fid"] == 6.0


def test_passports_go_along_and_their_tags_are_searchable(outcome: Outcome) -> None:
    found = passports_of(outcome, "sr")
    assert list(found) == [
        "chained",
        "chained_dinov2",
        "oracle",
        "oracle_dinov2",
        "real",
        "real_dinov2",
        "cas",
        "cas_real",
    ]
    assert CasPassport.model_validate(found["cas"]).stages[-1].name == "sr"
    assert list(passports_of(outcome, "base")) == ["chained", "chained_dinov2", "real", "real_dinov2"]
    tags = passport_tags(found["chained"])
    assert tags["rayfall.passport"] == Passport.model_validate(found["chained"]).digest
    assert tags["rayfall.passport.samples"] == "40"
    assert tags["rayfall.passport.extractor.sha256"] == "cd" * 32


def test_all_of_it_is_recorded_under_one_parent(outcome: Outcome, collected: Report, tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    from pipeline.recording.experiment import ExperimentRuns

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    stored = outcome.experiment.model_copy(update={"store": str(tmp_path / "store")})  # not where the tests are started
    made = ExperimentRuns.open(stored, uri, stored.names)
    made.record_report(collected, "<p>report</p>", made.record(outcome))
    parent, client = made.parent, MlflowClient(tracking_uri=made.tracking.uri)
    opened = client.get_run(parent).info.experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([opened])}
    run = runs["evaluate/sr"]
    assert run.data.metrics["chained_cas_top1"] == 0.625
    assert (run.data.metrics["gap"], run.info.status) == (2.0, "FINISHED")
    assert not {"gap_fid", "chained_kid", "chained_accuracy"} & set(run.data.metrics)  # one figure, one name
    assert run.data.params["sampling.steps"] == str(outcome.experiment.stages["sr"].sampling.steps)
    assert run.data.tags["rayfall.passport.samples"] == "40"
    assert client.get_run(parent).data.metrics["sr.chained_fid"] == 6.0
    text = (Path(run.info.artifact_uri.removeprefix("file://")) / "passports.json").read_text()
    assert json.loads(text)["oracle"]["source"]["kind"] == "oracle"
    assert json.loads(text)["cas"]["workers"] == 2
