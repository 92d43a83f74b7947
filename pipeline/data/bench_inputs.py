"""Data sets to measure with: somebody's images, or drawn ones with the spectrum of photographs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from pipeline.data.batches import StepBatches
from pipeline.data.ingest import ingest, make_forms
from pipeline.data.loading import Examples
from pipeline.data.manifest import (
    Form,
    Manifest,
    ShardColumns,
    Source,
    Split,
    load_manifest,
    save_manifest,
)
from pipeline.data.measuring import BATCH, Bench
from pipeline.data.ordering import ExampleOrder
from pipeline.data.scaling import Measured
from pipeline.objects import open_objects

SHARD = 100  # examples: small shards, so that a few hundred images make several
MILLION = 1_000_000


@contextmanager
def bench_of(source: str | None, *, images: int, large: int, small: int) -> Iterator[Bench]:
    """The images of ``source`` (None: so many synthetic ones) stored as JPEG of ``large`` px, and raw of ``small``."""
    with tempfile.TemporaryDirectory(prefix="rayfall-benchmark-") as folder:
        root = Path(folder)
        if source is None:
            source = str(root / "images")
            write_synthetic(Path(source), images, large)
        forms = {"jpeg": make_forms([(large, "jpeg")]), "raw": make_forms([(large, "jpeg"), (small, "raw")])}
        for name, stored in forms.items():
            ingest(source, root / name, forms=stored, val_fraction=0.0, shard_size=SHARD)
        yield Bench(root / "jpeg", root / "raw", small)


def write_synthetic(folder: Path, images: int, size: int) -> None:
    """PNG images of 1/f noise, the mean spectrum of photographs, in ten class folders: a function of the numbers."""
    waves = np.fft.fftfreq(size)
    radius = np.hypot(waves[:, None], waves[None, :])
    radius[0, 0] = 1.0
    for index in range(images):
        dice = np.random.Generator(np.random.Philox(index))
        noise = np.fft.ifft2(
            np.fft.fft2(dice.standard_normal((size, size, 3)), axes=(0, 1)) / radius[..., None], axes=(0, 1)
        )
        scaled = 128 + 48 * noise.real / noise.real.std()
        path = folder / f"class{index % 10}" / f"{index:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).save(path, compress_level=1)


class FirstBatch(NamedTuple):
    """Seconds from opening a data set to the first batch at a step."""

    step: int
    seconds: float


def first_batches(repeats: int, shards: int = 1000, per_shard: int = 32) -> list[FirstBatch]:
    """Open a data set of so many shards and read one batch, at several places of its first epochs; medians."""
    steps_per_epoch = shards * per_shard // BATCH
    steps = [0, steps_per_epoch // 4, steps_per_epoch // 2, steps_per_epoch - 1, 5 * steps_per_epoch + 7]
    with tempfile.TemporaryDirectory(prefix="rayfall-benchmark-") as folder:
        address = Path(folder) / "shards"
        source = Path(folder) / "images"
        write_synthetic(source, per_shard, 8)
        ingest(source, address, forms=make_forms([(8, "raw")]), val_fraction=0.0, shard_size=per_shard)
        _repeat_shard(address, shards)
        found: dict[int, list[float]] = {step: [] for step in steps}
        for _ in range(repeats):
            for step in steps:
                began = time.perf_counter()
                examples = Examples(address, "train", keep_bytes=0)
                order = ExampleOrder(examples.counts, seed=0, stage="benchmark")
                StepBatches(examples, order, BATCH, np.arange(BATCH)).read(step)
                found[step].append(time.perf_counter() - began)
    return [FirstBatch(step, float(np.median(seconds))) for step, seconds in found.items()]


def _repeat_shard(address: Path, times: int) -> None:
    """Make a data set of one shard into one of many equal ones, by links."""
    manifest = load_manifest(address)
    form, split = manifest.forms[0], manifest.splits["train"]
    columns = split.shards[form.name]
    for number in range(1, times):
        for suffix in ("tar", "index"):
            (address / form.name / f"train-{number:05d}.{suffix}").hardlink_to(
                address / form.name / f"train-00000.{suffix}"
            )
    repeated = Split(
        counts=split.counts * times,
        shards={
            form.name: ShardColumns(
                bytes=columns.bytes * times, sha256=columns.sha256 * times, index_sha256=columns.index_sha256 * times
            )
        },
    )
    splits = {**manifest.splits, "train": repeated}
    save_manifest(open_objects(address), manifest.model_copy(update={"splits": splits}).sealed())


def measure_start(shards: int = MILLION) -> Measured:
    """What a manifest of so many shards weighs and costs to read, and the first batch of its order."""
    form = Form(size=64, encoding="raw")
    digests = tuple(f"{number:064x}" for number in range(shards))
    columns = ShardColumns(bytes=(10_000_000,) * shards, sha256=digests, index_sha256=digests)
    empty = Split(counts=(), shards={form.name: ShardColumns(bytes=(), sha256=(), index_sha256=())})
    manifest = Manifest(
        classes=("only",),
        resize="none",
        forms=(form,),
        source=Source(kind="drawn", name="none", lossy=False, fingerprint="0" * 64),
        request={},
        splits={"train": Split(counts=(1000,) * shards, shards={form.name: columns}), "val": empty},
    ).sealed()
    with tempfile.TemporaryDirectory(prefix="rayfall-benchmark-") as folder:
        objects = open_objects(folder)
        save_manifest(objects, manifest)
        size = objects.size("manifest.json")
        assert size is not None, "it was just written"
        began = time.perf_counter()
        counts = load_manifest(folder).splits["train"].counts
        loading = time.perf_counter() - began
    began = time.perf_counter()
    ExampleOrder(counts, seed=0, stage="benchmark", lanes=64).of_step(123_456, 4096)
    return Measured(size / shards, loading / shards, time.perf_counter() - began)
