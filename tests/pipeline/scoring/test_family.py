"""The family of scores as one function: what it puts together, what it refuses, and what it flags."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.comparing import paired_error
from pipeline.scoring.error_bars import jackknife, paired_difference
from pipeline.scoring.family import Measured, ReferenceMeasured, scores_of
from pipeline.scoring.frechet import Reference, frechet_distance
from pipeline.scoring.inception_score import inception_score
from pipeline.scoring.kernel_distance import kernel_distance
from pipeline.scoring.manifold import precision_recall
from pipeline.scoring.statistics import stats_of

Floats = npt.NDArray[np.float32]
DIMENSION = 6


def features(count: int, seed: int, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(shift, 1, (count, DIMENSION)).astype(np.float32)


def measured(values: Floats) -> Measured:
    return Measured(values, stats_of(values))


def reference(values: Floats) -> ReferenceMeasured:
    return ReferenceMeasured(stats_of(values), len(values), values)


FAKE, REAL = features(400, 1, shift=0.5), features(900, 2)


def test_every_score_is_that_of_its_own_function() -> None:
    logits = np.random.default_rng(3).normal(0, 2, (400, 5)).astype(np.float32)
    spatial = features(400, 4), features(900, 5)
    sample = Measured(FAKE, stats_of(FAKE), logits, stats_of(spatial[0]))
    found = scores_of(sample, ReferenceMeasured(stats_of(REAL), 900, REAL, stats_of(spatial[1])), neighbours=4)
    assert found["samples"] == 400
    assert found["fid"] == frechet_distance(stats_of(FAKE), stats_of(REAL))
    assert found["fid_error"] == jackknife(FAKE, Reference(stats_of(REAL))).error
    assert (found["kid"], found["kid_std"]) == kernel_distance(FAKE, REAL, subset_size=400)
    assert (found["inception_score"], found["inception_score_std"]) == inception_score(logits)
    assert found["sfid"] == frechet_distance(stats_of(spatial[0]), stats_of(spatial[1]))
    assert (found["precision"], found["recall"]) == precision_recall(FAKE, REAL[:400], neighbours=4)
    assert found["flags"] == []
    assert json.loads(json.dumps(found)) == found


def test_what_two_sets_share_cancels_in_the_error_of_their_difference() -> None:
    near = FAKE + 0.1 * features(400, 6)
    ours, theirs = (scores_of(measured(side), reference(REAL)) for side in (FAKE, near))
    found = paired_error(ours, theirs)
    assert found == pytest.approx(paired_difference(FAKE, near, Reference(stats_of(REAL))).error, rel=1e-9)
    assert found is not None
    assert found < 0.5 * np.hypot(ours["fid_error"], theirs["fid_error"])
    assert paired_error(ours, scores_of(measured(near[:399]), reference(REAL))) is None
    assert paired_error(scores_of(measured(FAKE[:30]), reference(REAL)), ours) is None


def test_a_set_against_itself_has_no_distance_and_is_wholly_precise() -> None:
    found = scores_of(measured(REAL), reference(REAL))
    assert found["fid"] <= 1e-8 * np.trace(stats_of(REAL).covariance)
    assert (found["precision"], found["recall"]) == (1.0, 1.0)


def test_the_curve_falls_to_the_fid_of_all_samples_and_its_limit_is_nearer_to_the_truth() -> None:
    alike = features(400, 6)
    found = scores_of(measured(alike), reference(features(20000, 7)))
    sizes, values = zip(*found["fid_curve"], strict=True)
    assert sizes == (400, 200, 100, 80)
    assert list(values) == sorted(values)
    assert values[0] == pytest.approx(found["fid"], rel=1e-6)
    assert abs(found["fid_infinity"]) < found["fid"], "the truth is 0"
    assert found["fid_infinity_error"] > 0


@pytest.mark.parametrize(("samples", "images", "who"), [(DIMENSION, 900, "samples"), (400, DIMENSION, "reference")])
def test_fid_is_refused_with_no_more_images_than_dimensions_on_either_side(samples: int, images: int, who: str) -> None:
    found = scores_of(measured(FAKE[:samples]), reference(REAL[:images]))
    for name in ("fid", "fid_error", "fid_infinity", "fid_infinity_error"):
        assert found[name] is None
    assert found["fid_curve"] == []
    assert any(f"no FID of 6 {who}" in sentence for sentence in found["flags"])
    assert found["kid"] is not None, "KID is always beside it"


def test_few_samples_are_flagged_and_still_scored() -> None:
    found = scores_of(measured(FAKE[:100]), reference(REAL))
    assert found["fid"] is not None
    assert len(found["flags"]) == 1
    assert "biased upwards" in found["flags"][0]
    handful = scores_of(measured(FAKE[:20]), reference(REAL))
    assert handful["fid"] is not None
    assert handful["fid_error"] is None, "no error bars of so few"


def test_statistics_without_images_give_what_they_can() -> None:
    found = scores_of(measured(FAKE), ReferenceMeasured(stats_of(REAL), None))
    assert found["fid"] == frechet_distance(stats_of(FAKE), stats_of(REAL))
    assert found["kid"] is found["precision"] is found["recall"] is None
    assert found["flags"] == ["no KID, precision and recall: the reference is statistics alone, without images"]


def test_precision_and_recall_do_not_see_more_reference_images_than_samples() -> None:
    first = scores_of(measured(FAKE), reference(REAL[:400]))
    more = scores_of(measured(FAKE), reference(REAL))
    assert (first["precision"], first["recall"]) == (more["precision"], more["recall"])
    assert reference(REAL).near(400) == 400
    assert reference(REAL).near(1000) == 900


def test_memory_mapped_features_give_the_same_bits(tmp_path: Path) -> None:
    mapped = []
    for name, values in (("fake", FAKE), ("real", REAL)):
        np.save(tmp_path / f"{name}.npy", values)
        mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
    assert scores_of(measured(mapped[0]), reference(mapped[1])) == scores_of(measured(FAKE), reference(REAL))


def test_one_image_has_no_score_and_breaks_nothing() -> None:
    found = scores_of(measured(FAKE[:1]), reference(REAL))
    assert all(found[name] is None for name in ("fid", "kid", "precision", "recall", "inception_score", "sfid"))
