"""A node's work in parts: ranges of image indices, computed anywhere, put together in index order.

A part is an object of named arrays, one row per image, published whole or not at all. So a worker that is lost costs
its part, which is computed again, and a driver that is killed finds finished parts when the node is started again.
``Assembly`` lays the rows of all parts end to end, whatever their sizes: how images were grouped into parts, and
parts into workers, leaves no trace in the result.
"""

from __future__ import annotations

import importlib
import io
import time
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.dag import Task, source_of
from pipeline.fan_out import FanOut, in_turn, on_ray
from pipeline.objects import MissingObject, Objects
from pipeline.scoring.statistics import BLOCK, FeatureStats
from stages.processor import prepare_processor

Rows = dict[str, npt.NDArray[Any]]

PART = 256  # images; what a lost worker costs. Not of the number of workers: another number finds the same parts


SECONDS = "part_seconds"  # the one array of a part that has no row per image: what computing it took


class Part(NamedTuple):
    """The rows of consecutive images, and the seconds that computing them took, whoever did it and whenever."""

    rows: Rows
    seconds: float


@dataclass(frozen=True)
class PartJob:
    """What one part needs: plain data, for it may travel. Images ``start`` to ``stop`` (excluded) are asked for."""

    function: str  # "pipeline.sampling:draw_part", a plain function PartJob -> Rows
    config: Mapping[str, Any]
    inputs: Mapping[str, Path]
    context: Mapping[str, Any]
    start: int
    stop: int
    objects: Objects  # where the part is to be
    name: str

    def blocks(self) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
        """The canonical blocks of this part: (indices (block,), how many of them are asked for).

        A part begins where a block does; only the last block of all reaches past ``stop``.
        """
        block = self.config["block"]
        for first in range(self.start, self.stop, block):
            yield np.arange(first, first + block), min(block, self.stop - first)


def compute_part(job: PartJob) -> int:
    """Compute one part unless it is there; the number of its images."""
    if job.objects.size(job.name) is None:
        module, name = job.function.split(":")
        function: Callable[[PartJob], Rows] = getattr(importlib.import_module(module), name)
        started = time.perf_counter()
        rows = function(job)
        rows = {**rows, SECONDS: np.array(time.perf_counter() - started)}
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **rows)
        job.objects.write(job.name, file.getvalue())
    return job.stop - job.start


def part_jobs(task: Task, function: str, first: int, count: int) -> list[PartJob]:
    """The parts of images ``first`` to ``count`` (excluded) of a node: ``first`` begins a canonical block.

    Parts that a killed driver left are taken where the same code made them in the same way, since all of a result is
    said to be made so.
    """
    config, context = dict(task.config), dict(task.context)
    assert first % config["block"] == 0, "a part begins where a block does"
    made_by = f"{way_of(context)}-{source_of(function)[:16]}"
    step = max(1, PART // config["block"]) * config["block"]
    objects, jobs = task.storage.objects(task.scratch), []
    for start in range(first, count, step):
        stop = min(start + step, count)
        name = f"{made_by}/{start:09d}-{stop:09d}.npz"
        jobs.append(PartJob(function, config, task.inputs, context, start, stop, objects, name))
    return jobs


def parts_of(task: Task, function: str, count: int, *, first: int = 0) -> Iterator[Part]:
    """Images ``first`` to ``count`` as ``function`` computes them, part after part in index order.

    On Ray where it runs and ``context["sampling_workers"]`` are several, else here; see ``part_jobs``.
    """
    jobs, done = part_jobs(task, function, first, count), first
    with closing(fan_out_of(task.context)(compute_part, jobs)) as finished:
        for job, images in zip(jobs, finished, strict=True):
            yield _load(job)
            done += images
            task.progress(done, count)


def _load(job: PartJob) -> Part:
    """A part that was computed; once more where another driver committed the node first and cleared it away, or where
    it was damaged."""
    while True:
        try:
            with np.load(io.BytesIO(job.objects.read(job.name)), allow_pickle=False) as rows:
                arrays = dict(rows)
            return Part(arrays, float(arrays.pop(SECONDS)))
        except MissingObject:
            pass
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile):
            job.objects.remove(job.name)
        compute_part(job)


def fan_out_of(context: Mapping[str, Any]) -> FanOut:
    """How a node hands out its work: Ray tasks of their own, or one after the other in this process.

    What asks for a GPU goes to a task that has one, where this process has none.
    """
    workers, gpus = context["sampling_workers"], context.get("gpus_per_sampling_worker", 0.0)
    if workers > 1 or gpus:
        import ray

        if ray.is_initialized() and (workers > 1 or not ray.get_gpu_ids()):
            return on_ray(cpus=context["threads"], gpus=gpus, at_most=workers)
    return in_turn


def settle(context: Mapping[str, Any]) -> None:
    """Settings of torch that a measuring task computes under: its threads, and float32 that is float32 on GPUs too."""
    import torch

    prepare_processor(context["threads"])
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def device_of(context: Mapping[str, Any]) -> str:
    """Where a sampling task computes: on the GPU that was set aside for it, else on the CPU."""
    return "cuda" if context.get("gpus_per_sampling_worker", 0) > 0 else "cpu"


def way_of(context: Mapping[str, Any]) -> str:
    """How a sampling task computes, as far as the last bits depend on it: "cpu-1", "cuda-1-compiled"."""
    return f"{device_of(context)}-{context['threads']}{'-compiled' if context.get('compiled_sampling') else ''}"


class Assembly:
    """Rows of consecutive parts as ``.npy`` files in ``folder``, and statistics of some of them.

    All ``count`` rows are kept, or as many as ``kept`` says of an array by name (0: no file). Of the arrays named in
    ``reduced`` the statistics of all rows are stored as ``stats-<name>.npz``, merged in index order from blocks of
    ``BLOCK`` rows whatever the parts were.
    """

    def __init__(self, folder: Path, count: int, kept: Mapping[str, int], reduced: Collection[str]) -> None:
        self.folder, self.count, self.kept, self.reduced = folder, count, kept, reduced
        self._files: dict[str, npt.NDArray[Any]] = {}
        self._waiting: dict[str, list[npt.NDArray[Any]]] = {}
        self._stats: dict[str, FeatureStats] = {}
        self._filled = 0

    def add(self, rows: Rows) -> None:
        """Take the rows of the next part."""
        images = len(next(iter(rows.values())))
        assert all(len(values) == images for values in rows.values()), "every array has a row for every image"
        for name, values in rows.items():
            self._keep(name, values, min(self.kept.get(name, self.count), self.count))
            if name in self.reduced:
                self._reduce(name, values)
        self._filled += images

    def _keep(self, name: str, values: npt.NDArray[Any], kept: int) -> None:
        if self._filled >= kept:
            return
        if name not in self._files:
            path, shape = self.folder / f"{name}.npy", (kept, *values.shape[1:])
            self._files[name] = np.lib.format.open_memmap(path, "w+", dtype=values.dtype, shape=shape)
        room = values[: kept - self._filled]
        self._files[name][self._filled : self._filled + len(room)] = room

    def _reduce(self, name: str, values: npt.NDArray[Any]) -> None:
        waiting = np.concatenate([*self._waiting.get(name, []), values])
        whole = len(waiting) - len(waiting) % BLOCK
        for first in range(0, whole, BLOCK):
            self._merge(name, waiting[first : first + BLOCK])
        self._waiting[name] = [waiting[whole:]]

    def _merge(self, name: str, values: npt.NDArray[Any]) -> None:
        found = FeatureStats.from_features(values)
        self._stats[name] = self._stats[name].merged(found) if name in self._stats else found

    def finish(self) -> None:
        """Write what is left. All rows must have been added."""
        assert self._filled == self.count, f"{self._filled} of {self.count} rows were added"
        for name, values in self._waiting.items():
            if len(values[0]):
                self._merge(name, values[0])
        for name, stats in self._stats.items():
            np.savez(self.folder / f"stats-{name}.npz", allow_pickle=False, **stats.arrays())
        for file in self._files.values():
            file.flush()  # type: ignore[attr-defined]


def load_stats(folder: Path, name: str) -> FeatureStats:
    """The statistics that ``Assembly`` stored of the array ``name``."""
    with np.load(folder / f"stats-{name}.npz", allow_pickle=False) as arrays:
        return FeatureStats.from_arrays(arrays)
