"""What keeping metrics costs a step: nothing kept, kept in the store, kept while the server of the driver is down."""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.storage import open_storage
from pipeline.tracking.forwarding import Forwarder
from pipeline.tracking.journal import Journal
from pipeline.tracking.metric_buffer import MetricBuffer
from pipeline.tracking.outages import Outage

METRICS = ("loss", "gradient_norm", "learning_rate", "images_per_second", "data_wait_share", "commit_wait_share")
NOBODY = "http://127.0.0.1:9"  # the port of a service that swallows everything, where there is one at all
EVERY = 0.5  # seconds; a training writes and sends ten times more seldom
Keeper = Callable[[Path], AbstractContextManager[MetricBuffer | None]]


def add_tracking_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=500, help="of each kind, all of them logged")
    parser.add_argument("--repeats", type=int, default=5)


def measure_tracking(chosen: argparse.Namespace) -> dict[str, Any]:
    """Median and longest seconds of a step that is logged, by kind; kinds take turns."""
    times: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(chosen.repeats):
        for name, keep in KINDS.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name] += _steps(keep, Path(folder), chosen.steps)
    figures = {name: {"median": statistics.median(found), "longest": max(found)} for name, found in times.items()}
    table = Table("metrics are", "median step, ms", "longest, ms")
    for name, row in figures.items():
        table.add_row(name, f"{1000 * row['median']:.3f}", f"{1000 * row['longest']:.2f}")
    Console().print(table)
    return figures


def _steps(keep: Keeper, folder: Path, steps: int) -> list[float]:
    found, matrix = list[float](), np.ones((256, 256), np.float32)
    with keep(folder) as buffer:
        for step in range(steps):
            started = time.perf_counter()
            for _ in range(10):
                matrix = matrix @ matrix / np.float32(256)  # some milliseconds of work
            if buffer is not None:
                buffer.add(step, dict.fromkeys(METRICS, 0.5), int(1000 * time.time()))
            found.append(time.perf_counter() - started)
    return found


def _kept(folder: Path) -> MetricBuffer:
    return MetricBuffer(Journal(open_storage(folder), "run"), every_seconds=EVERY)


@contextmanager
def _kept_without_server(folder: Path) -> Iterator[MetricBuffer]:
    """While another process, as the driver is one, asks for a server that is not there."""
    context = multiprocessing.get_context("spawn")
    at_work = context.Event()
    driver = context.Process(target=_drive, args=(folder, at_work), daemon=True)
    driver.start()
    try:
        at_work.wait()
        with _kept(folder) as buffer:
            yield buffer
    finally:
        driver.terminate()
        driver.join()


def _drive(folder: Path, at_work: Event) -> None:
    journal = Journal(open_storage(folder), "run")
    journal.append([("loss", 0.5, 0, 0)])
    forwarder = Forwarder(NOBODY, journal.storage, [journal.run], every_seconds=EVERY)
    outage = Outage(NOBODY)
    while True:
        with outage.tolerated():
            forwarder.forward()
        at_work.set()
        time.sleep(EVERY)


KINDS: dict[str, Keeper] = {
    "not kept": lambda folder: nullcontext(),
    "kept in the store": _kept,
    "kept, and the server is down": _kept_without_server,
}
