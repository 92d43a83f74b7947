"""``python -m pipeline.benchmark pipelining``: a set of samples by a line of actors, or by whole chains.

The same set of a cascade of two stages is drawn by one worker, by two workers that each draw whole chains, and by a
line of two actors, one per stage. Variants take turns; times are of the clock, and of drawing and writing alone: what
starting the line takes is told beside them. A line of one actor per stage takes at least as large a share of one
worker's time as the slower stage has of the FLOPs, so one half at best, which two workers come near to whatever the
stages cost. ``--base-steps`` puts the stages out of balance.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.benchmarks.sweep_inputs import give_weights, swept_experiment
from pipeline.cas.dealing import drawing_flops
from pipeline.cas.pipelined import Line, stage_line
from pipeline.cas.sample_sets import Drawing, sample_jobs
from pipeline.cluster import ray_cluster
from pipeline.dag import stored
from pipeline.data.drawn import CLASSES
from pipeline.data.manifest import Form
from pipeline.data.writing import write_shards
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment_spec import Experiment
from pipeline.fan_out import on_ray
from pipeline.nodes import Nodes
from pipeline.results import folder_of
from pipeline.storage import Storage, open_storage
from stages.benchmarks.timing import Timing

ONE, TWO, LINE = "one worker", "two workers", "a line of two actors"
PAIRS = ((TWO, ONE), (LINE, ONE), (LINE, TWO))
SHARD_BLOCKS = 4
KEEP_IDLE = "RAY_idle_worker_killing_time_threshold_ms"


def add_pipelining_options(parser: argparse.ArgumentParser) -> None:
    """What the command line may say about this part."""
    parser.add_argument("--samples", type=int, default=2048, help="images of the set")
    parser.add_argument("--block", type=int, default=64, help="images of a canonical block")
    parser.add_argument("--base-steps", type=int, default=8, help="sampler steps of the base; 8 balance the stages")
    parser.add_argument("--channels", type=int, default=64, help="of the nets")
    parser.add_argument("--repeats", type=int, default=5)


def measure_pipelining(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed at the end; one thread per process."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of workers and actors, which inherit it
    # Else Ray ends those that have nothing to do for a second, and whoever needs one again waits until torch is there.
    os.environ[KEEP_IDLE] = "600000"
    with tempfile.TemporaryDirectory(prefix="rayfall-") as name, ray_cluster(None):
        folder = Path(name)
        drawing = _drawing(folder / "store", chosen)
        work = [drawing_flops(*one) for one in zip(map(folder_of, drawing.stages), drawing.sampling, strict=True)]
        begun = time.perf_counter()
        with stage_line(drawing, (1, 1), gpus=0.0, name="benchmark") as line:
            start = time.perf_counter() - begun
            found = _take_turns(drawing, line, folder, chosen)
    figures = {**found, "start_seconds": start, "flops": work, "largest_share": max(work) / sum(work)}
    _print(Console(width=140), figures, drawing.names)
    return figures


def _drawing(store: Path, chosen: argparse.Namespace) -> Drawing:
    """Of two stages that learned nothing; what is drawn is noise, and costs what images cost."""
    settings = {"samples": chosen.samples, "base_steps": chosen.base_steps, "channels": chosen.channels}
    experiment = swept_experiment(store, 2, **settings, block=chosen.block)
    storage = open_storage(experiment.store)
    execute([Nodes(experiment).data], storage, Silence(), use_ray=False)
    return Drawing(
        names=experiment.names,
        stages=tuple(_weights(experiment, name, storage, number) for number, name in enumerate(experiment.names)),
        sampling=tuple(stage.sampling for stage in experiment.stages.values()),
        seed=0,
        block=chosen.block,
        precision="f32",
        device="cpu",
        threads=1,
    )


def _weights(experiment: Experiment, name: str, storage: Storage, seed: int) -> Path:
    give_weights(experiment, name, storage, seed=seed)
    result = stored(Nodes(experiment, trial=True).train(name), storage)
    assert result is not None, "weights were committed"
    return result.folder


def _take_turns(drawing: Drawing, line: Line, folder: Path, chosen: argparse.Namespace) -> dict[str, Any]:
    """Seconds of every variant, after a round that is not counted, and the busy shares of the actors.

    Tasks of all variants hold no CPUs: those are the line's, which has nothing to do while others draw.
    """
    ways = {
        ONE: (None, on_ray(cpus=0.0, at_most=1)),
        TWO: (None, on_ray(cpus=0.0, at_most=2)),
        LINE: (line, line.writers(SHARD_BLOCKS)),
    }
    forms = tuple(Form(size=size, encoding="png", quality=None) for size in (16, 8))
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    busy, sets, names = list[list[float]](), [], list(ways)
    for repeat in range(chosen.repeats + 1):
        turn = repeat % len(names)
        for name in (*names[turn:], *names[:turn]):
            drawer, fan_out = ways[name]
            objects = open_storage(folder / "sets").objects(f"{repeat}-{names.index(name)}")
            labels = np.arange(len(CLASSES))
            jobs = list(sample_jobs(objects.address, forms, drawing, labels, chosen.samples, SHARD_BLOCKS, drawer))
            before, begun = line.busy(), time.perf_counter()
            sets.append(write_shards(objects, jobs, 0, fan_out, None))
            took = time.perf_counter() - begun
            if repeat:
                seconds[name].append(took)
            if repeat and name == LINE:
                busy.append([(b[0] - a[0]) / took for a, b in zip(before, line.busy(), strict=True)])
    timings = {name: Timing(tuple(found)) for name, found in seconds.items()}
    return {
        "seconds": seconds,
        "ratios": {f"{one} / {other}": timings[one].share_of(timings[other]) for one, other in PAIRS},
        "busy": [statistics.median(shares) for shares in zip(*busy, strict=True)],
        "same": all(one == sets[0] for one in sets),
    }


def _print(console: Console, figures: Mapping[str, Any], stages: tuple[str, ...]) -> None:
    table = Table("drawn by", "seconds", "least to most", title="One set of samples of a cascade of two stages")
    for name, seconds in figures["seconds"].items():
        table.add_row(name, f"{statistics.median(seconds):.2f}", f"{min(seconds):.2f} to {max(seconds):.2f}")
    ratios = Table("time of", "median", "least to most", title="Ratios, by repetition")
    for name, (median, least, most) in figures["ratios"].items():
        ratios.add_row(name, f"{median:.3f}", f"{least:.3f} to {most:.3f}")
    console.print(table, ratios)
    shares = ", ".join(f"{name} {share:.0%}" for name, share in zip(stages, figures["busy"], strict=True))
    console.print(f"actors at work: {shares}; the line took {figures['start_seconds']:.1f} s to start", highlight=False)
    console.print(
        f"the slower stage has {figures['largest_share']:.3f} of the FLOPs: a line can take no smaller share of one "
        f"worker's time; all sets {'are the same' if figures['same'] else 'DIFFER'}, byte for byte",
        highlight=False,
    )
