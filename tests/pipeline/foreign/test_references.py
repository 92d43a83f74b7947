"""References kept between calls, and statistics that a file brings along."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.foreign.measuring import Taken
from pipeline.foreign.references import Key, cached_reference, read_statistics
from pipeline.scoring.family import Measured, ReferenceMeasured, scores_of
from pipeline.scoring.frechet import frechet_distance
from pipeline.scoring.passport import ExtractorMark
from pipeline.scoring.statistics import stats_of

FEATURES = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
SPATIAL = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
MARK = ExtractorMark(name="inception", layer="2048", sha256="b" * 64)
KEY = Key("a" * 64, "train", "as they are", 32, MARK, block=64, device="cpu", threads=1)


class Counted:
    """Takes the features above, and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> Taken:
        folder.mkdir(parents=True)
        self.calls += 1
        return Taken(FEATURES, None, SPATIAL)


def check(found: ReferenceMeasured) -> None:
    assert found.images == 50
    assert found.features is not None
    assert np.array_equal(found.features, FEATURES)
    assert found.stats.scatter.tobytes() == stats_of(FEATURES).scatter.tobytes()
    assert found.spatial is not None
    assert found.spatial.mean.tobytes() == stats_of(SPATIAL).mean.tobytes()


def test_a_reference_is_computed_once_and_comes_back_bit_for_bit(tmp_path: Path) -> None:
    take = Counted()
    for _ in range(3):
        check(cached_reference(KEY, tmp_path / "cache", take))
    assert take.calls == 1
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [KEY.name], "nothing else is left behind"


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "c" * 64},
        {"split": "val"},
        {"made": "box to 32 px"},
        {"size": 64},
        {"extractor": ExtractorMark(name="inception", layer="2048", sha256="d" * 64)},
        {"block": 32},
        {"device": "cuda:0"},
        {"threads": 2},
    ],
)
def test_whatever_moves_a_bit_makes_another_reference(tmp_path: Path, change: dict[str, Any]) -> None:
    take = Counted()
    cached_reference(KEY, tmp_path, take)
    cached_reference(KEY._replace(**change), tmp_path, take)
    assert take.calls == 2


@pytest.mark.parametrize("name", ["stats.npz", "features.npy", "spatial.npz"])
def test_an_entry_that_is_cut_is_made_again(tmp_path: Path, name: str) -> None:
    take = Counted()
    cached_reference(KEY, tmp_path, take)
    (tmp_path / KEY.name / name).write_bytes(b"cut")
    check(cached_reference(KEY, tmp_path, take))
    check(cached_reference(KEY, tmp_path, take))
    assert take.calls == 2


def test_nothing_is_kept_of_a_computation_that_fails(tmp_path: Path) -> None:
    def fail(folder: Path) -> Taken:
        folder.mkdir()
        raise UserError("broken.png cannot be decoded")

    with pytest.raises(UserError, match=r"broken\.png"):
        cached_reference(KEY, tmp_path, fail)
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_agree(tmp_path: Path) -> None:
    inner = Counted()

    def take(folder: Path) -> Taken:
        cached_reference(KEY, tmp_path, inner)  # another process is quicker
        return Counted()(folder)

    check(cached_reference(KEY, tmp_path, take))
    assert inner.calls == 1


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"the cache .*file cannot be used: .*; name another with --cache"):
        cached_reference(KEY, tmp_path / "file", Counted())


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_statistics_of_a_file_are_taken_as_they_are(tmp_path: Path) -> None:
    covariance, spatial = np.cov(FEATURES, rowvar=False), np.cov(SPATIAL, rowvar=False)
    path = save(
        tmp_path / "batch.npz", mu=FEATURES.mean(axis=0), sigma=covariance, mu_s=SPATIAL.mean(axis=0), sigma_s=spatial
    )
    found = read_statistics(path)
    assert found is not None
    assert found.spatial is not None
    assert found.stats.covariance.tobytes() == covariance.tobytes()
    assert found.spatial.covariance.tobytes() == spatial.tobytes()
    fake = FEATURES + np.float32(1)
    scores = scores_of(Measured(fake, stats_of(fake)), ReferenceMeasured(found.stats, None, None, found.spatial))
    assert scores["fid"] == pytest.approx(frechet_distance(stats_of(fake), stats_of(FEATURES)), rel=1e-6)
    assert scores["fid"] == pytest.approx(4, rel=1e-4), "a shift by one in each of four dimensions"


def test_a_file_without_statistics_has_none(tmp_path: Path) -> None:
    assert read_statistics(save(tmp_path / "x.npz", arr_0=np.zeros((1, 2, 2, 3), np.uint8))) is None


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda path: save(path, mu=np.zeros(4)), "holds mu alone"),
        (
            lambda path: save(path, mu=np.zeros(4), sigma=np.eye(4), mu_s=np.zeros(3)),
            "holds mu and sigma and mu_s alone",
        ),
        (
            lambda path: save(path, mu=np.zeros(4), sigma=np.eye(3)),
            r"mu of .* is float64 \(4,\) and sigma float64 \(3, 3\)",
        ),
        (lambda path: save(path, mu=np.array(["x"]), sigma=np.eye(1)), "mu of .* is <U1"),
    ],
)
def test_a_torso_of_statistics_is_refused(tmp_path: Path, make: Callable[[Path], Path], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        read_statistics(make(tmp_path / "x.npz"))


def test_a_copied_cache_serves(tmp_path: Path) -> None:
    take = Counted()
    cached_reference(KEY, tmp_path / "here", take)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    check(cached_reference(KEY, tmp_path / "there", take))
    assert take.calls == 1
