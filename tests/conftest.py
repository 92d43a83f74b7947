"""What all tests share: a clean environment, one thread, the real archives, one Ray cluster, one real S3 store.

Where pytest runs several processes, each has a cluster and a store of its own, which it starts when it needs them.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cluster import ENVIRONMENT

ARCHIVES = ("cifar10.tar.gz", "imagenet-sample.tar.gz")
# Settings of whoever runs the tests that would change what is tested; RAYFALL_DATA only says where archives are.
FOREIGN = ("AWS_", "MLFLOW_", "RAYFALL_", "RAY_ADDRESS", "RAY_AUTH_", "RANK", "WORLD_SIZE", "LOCAL_RANK", "WDS_")
# Fixtures with more code than belongs here.
PLUGINS = ("object_store", "fault_proxy", "fault_figures", "tracking_server", "tracked_training", "hosts", "launched")
SETTINGS = {
    **ENVIRONMENT,
    "OMP_NUM_THREADS": "1",  # torch reads it when it is imported, here and in every process that a test starts
    "MKL_NUM_THREADS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # tests train for seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MPLBACKEND": "agg",
    "AWS_CONFIG_FILE": os.devnull,  # no test may reach a store that somebody pays for
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """What the tests of faults (``tests/faults``) take; only here are options known before tests are collected."""
    parser.addoption("--fault-repeats", type=int, default=10, help="how often a process is killed (300: long form)")
    parser.addoption("--fault-figures", default=None, help="a file for the figures of the fault matrix, as JSON")


# At import, where else nothing happens: the conftest of a folder that is asked for by name imports torch before
# pytest_configure is called, and torch reads its number of threads when it is imported.
for foreign in [name for name in os.environ if name.startswith(FOREIGN) and name != "RAYFALL_DATA"]:
    del os.environ[foreign]
os.environ.update(SETTINGS)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test module is imported."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it puts into the background so, and the programs that tests interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in PLUGINS:
        # By path: nothing can be imported from ``tests``, a package of that name being installed by a dependency.
        spec = importlib.util.spec_from_file_location(f"rayfall_{name}", Path(__file__).with_name(f"{name}.py"))
        assert spec
        assert spec.loader
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config.pluginmanager.register(module, spec.name)


@pytest.fixture(scope="session")
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder that holds the CIFAR-10 and ImageNet sample archives; the test is skipped where there is none.

    Looked for in the folder that the environment variable RAYFALL_DATA names, else in data/ of the repository.
    """
    folder = Path(os.environ.get("RAYFALL_DATA") or request.config.rootpath / "data")
    absent = [name for name in ARCHIVES if not (folder / name).is_file()]
    if absent:
        pytest.skip(f"no {' and no '.join(absent)} in {folder}; RAYFALL_DATA names the folder of the archives")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of one MiB of its own; the test is skipped where none can be mounted."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk to fill: {mounted.stderr.strip() or 'mount failed'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One Ray cluster of two CPUs for the whole session; ``ray.is_initialized()`` while it stands.

    With the dashboard: without it, what a stopped training run had reserved is never given back.
    """
    import ray

    ray.init(
        address="local",
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
