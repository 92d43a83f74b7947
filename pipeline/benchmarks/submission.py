"""``python -m pipeline.benchmark submission``: seconds from ``rayfall submit`` to the first training step.

Against a head of one's own on this machine, which is started before and not counted, with an experiment that trains a
tiny net; every repetition is another experiment with a store of its own. The log is asked for ten times a second, and a
phase ends with the line that says so; training tells its steps four times a second.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.submission.client import Client
from pipeline.submission.environment import STARTED
from pipeline.submission.local_head import local_head
from pipeline.submission.order import read_order
from pipeline.submission.reaching import find_head
from pipeline.submission.submit import submit

EXPERIMENT = """
name: submission
data: {kind: drawn, size: 8, train: 64, val: 32}
stages:
  base8:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1], blocks: 1}
    training: {steps: 100000, batch_size: 8}
evaluation: {samples: 16, reference: 32, held_out: 8}
"""
# (what ends it, its line in the log), after packing and sending; in their order.
PHASES: tuple[tuple[str, str], ...] = (
    ("job start", re.escape(STARTED)),
    ("driver import", "starting Ray"),
    ("Ray join", "data: started"),
    ("first node", "data: done.*"),
    ("training start", r"train/base8: [1-9]\d* of .*"),
)
TOTAL = "submit to first step"
PATIENCE = 600.0
POLL = 0.1


def add_submission_options(parser: argparse.ArgumentParser) -> None:
    """What the command line may say about this part."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--first-port", type=int, default=20800, help="the head takes 200 ports from here")


def measure_submission(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come."""
    console = Console(width=140)
    found: list[dict[str, float]] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, local_head(Path(folder), chosen.first_port) as head:
        file = Path(folder) / "submission.yaml"
        file.write_text(EXPERIMENT)
        for repeat in range(chosen.repeats):
            found.append(_measure_one(head.address, file, Path(folder) / f"store{repeat}", repeat))
    _print(console, found, load)
    return {"seconds": found, "medians": medians(found), "load": load}


def _measure_one(address: str, file: Path, store: Path, seed: int) -> dict[str, float]:
    """Seconds of each phase of one submission; the job is stopped afterwards."""
    began = time.time()
    subprocess.run([sys.executable, "-c", "import pipeline.submission.submit"], check=True)
    imported = time.time()
    order = read_order(file, [f"store={store}", f"seed={seed}"], "train")
    client = Client(find_head(address))
    checked = time.time()
    submission = submit(client, order, environment={"RAYFALL_SECONDS_BETWEEN_LINES": "0"})
    assert submission.seconds is not None, "the store is new"
    sent = time.time()
    times = _line_times(client, submission.job.id, sent)
    client.stop_job(submission.job.id)
    while not client.job(submission.job.id).over:
        time.sleep(0.5)
    asking = sent - checked - sum(submission.seconds.values())  # for earlier jobs of the experiment
    found = {"client import": imported - began, "checking": checked - imported, "asking the head": asking}
    found |= submission.seconds
    last = sent
    for name, _ in PHASES:
        found[name], last = times[name] - last, times[name]
    return found | {TOTAL: last - began}


def _line_times(client: Client, name: str, began: float) -> dict[str, float]:
    """When the line that ends each phase was seen. Raises RuntimeError when one does not come."""
    found: dict[str, float] = {}
    while time.time() < began + PATIENCE:
        lines = client.get_job_logs(name).splitlines()
        for phase, pattern in PHASES:
            if phase not in found and any(re.fullmatch(pattern, line) for line in lines):
                found[phase] = time.time()
        if len(found) == len(PHASES):
            return found
        if client.job(name).over:
            break
        time.sleep(POLL)
    raise RuntimeError(f"no line of {next(name for name, _ in PHASES if name not in found)} in the job's log:\n{lines}")


def medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every phase over the repetitions."""
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _print(console: Console, found: Sequence[Mapping[str, float]], load: float) -> None:
    title = f"From submit to the first training step; {len(found)} jobs, load {load:.1f} on {os.cpu_count()} cores"
    table = Table("phase", "median s", "least to most", title=title)
    for name, median in medians(found).items():
        seconds = [one[name] for one in found]
        table.add_row(name, f"{median:.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}")
    console.print(table)
