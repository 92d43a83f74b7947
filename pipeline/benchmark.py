"""``python -m pipeline.benchmark PART``: what the parts around the net cost; ``--help`` names them.

The net and its steps are measured by ``stages.benchmark``, which is the part ``steps`` here; the others are what feeds
and judges it. Those that judge are in ``benchmarks.features`` and ``benchmarks.resizing``, what searches share in
``benchmarks.sweep``, how long a job takes to its first step in ``benchmarks.submission``, what keeping metrics costs a
step in ``benchmarks.tracking``, the loop around a step in ``benchmarks.training``, what bf16 does to the loss in
``benchmarks.precision``, and sets of samples that a line of actors draws in ``benchmarks.pipelining``. With
``--mlflow`` the figures of any part become a run of MLflow (``benchmarks.history``), so that speed has a history.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from pipeline.benchmarks.features import add_feature_options, measure_features
from pipeline.benchmarks.history import HISTORY, log_benchmark
from pipeline.benchmarks.pipelining import add_pipelining_options, measure_pipelining
from pipeline.benchmarks.precision import add_precision_options, measure_precision
from pipeline.benchmarks.resizing import add_resize_options, measure_resizing
from pipeline.benchmarks.submission import add_submission_options, measure_submission
from pipeline.benchmarks.sweep import add_sweep_options, measure_sweep
from pipeline.benchmarks.tracking import add_tracking_options, measure_tracking
from pipeline.benchmarks.training import add_training_options, measure_training
from pipeline.data.bench_inputs import SHARD, bench_of, first_batches, measure_start
from pipeline.data.manifest import load_manifest
from pipeline.data.measuring import Bench, pixel_differences, variants_of
from pipeline.data.ordering import ExampleOrder
from pipeline.data.scaling import Cluster, Measured, Need, Stored, need
from pipeline.data.shuffle_quality import quality_of
from pipeline.errors import UserError
from stages.benchmark import add_options, measure
from stages.benchmarks.peers import NoSuchPeer
from stages.benchmarks.timing import Timing, alternate
from stages.compilers import CannotCompile
from stages.processor import restart_with_huge_pages

# (variant, what it is measured against): the rows of the table of ratios.
PAIRS = (
    ("jpeg dct", "stock jpeg"),
    ("jpeg box", "stock jpeg"),
    ("jpeg box", "stock jpeg, box"),
    ("raw", "stock jpeg"),
    ("raw", "stock raw"),
    ("jpeg dct", "jpeg dct, bare"),
    ("jpeg box", "jpeg box, bare"),
    ("raw", "raw, bare"),
)
SETS = (("ImageNet", 1_281_167, 5000), ("a billion images", 1_000_000_000, 1000))
GPUS = (8, 64, 512)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark that the command line names and print its tables; 2 for a wish that cannot be met."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.benchmark", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True)
    data = parts.add_parser("data", help="reading images from shards")
    data.add_argument("--source", help="images to measure with, as for rayfall ingest; synthetic ones without")
    data.add_argument("--images", type=int, default=400, help="how many synthetic images")
    data.add_argument("--size", type=int, default=256, help="px of the stored JPEG images")
    data.add_argument("--small", type=int, default=64, help="px of the images that are read")
    data.add_argument("--repeats", type=int, default=7)
    data.add_argument("--gpu-rate", type=float, default=600.0, help="images a GPU trains on per second, to plan with")
    features = parts.add_parser("features", help="features of images, for scores")
    add_feature_options(features)
    resizing = parts.add_parser("resizing", help="what a score owes to the resize filter")
    add_resize_options(resizing)
    sweep = parts.add_parser("sweep", help="a sweep of truncation levels beside separate evaluations")
    add_sweep_options(sweep)
    submission = parts.add_parser("submission", help="a job on a cluster, up to its first training step")
    add_submission_options(submission)
    tracking = parts.add_parser("tracking", help="what keeping metrics costs a step, with and without a server")
    add_tracking_options(tracking)
    training = parts.add_parser("training", help="the loop on Ray beside the bare step; two workers")
    add_training_options(training)
    precision = parts.add_parser("precision", help="the loss curve in bf16 beside that in float32")
    add_precision_options(precision)
    pipelining = parts.add_parser("pipelining", help="sets of samples by an actor per stage, or by whole chains")
    add_pipelining_options(pipelining)
    steps = parts.add_parser("steps", help="steps of training and sampling, beside other libraries'")
    add_options(steps)
    for part in (data, features, resizing, sweep, submission, tracking, training, precision, pipelining, steps):
        part.add_argument("--json", type=Path, help="write the figures here too")
        part.add_argument("--mlflow", metavar="URI", help=f"log the figures there, in the experiment {HISTORY!r}")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measures = {
        "data": measure_data,
        "features": measure_features,
        "resizing": measure_resizing,
        "sweep": measure_sweep,
        "submission": measure_submission,
        "tracking": measure_tracking,
        "training": measure_training,
        "precision": measure_precision,
        "pipelining": measure_pipelining,
        "steps": measure,
    }
    try:
        figures = measures[chosen.part](chosen)
        if chosen.json:
            chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
        if chosen.mlflow:
            log_benchmark(chosen.mlflow, chosen.part, vars(chosen), figures)
    except (CannotCompile, NoSuchPeer, UserError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure_data(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures of the data path, printed as they come."""
    console = Console(width=140)
    console.print(f"{platform.machine()}, one thread, CPU time, {chosen.repeats} repetitions, variants alternating")
    with bench_of(chosen.source, images=chosen.images, large=chosen.size, small=chosen.small) as bench:
        timings = alternate(variants_of(bench), chosen.repeats)
        _print_rates(console, timings)
        differences = pixel_differences(bench)
        _print_differences(console, differences)
        forms = _stored_forms(bench, timings)
    firsts = first_batches(chosen.repeats)
    _print_firsts(console, firsts)
    qualities = _qualities()
    _print_qualities(console, qualities)
    start = measure_start()
    needs = [
        need(name, images, per_shard, form, start, Cluster(gpus, chosen.gpu_rate))
        for name, images, per_shard in SETS
        for form in forms
        for gpus in GPUS
    ]
    _print_needs(console, needs, start, chosen.gpu_rate)
    return {
        "rates": {name: timing.rate for name, timing in timings.items()},
        "ratios": {f"{a} / {b}": timings[a].faster_than(timings[b]) for a, b in PAIRS},
        "differences": differences,
        "first_batches": [first._asdict() for first in firsts],
        "shuffle": qualities,
        "start": asdict(start),
        "needs": [one._asdict() for one in needs],
    }


def _stored_forms(bench: Bench, timings: dict[str, Timing]) -> list[Stored]:
    """Bytes per image on disk and images per second and core of the two ways that are planned with."""
    found = []
    for address, encoding, variant in ((bench.jpeg, "jpeg", "jpeg dct"), (bench.raw, "raw", "raw")):
        manifest = load_manifest(address)
        form = next(form for form in manifest.forms if form.encoding == encoding)
        split = manifest.splits["train"]
        size = sum(split.shards[form.name].bytes) / split.examples
        found.append(Stored(f"{form.name} ({variant})", size, timings[variant].rate))
    return found


def _qualities() -> list[dict[str, float]]:
    """Windows of a set of 256 shards of 100 examples, a thousand classes, batches of 256."""
    labels = np.random.Generator(np.random.Philox(1)).integers(1000, size=256 * SHARD)
    found = []
    for window, lanes in ((1, 1), (4, 1), (16, 1), (64, 1), (256, 1), (4, 8), (16, 8)):
        order = ExampleOrder([SHARD] * 256, seed=0, stage="benchmark", window=window, lanes=lanes)
        found.append({"window": window, "lanes": lanes, **quality_of(order, labels, 256, epochs=4)._asdict()})
    return found


def _print_rates(console: Console, timings: dict[str, Timing]) -> None:
    rates = Table("way through the shards", "images/s", title="Reading")
    for name, timing in timings.items():
        rates.add_row(name, f"{timing.rate:,.0f}")
    ratios = Table("what", "against", "times as fast", "least to most", title="Ratios")
    for name, against in PAIRS:
        median, least, most = timings[name].faster_than(timings[against])
        ratios.add_row(name, against, f"{median:.3g}", f"{least:.3g} to {most:.3g}")
    console.print(rates, ratios)


def _print_differences(console: Console, differences: dict[str, dict[str, float]]) -> None:
    table = Table("decode", "mean |difference|", "largest", "FID", title="Against Pillow's bicubic, 8-bit values")
    for name, row in differences.items():
        cells = (f"{row[key]:.3g}" if key in row else "" for key in ("mean", "largest", "fid"))
        table.add_row(name, *cells)
    console.print(table)


def _print_firsts(console: Console, firsts: Sequence[Any]) -> None:
    table = Table("step", "ms", title="From opening a data set of 1,000 shards to the first batch at a step")
    for first in firsts:
        table.add_row(str(first.step), f"{1000 * first.seconds:.1f}")
    console.print(table)


def _print_qualities(console: Console, qualities: Sequence[dict[str, float]]) -> None:
    table = Table("window", "lanes", "together", "spread", title="Shuffle of 256 shards; 1 is a full permutation")
    for row in qualities:
        table.add_row(f"{row['window']:g}", f"{row['lanes']:g}", f"{row['together']:.2f}", f"{row['spread']:.2f}")
    console.print(table)


def _print_needs(console: Console, needs: Sequence[Need], start: Measured, rate: float) -> None:
    title = f"Reckoned, not run: {rate:g} images/s per GPU, 8 GPUs per node, windows of 16 shards, a lane per node"
    names = ("set", "form", "GPUs", "images/s", "cores/node", "MB/s node", "GB/s store", "window GB", "set GB")
    table = Table(*names, "manifest MB", "start s", "epoch h", title=title)
    for one in needs:
        table.add_row(one.set_name, one.form, *(f"{value:,.3g}" for value in one[2:]))
    console.print(table)
    console.print(f"a million shards: order of the first batch {start.order_seconds:.2f} s")


if __name__ == "__main__":
    restart_with_huge_pages()  # as a process has them that trains
    sys.exit(main())
