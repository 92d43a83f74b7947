"""``python -m pipeline.benchmark sweep``: what a sweep of truncation levels costs beside as many separate evaluations.

Both run the same code on one actor of one thread, in stores of their own that share data, weights, classifiers and
real statistics (``sweep_inputs``). With P the seconds of the stages below and R those of the swept one,
a sweep of K levels is to cost (P + K R) / (K (P + R)) of K evaluations, and its images are to be theirs, byte for byte.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pipeline.benchmarks.sweep_inputs import fresh_store, one_level, prepare, swept_experiment
from pipeline.cluster import ray_cluster
from pipeline.dag import stored
from pipeline.experiment import with_settings
from pipeline.experiment_spec import Experiment
from pipeline.nodes import Nodes
from pipeline.search.budget import Ledger, prefix_of
from pipeline.search.choice import best_of
from pipeline.search.proposals import proposals_of, with_drawn_lists
from pipeline.search.spec import listed
from pipeline.search.trials import targets_of
from pipeline.storage import open_storage
from pipeline.sweep.actors import ActorPool
from pipeline.sweep.run import Sweep
from pipeline.sweep.sharing import Costs, counted, of_stage

BOUND = 1.10  # times what is reckoned from P and R


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """What the command line may say about this part."""
    parser.add_argument("--levels", type=int, default=8, help="K, the truncation levels of the swept stage")
    parser.add_argument("--samples", type=int, default=256, help="images per level")
    parser.add_argument("--base-steps", type=int, default=48, help="sampler steps of the base stage")
    parser.add_argument("--channels", type=int, default=32, help="of the nets")
    parser.add_argument("--repeats", type=int, default=3, help="sweeps and separate evaluations, alternating")
    parser.add_argument("--concurrency", type=int, default=2, help="actors of the search of three stages")


def measure_sweep(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come; one thread per process."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the actors, which inherit it
    console = Console(width=140)
    settings = {"levels": chosen.levels, "samples": chosen.samples, "base_steps": chosen.base_steps}
    settings |= {"channels": chosen.channels}
    with tempfile.TemporaryDirectory() as folder, ray_cluster(None):
        two = swept_experiment(Path(folder) / "two", 2, **settings)
        prepare(two)
        found = _against_separate(two, chosen.repeats, Path(folder), console)
        three = swept_experiment(Path(folder) / "three", 3, **settings)
        prepare(three)
        rounds = _round_by_round(three, chosen.concurrency)
    _print_rounds(console, rounds)
    return {**found, "rounds": rounds}


def swept(experiment: Experiment, pool: ActorPool, stage: str, fixed: dict[str, Any]) -> tuple[dict[str, Any], float]:
    """One round of the search at ``stage``: its result, and its CPU seconds in actors and here."""
    search = experiment.search
    assert search is not None, "the benchmark has a search section"
    paths = [path for path in search.space if path.split(".")[1] == stage]
    cpu, here = pool.cpu, time.process_time()
    storage = open_storage(experiment.store)
    ledger = Ledger(storage, prefix_of(experiment, search), search.budget, experiment.resources)
    sweep = Sweep(
        with_drawn_lists(experiment), stage, paths, fixed, proposals_of(search, paths), storage, pool, ledger,
        lambda done, total: None,
    )  # fmt: skip
    found = sweep.run()
    assert all(point["status"] == "finished" for point in found["points"]), found["points"][0]["error"]
    return found, pool.cpu - cpu + time.process_time() - here


def _against_separate(experiment: Experiment, repeats: int, folder: Path, console: Console) -> dict[str, Any]:
    """Sweeps and separate evaluations in turn, and whether they came to the same."""
    last, pool = experiment.last, ActorPool(1, {"CPU": 1.0})
    path, values = _levels(experiment)
    swept(one_level(fresh_store(experiment, folder / "first"), path, values[0]), pool, last, {})  # libraries are loaded
    rows, same = [], True
    for number in range(repeats):
        together = fresh_store(experiment, folder / f"sweep-{number}")
        found, cpu = swept(together, pool, last, {})
        alone = [
            one_level(fresh_store(experiment, folder / f"alone-{number}-{value}"), path, value) for value in values
        ]
        separate = [swept(one, pool, last, {}) for one in alone]
        same = same and all(same_images(together, one, {path: value}) for one, value in zip(alone, values, strict=True))
        seconds = seconds_of(together, alone, {path: values})
        rows.append(_row(seconds, found["sharing"]["wall_seconds"], cpu, separate))
    pool.close()
    figures = {
        "levels": len(values),
        "rows": rows,
        "ratio": statistics.median(row["sweep"] / row["separate"] for row in rows),
        "cpu_ratio": statistics.median(row["sweep_cpu"] / row["separate_cpu"] for row in rows),
        "reckoned": statistics.median(row["reckoned"] for row in rows),
        "same": same,
    }
    _print_ratios(console, figures)
    return figures


def _levels(experiment: Experiment) -> tuple[str, list[float]]:
    """The path of the last stage's level, and the values that its search lists."""
    assert experiment.search is not None, "the benchmark has a search section"
    path = f"stages.{experiment.last}.sampling.level"
    return path, listed(experiment.search.space[path])


def seconds_of(
    together: Experiment, alone: Sequence[Experiment], swept_values: Mapping[str, Sequence[float]]
) -> tuple[float, float]:
    """P and R of one run: means over all that was computed in it, in the store of the sweep and in those of its own."""
    ((path, values),) = swept_values.items()
    below, rest = {}, []
    for experiments in ([together] * len(values), alone):
        for experiment, value in zip(experiments, values, strict=True):
            changed = with_settings(with_drawn_lists(experiment), {path: value})
            nodes, costs = counted(targets_of(changed, changed.last)), Costs(open_storage(changed.store))
            own = costs.of(of_stage(nodes, changed.last))
            rest.append(own)
            below[changed.store] = costs.of(nodes) - own
    return statistics.mean(below.values()), statistics.mean(rest)


def _row(
    seconds: tuple[float, float], wall: float, cpu: float, separate: Sequence[tuple[dict[str, Any], float]]
) -> dict[str, float]:
    """P and R, the seconds of the sweep and of the separate evaluations, and the share that is reckoned."""
    (below, rest), count = seconds, len(separate)
    return {
        "P": below,
        "R": rest,
        "sweep": wall,
        "separate": sum(one["sharing"]["wall_seconds"] for one, _ in separate),
        "sweep_cpu": cpu,
        "separate_cpu": sum(spent for _, spent in separate),
        "reckoned": (below + count * rest) / (count * (below + rest)),
    }


def same_images(one: Experiment, other: Experiment, settings: Mapping[str, Any]) -> bool:
    """Whether the last stage's images came out the same in two stores: every array that was measured of them."""
    folders = []
    for experiment in (one, other):
        changed = with_settings(with_drawn_lists(experiment), settings)
        result = stored(Nodes(changed, trial=True).chained(changed.last), open_storage(changed.store))
        assert result is not None, "what was swept is stored"
        folders.append(result.folder)
    names = {path.name for path in folders[0].glob("*.npy")}
    assert "features-classifier.npy" in names, "features were measured"
    return names == {path.name for path in folders[1].glob("*.npy")} and all(
        np.load(folders[0] / name).tobytes() == np.load(folders[1] / name).tobytes() for name in names
    )


def _round_by_round(experiment: Experiment, concurrency: int) -> list[dict[str, Any]]:
    """A stagewise search of all stages on a new pool of ``concurrency`` actors: what each swept stage saved."""
    pool, fixed, rows = ActorPool(concurrency, {"CPU": 1.0}), dict[str, Any](), []
    for stage in experiment.names[1:]:
        found, _ = swept(experiment, pool, stage, fixed)
        fixed |= found["points"][best_of(found["points"])]["settings"]
        rows.append({"stage": stage, **found["sharing"], "shared": found["shared"]})
    pool.close()
    return rows


def _print_ratios(console: Console, figures: Mapping[str, Any]) -> None:
    title = f"{figures['levels']} truncation levels of a two-stage cascade: one sweep, and as many evaluations alone"
    names = ("P s", "R s", "sweep s", "separate s", "ratio", "CPU ratio", "(P + K R) / (K (P + R))")
    table = Table(*names, title=title)
    for row in figures["rows"]:
        ratios = (row["sweep"] / row["separate"], row["sweep_cpu"] / row["separate_cpu"], row["reckoned"])
        cells = [f"{row[key]:.2f}" for key in ("P", "R", "sweep", "separate")]
        table.add_row(*cells, *(f"{ratio:.3f}" for ratio in ratios))
    console.print(table)
    limit = BOUND * figures["reckoned"]
    console.print(
        f"median ratio {figures['ratio']:.3f} (of CPU seconds {figures['cpu_ratio']:.3f}), at most {limit:.3f} wanted: "
        f"{'met' if figures['ratio'] <= limit else 'missed'}; all levels' images "
        f"{'are those' if figures['same'] else 'are NOT those'} of the separate evaluations, byte for byte"
    )


def _print_rounds(console: Console, rounds: Sequence[Mapping[str, Any]]) -> None:
    names = ("swept stage", "trials", "shared s", "trials s", "separate s", "saved", "wall s", "busy")
    table = Table(*names, title="A stagewise sweep of three stages, actors started for it")
    for row in rounds:
        saved = row["saved_seconds"] / row["separate_seconds"]
        seconds = [f"{row[f'{key}_seconds']:.2f}" for key in ("shared", "trial", "separate")]
        busy = "-" if row["busy_share"] is None else f"{row['busy_share']:.0%}"
        table.add_row(row["stage"], str(row["trials"]), *seconds, f"{saved:.0%}", f"{row['wall_seconds']:.2f}", busy)
    console.print(table)
    for row in rounds:
        console.print(f"{row['stage']}: {row['shared']}", highlight=False)
