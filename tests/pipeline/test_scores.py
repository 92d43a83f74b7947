"""The scoring node: what it reads of measured images, what it refuses and flags, and the passport it gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dag import Progress, Task
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.parts import Assembly
from pipeline.scores import score
from pipeline.scoring.frechet import frechet_distance
from pipeline.scoring.passport import Passport
from pipeline.scoring.statistics import stats_of
from pipeline.storage import open_storage

DIMENSION = 6
STAGE = {"name": "sr", "size": 16, "weights": "e" * 64, "sampler": "ddim", "steps": 4, "guidance": 1.0}
STAGE |= {"guidance_interval": None, "augmentation": "truncated", "level": 0.1, "ema_length": None}


def measured(folder: Path, count: int, *, seed: int, shift: float = 0.0, kept: int | None = None, **rows: Any) -> Path:
    """What a drawing leaves: features of two scorers, labels in turn, a judge that is right on all but every fourth."""
    folder.mkdir(parents=True)
    labels = rows.get("labels", np.arange(count) % 10)
    generator = np.random.default_rng(seed)
    top = np.stack([(labels + step) % 10 for step in range(5)], axis=1)
    top[::4] = np.roll(top[::4], -1, axis=1)
    kinds = ("classifier", "inception")
    found = {f"features-{kind}": generator.normal(shift, 1, (count, DIMENSION)).astype(np.float32) for kind in kinds}
    names = [f"features-{kind}" for kind in kinds]
    assembly = Assembly(folder, count, dict.fromkeys(names, kept or count), names)
    assembly.add({"labels": labels, "top": top, **found})
    assembly.finish()
    mark = {kind: {"name": kind, "layer": "l", "sha256": kind[0] * 64} for kind in kinds}
    facts = {"revision": "abc", "device": "cpu", "extractors": mark, "judge": "9" * 64, "precision": "bf16"}
    (folder / "drawn.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    ingest_drawn(folder / "shards", seed=0, forms=make_forms([(16, "png")]), train=20, val=10, shard_size=20)
    return folder


def task_of(folder: Path, data: Path, *, scorers: Sequence[str] = ("classifier",), **inputs: Path) -> Task:
    real = {"data": data, "reference": measured(folder / "train", 900, seed=2, kept=700)}
    held_out = {"validation": measured(folder / "val", 500, seed=3)}
    found = {**real, **held_out, "judged": measured(folder / "judged", 400, seed=1, shift=0.5), **inputs}
    config = {"kind": "chained", "size": 16, "neighbours": 3, "scorers": [{"kind": name} for name in scorers]}
    context = {"threads": 1, "labels": "uniform", "seed": 7, "block": 16, "precision": "bf16", "stages": [STAGE]}
    return Task("scores/chained/sr", config, found, folder, context, open_storage(folder), Progress())


def features(folder: Path, scorer: str = "classifier") -> Any:
    return np.load(folder / f"features-{scorer}.npy")


def test_scores_are_those_of_the_features_and_of_the_judge(tmp_path: Path, data: Path) -> None:
    task = task_of(tmp_path, data, scorers=["classifier", "inception"])
    found = score(task)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    held_out = stats_of(features(tmp_path / "val"))
    assert found["fid_val"] == pytest.approx(frechet_distance(stats_of(features(tmp_path / "judged")), held_out))
    assert found["fid"] > 1.0 > abs(found["fid_val"] - found["fid"])
    assert (found["accuracy"], found["accuracy_top5"]) == (0.75, 1.0)
    assert found["per_class"][:4] == [0.5, 1.0, 0.5, 1.0]  # of the even classes every second is wrong
    assert len(found["per_class_fid"]) == 10
    assert found["per_class_fid"][0] is not None
    assert set(found["also"]) == {"inception"}
    assert found["also"]["inception"]["fid"] != found["fid"]
    assert found["flags"] == []


def test_the_passport_says_what_was_measured_with_what(tmp_path: Path, data: Path) -> None:
    passport = Passport.model_validate(score(task_of(tmp_path, data))["passport"])
    assert (passport.samples, passport.indices, passport.seed, passport.labels) == (400, (0, 400), 7, "uniform")
    reference, held_out = passport.reference, passport.validation
    assert (reference.split, reference.images, reference.near, reference.kept) == ("train", 900, 400, 700)
    assert held_out is not None
    assert (held_out.split, held_out.images) == ("val", 500)
    assert passport.extractor.sha256 == "c" * 64
    assert passport.judge == "9" * 64
    assert passport.stages[0].name == "sr"
    assert (passport.precision, passport.device, passport.revision) == ("bf16", "cpu", "abc")


def test_too_few_held_out_images_are_told(tmp_path: Path, data: Path) -> None:
    found = score(task_of(tmp_path, data, validation=measured(tmp_path / "few", DIMENSION, seed=4)))
    assert found["fid"] is not None
    assert found["fid_val"] is None
    assert any(f"no FID of {DIMENSION} held-out images" in sentence for sentence in found["flags"])


def test_samples_of_all_classes_in_turn_beside_an_uneven_reference_are_flagged(tmp_path: Path, data: Path) -> None:
    labels = np.minimum(np.arange(900) % 12, 9)
    uneven = measured(tmp_path / "uneven", 900, seed=2, labels=labels)
    (sentence,) = score(task_of(tmp_path, data, reference=uneven))["flags"]
    assert "the reference has 75 to 225 images each" in sentence
    task = task_of(tmp_path / "other", data, reference=uneven)
    task.context["labels"] = "histogram"  # type: ignore[index]
    assert score(task)["flags"] == []
