"""An ingest that is killed at any moment and called again: the same bytes, no shard written twice, nothing left over.

Real processes and SIGKILL. A kill comes when a random number of shards is there, plus a random part of the time that a
shard takes, so that it hits every step of one; the seed says where.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.ingest import ingest, make_forms
from pipeline.data.manifest import MANIFEST_NAME
from pipeline.data.verifying import verify
from pipeline.objects import LocalObjects, Objects, open_objects

FORMS = make_forms([(48, "webp"), (12, "raw")])
SETTINGS: dict[str, Any] = {"forms": FORMS, "val_fraction": 0.2, "shard_size": 8}
SHARDS = 25  # 20 train and 5 val, of 200 images
SECONDS = 0.06  # what a shard takes, about

DRIVER = """
import sys
from pipeline.data.ingest import ingest, make_forms
from pipeline.fan_out import in_turn, on_ray
source, dest, address = sys.argv[1:]
if address:
    import os, ray
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    settings = {"runtime_env": {"env_vars": keys}} if dest.startswith("s3://") else {}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **settings)
forms = make_forms([(48, "webp"), (12, "raw")])
ingest(source, dest, forms=forms, val_fraction=0.2, shard_size=8, fan_out=on_ray() if address else in_turn)
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of a hundred images."""
    folder = tmp_path_factory.mktemp("source") / "tree"
    for number in range(200):
        pixels = np.random.default_rng(number).integers(0, 256, (48, 60, 3), dtype=np.uint8)
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


@pytest.fixture(scope="module")
def whole(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an uninterrupted ingest leaves: names and sha256."""
    folder = tmp_path_factory.mktemp("whole")
    ingest(tree, folder, **SETTINGS)
    return _contents(open_objects(folder))


def _contents(objects: Objects) -> dict[str, str]:
    return {name: hashlib.sha256(objects.read(name)).hexdigest() for name, _ in objects.names()}


def _done(objects: Objects) -> set[str]:
    """The shards that count as written, by the name of their last index."""
    return {name for name, _ in objects.names(f"{FORMS[-1].name}/") if name.endswith(".index")}


def _identities(objects: Objects, client: Any = None) -> dict[str, tuple[object, ...]]:
    """Of all objects of written shards what changes when they are written again: inode and time."""
    done = {name.partition("/")[2].removesuffix(".index") for name in _done(objects)}
    names = [name for name, _ in objects.names() if name.partition("/")[2].rpartition(".")[0] in done]
    if isinstance(objects, LocalObjects):
        found = [(name, objects.path(name).stat()) for name in names]
        return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}
    bucket, _, prefix = objects.address.removeprefix("s3://").partition("/")
    heads = [(name, client.head_object(Bucket=bucket, Key=f"{prefix}/{name}")) for name in names]
    return {name: (head["LastModified"], head["ETag"]) for name, head in heads}


@contextmanager
def _driver(source: str, dest: str, address: str = "") -> Iterator[subprocess.Popen[str]]:
    """A process that ingests, in a session of its own."""
    command = [sys.executable, "-c", DRIVER, source, dest, address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _kill_when(objects: Objects, process: subprocess.Popen[str], count: int, delay: float) -> bool:
    """Kill the process ``delay`` seconds after ``count`` shards are there; False when it had ended by itself."""
    while len(_done(objects)) < count and process.poll() is None:
        time.sleep(0.002 if isinstance(objects, LocalObjects) else 0.05)
    time.sleep(delay)
    if process.poll() is not None:
        assert process.returncode == 0, process.stderr and process.stderr.read()
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


def _kill_often(
    source: str, dest: str, seed: int, *, kills: int, address: str = "", client: Any = None, rest: float = 0.0
) -> int:
    """Ingest, killed ``kills`` times on the way; then once more to the end. The number of kills that hit."""
    dice, objects = random.Random(seed), open_objects(dest)
    hits, reached = 0, 0
    for kill in range(kills):
        before = _identities(objects, client)
        reached = max(len(_done(objects)), dice.randrange(SHARDS * (kill + 1) // (kills + 1) + 1))
        with _driver(source, dest, address) as process:
            hits += _kill_when(objects, process, reached, dice.uniform(0, 2 * SECONDS))
        time.sleep(rest)
        after = _identities(objects, client)
        assert {name: after.get(name) for name in before} == before, f"a shard was written twice, {seed=} {kill=}"
    before = _identities(objects, client)
    with _driver(source, dest, address) as process:
        assert process.wait(120) == 0, process.stderr and process.stderr.read()
    after = _identities(objects, client)
    assert {name: after.get(name) for name in before} == before, f"a shard was written twice, {seed=}"
    return hits


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_in_a_folder(tree: Path, whole: dict[str, str], tmp_path: Path, seed: int) -> None:
    hits = _kill_often(str(tree), str(tmp_path / "data"), seed, kills=5)
    assert hits >= 3, "the kills came too late to show anything"
    assert _contents(open_objects(tmp_path / "data")) == whole
    hidden = [path for path in (tmp_path / "data").rglob("*") if path.name.startswith(".")]
    assert hidden == [], "temporaries were left over"


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_killed_drivers_of_a_ray_cluster(tree: Path, whole: dict[str, str], tmp_path: Path) -> None:
    # The cluster stays: workers of a dead driver live on for a moment, so wait before looking what they wrote.
    hits = _kill_often(str(tree), str(tmp_path / "data"), 0, kills=2, address=_gcs_address(), rest=1.0)
    assert hits >= 1
    assert _contents(open_objects(tmp_path / "data")) == whole
    assert {path.name for path in (tmp_path / "data").iterdir()} == {MANIFEST_NAME, *(form.name for form in FORMS)}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_killed_workers_of_a_ray_cluster(tree: Path, whole: dict[str, str], tmp_path: Path) -> None:
    import psutil

    dice, killed, dest = random.Random(0), 0, tmp_path / "data"
    with _driver(str(tree), str(dest), _gcs_address()) as process:
        while process.poll() is None:
            writers = [one for one in psutil.process_iter(["cmdline"]) if _writes_below(one, dest)]
            if writers and killed < 3 and len(_done(open_objects(dest))) >= 5 * killed:
                dice.choice(writers).kill()
                killed += 1
            time.sleep(0.05)
        assert process.returncode == 0, process.stderr and process.stderr.read()
    assert killed == 3
    assert _contents(open_objects(dest)) == whole


def _writes_below(process: Any, folder: Path) -> bool:
    import psutil

    try:
        return "write_shard" in " ".join(process.info["cmdline"] or ()) and any(
            file.path.startswith(str(folder)) for file in process.open_files()
        )
    except psutil.Error:
        return False


def _gcs_address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address


def _upload(tree: Path, address: str) -> str:
    objects = open_objects(address)
    for path in tree.rglob("*.png"):
        objects.write(str(path.relative_to(tree)), path.read_bytes())
    return address


@pytest.mark.s3
@pytest.mark.parametrize("remote_source", [False, True])
def test_killed_on_the_way_to_a_bucket(tree: Path, whole: dict[str, str], s3_store: Any, remote_source: bool) -> None:
    bucket = s3_store.bucket()
    source, dest = str(tree), f"s3://{bucket}/data/set"
    if remote_source:
        source = _upload(tree, f"s3://{bucket}/tree")
    hits = _kill_often(source, dest, 3, kills=3, client=s3_store.client())
    assert hits >= 1
    assert _contents(open_objects(dest)) == whole


@pytest.mark.slow
@pytest.mark.s3
@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_killed_from_bucket_to_bucket_on_ray(tree: Path, whole: dict[str, str], s3_store: Any) -> None:
    bucket = s3_store.bucket()
    source, dest = _upload(tree, f"s3://{bucket}/tree"), f"s3://{bucket}/data"
    _kill_often(source, dest, 4, kills=2, address=_gcs_address(), client=s3_store.client(), rest=1.0)
    assert _contents(open_objects(dest)) == whole
    assert verify(dest).faults == []
