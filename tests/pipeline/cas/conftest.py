"""A small real data set, and how the worker's part of a training is run here, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cas.run import CasRun, CasSettings
from pipeline.data.ingest import ingest_drawn, make_forms


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a data node: 640 drawn images to train on and 200 held out, 16 px, ten classes."""
    result = tmp_path_factory.mktemp("real")
    forms = make_forms([(16, "png")])
    ingest_drawn(result / "shards", seed=0, forms=forms, train=640, val=200, shard_size=256)
    return result


@pytest.fixture
def settings(real: Path, tmp_path: Path) -> CasSettings:
    """Settings of a training that takes a second and learns the classes; the store is the test's own folder."""
    spec = {
        "net": {"kind": "small", "channels": [16, 32]},
        "epochs": 15,
        "batch_size": 32,
        "learning_rate": 6.4,
        "crop": None,
        "flip": False,
        "precision": "f32",
    }
    return CasSettings(
        spec=spec,
        size=16,
        train=str(real),
        val=str(real),
        shuffle={"window": 16, "lanes": 1},
        storage=str(tmp_path / "store"),
        run="scratch/cas/run",
        threads=1,
        loader_processes=0,
        cache=str(tmp_path / "cache"),
        cache_gb=1.0,
        cache_users=1,
        log_every=10,
        checkpoint_seconds=1e9,
        progress=None,
    )


@pytest.fixture
def train(settings: CasSettings) -> Callable[..., CasRun]:
    """Runs the loop to its end in this process, with some settings changed."""

    def run(stop_after: int | None = None, **changes: object) -> CasRun:
        """``stop_after`` commits, it is left by an exception as a killed worker leaves it."""
        one = CasRun(replace(settings, **changes), rank=0, world=1, device="cpu")  # type: ignore[arg-type]
        one.resume()
        commits = 0

        def report(entry: object) -> None:
            nonlocal commits
            commits += 1
            if commits == stop_after:
                raise KeyboardInterrupt

        one.train(report)
        return one

    return run
