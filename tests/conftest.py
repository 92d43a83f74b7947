"""What all tests share: a clean environment, one thread, the real archives, one Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cluster import ENVIRONMENT

ARCHIVES = ("cifar10.tar.gz", "imagenet-sample.tar.gz")
# Settings of whoever runs the tests that would change what is tested; RAYFALL_DATA only says where archives are.
FOREIGN = ("MLFLOW_", "RAYFALL_", "RAY_ADDRESS", "RAY_AUTH_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "WDS_")
SETTINGS = {
    **ENVIRONMENT,
    "OMP_NUM_THREADS": "1",  # torch reads it when it is imported, here and in every process that a test starts
    "MKL_NUM_THREADS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # tests train for seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "agg",
}


def pytest_configure() -> None:
    """Before any test module is imported, so that torch starts with one thread."""
    for name in [name for name in os.environ if name.startswith(FOREIGN) and name != "RAYFALL_DATA"]:
        del os.environ[name]
    os.environ.update(SETTINGS)


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder that holds the CIFAR-10 and ImageNet sample archives; the test is skipped where there is none.

    Looked for in the environment variable RAYFALL_DATA, else in ../shared/data beside the repository.
    """
    folder = Path(os.environ.get("RAYFALL_DATA") or request.config.rootpath.parent / "shared" / "data")
    absent = [name for name in ARCHIVES if not (folder / name).is_file()]
    if absent:
        pytest.skip(f"no {' and no '.join(absent)} in {folder}; RAYFALL_DATA names the folder of the archives")
    return folder


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster of two CPUs for the whole session; ``ray.is_initialized()`` while it stands.

    With the dashboard: without it, what a stopped training run had reserved is never given back.
    """
    import ray

    ray.init(
        num_cpus=2,
        num_gpus=0,
        include_dashboard=True,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 << 20,
    )
    try:
        yield
    finally:
        ray.shutdown()
