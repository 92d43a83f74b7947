"""Samples of ours that come back as a file: they are scored and ranked as the graph scored them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.classifier import Classifier, save_classifier
from pipeline.dag import Progress, Task
from pipeline.data.datasets import LOCATION, Place
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.data.manifest import SplitName
from pipeline.fan_out import in_turn
from pipeline.foreign.judgement import Request, judge
from pipeline.measures import kept_rows, marks_of, measures_of, reduced_arrays
from pipeline.parts import Assembly
from pipeline.scores import score
from pipeline.scoring.passport import Passport, differences
from pipeline.storage import open_storage

SIZE = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set and a classifier of 12 features."""
    place = tmp_path_factory.mktemp("ours")
    ingest_drawn(place / "data", seed=0, forms=make_forms([(SIZE, "png")]), train=300, val=100, shard_size=100)
    torch.manual_seed(0)
    save_classifier(Classifier(channels=(4, 8), blocks=1, classes=3, size=SIZE).eval(), place / "classifier")
    return place


def foreign_scores(place: Path, folder: Path, split: SplitName = "train") -> dict[str, Any]:
    """``samples.npz`` in ``folder`` against the data set, as a peer has it."""
    request = Request(
        images=str(folder / "samples.npz"),
        against=str(place / "data"),
        scorer=str(place / "classifier"),
        weights=None,
        sha256=None,
        split=split,
        sample_split=None,
        count=None,
        size=None,
        resize=None,
        labels=None,
        block=16,
        neighbours=3,
        device="cpu",
        cache=folder / "cache",
    )
    return judge(request, fan_out=in_turn, threads=1, scratch=folder / f"scratch-{split}", progress=lambda *_: None)


def own_scores(place: Path, folder: Path) -> dict[str, Any]:
    """The held-out images as the graph scores samples of the same data set, measured in the same blocks."""
    inputs = {"data": folder / "data", "feature_classifier": place / "classifier", "judge": place / "classifier"}
    inputs["data"].mkdir()
    (inputs["data"] / LOCATION).write_text(json.dumps(Place(str(place / "data"), "box")._asdict()))
    config: dict[str, Any] = {"scorers": [{"kind": "classifier"}], "size": SIZE, "neighbours": 3, "kind": "chained"}
    context = {"threads": 1, "stages": [], "labels": "uniform", "seed": 0, "precision": "f32", "block": 16}
    measures = measures_of(config, inputs, context)
    sets: list[tuple[str, SplitName, int]] = [("judged", "val", 100), ("reference", "train", 300)]
    for role, split, count in sets:
        (out := folder / role).mkdir()
        assembly = Assembly(out, count, kept_rows(config["scorers"], count), reduced_arrays(config["scorers"]))
        for start in range(0, count, 16):
            pixels, labels = Examples(place / "data", split).read(range(start, min(start + 16, count)))
            assembly.add({"labels": labels, **measures.of(pixels)})
        assembly.finish()
        facts = {"revision": "1", "device": "cpu", "extractors": marks_of(config, inputs), "judge": None}
        (out / "drawn.json").write_text(json.dumps(facts))
        inputs[role] = out
    return score(Task("scores/chained/base", config, inputs, folder, context, open_storage(folder), Progress()))


def test_our_own_samples_from_a_file_may_be_ranked_with_the_scores_that_the_graph_gave_them(
    place: Path, tmp_path: Path
) -> None:
    own = own_scores(place, tmp_path)
    np.savez(tmp_path / "samples.npz", arr_0=Examples(place / "data", "val").read(range(100))[0])
    foreign = foreign_scores(place, tmp_path)
    for figure in ("fid", "kid", "precision", "recall", "inception_score"):
        assert foreign[figure] == pytest.approx(own[figure], rel=1e-9), figure
    left, right = (Passport.model_validate(found["passport"]) for found in (own, foreign))
    assert [one for one in differences(left, right) if one.matters] == []
    assert "source.kind" in {one.field for one in differences(left, right)}
    other = Passport.model_validate(foreign_scores(place, tmp_path, "val")["passport"])
    assert "reference.split" in {one.field for one in differences(left, other) if one.matters}
