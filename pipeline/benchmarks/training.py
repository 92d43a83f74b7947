"""``python -m pipeline.benchmark training``: what the loop on Ray adds to the bare step, and what two share.

The loop reads shards, logs, looks for notices and commits; the bare loop takes the same step on one batch that lies
ready, in a process of its own with as many threads. Two workers that train one stage are compared with two trainings of
one worker each at the same time, and so are two bare loops that begin each step together, or share gradients, with two
that know nothing of each other: what of it is Ray's, and what the machine's. Variants take turns; each is seconds per
image, of the median window of logged steps. The exchange of gradients is measured alone, too: ``rayfall plan
--measured`` works out of it how much is hidden, of a net of several buckets such as ``wide``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.benchmarks.bare_loops import IN_STEP, SHARING, SIDE_BY_SIDE, WORLDS, bare_rate, exchange_seconds
from pipeline.calibration import BARE, BOTH, ONE, TWO
from pipeline.cluster import ray_cluster
from pipeline.dag import stored
from pipeline.data.drawn import CLASSES
from pipeline.events import Silence
from pipeline.execution import execute
from pipeline.experiment_spec import Experiment
from pipeline.forecast import BUCKET_BYTES, NUMBER_BYTES
from pipeline.history import read_history
from pipeline.nodes import Nodes
from pipeline.storage import open_storage
from stages.benchmarks.timing import Timing
from stages.specs import StageSpec
from stages.stage import Stage, parameter_count

SIZE = 32
NETS: Mapping[str, Mapping[str, Any]] = {
    "small": {"kind": "unet", "channels": 64, "multipliers": [1, 2, 2], "blocks": 2, "attention": [8]},
    "wide": {"kind": "unet", "channels": 128, "multipliers": [1, 2, 2], "blocks": 2, "attention": [8]},
    "tiny": {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8},
}
# What is a share of what: time per image of the first over that of the second.
PAIRS = ((ONE, BARE), (TWO, BOTH), (IN_STEP, SIDE_BY_SIDE), (SHARING, SIDE_BY_SIDE))


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """What the command line may say about this part."""
    parser.add_argument("--net", choices=list(NETS), default="small")
    parser.add_argument("--batch", type=int, default=8, help="images a worker sees in a step")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=5, help="steps of a window, which ends with a line of the log")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=["f32", "bf16"], default="bf16")


def measure_training(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come."""
    with tempfile.TemporaryDirectory(prefix="rayfall-") as folder, ray_cluster(None):
        variants = (ONE, BARE, TWO, BOTH, SIDE_BY_SIDE, IN_STEP, SHARING)
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        names = list(seconds)
        parameters, exchanges = _parameters(chosen), []
        for repeat in range(chosen.repeats):
            meeting = Path(folder) / f"exchange-{repeat}"
            exchanges.append(exchange_seconds(parameters, BUCKET_BYTES // NUMBER_BYTES, meeting))
            for name in (*names[repeat % len(names) :], *names[: repeat % len(names)]):
                seconds[name].append(1.0 / _rate(name, Path(folder), repeat, chosen))
    timings = {name: Timing(tuple(found)) for name, found in seconds.items()}
    ratios = {f"{one} / {other}": timings[one].share_of(timings[other]) for one, other in PAIRS}
    _print(timings, ratios, statistics.median(exchanges))
    return {
        "device": {"type": "cpu", "name": f"{platform.machine()} CPU"},  # workers of these experiments ask for no GPU
        "net": chosen.net,
        "batch": chosen.batch,
        "precision": chosen.precision,
        "parameters": parameters,
        "rates": {name: timing.rate for name, timing in timings.items()},
        "ratios": ratios,
        "all_reduce_seconds": exchanges,
    }


def _rate(name: str, folder: Path, repeat: int, chosen: argparse.Namespace) -> float:
    """Images per second of one variant, all its workers together."""
    if name in WORLDS:
        training = {"steps": chosen.steps, "batch_size": chosen.batch, "precision": chosen.precision}
        return bare_rate(name, _stage(chosen), training, chosen.every, folder / f"{name} {repeat}")
    store, seeds = folder / "store", (2 * repeat, 2 * repeat + 1) if name == BOTH else (2 * repeat,)
    workers = 2 if name == TWO else 1
    experiments = [training_experiment(store / name, workers, seed=seed, chosen=chosen) for seed in seeds]
    nodes = [Nodes(experiment).train("base") for experiment in experiments]
    storage, found = open_storage(store / name), 0.0
    execute(nodes, storage, Silence(), use_ray=True)
    for node in nodes:
        result = stored(node, storage)
        assert result is not None
        found += _median_rate(read_history(result.folder))
    return found


def training_experiment(store: Path, workers: int, *, seed: int, chosen: argparse.Namespace) -> Experiment:
    """One stage, with checkpoints far apart."""
    stage = {
        "size": SIZE,
        "net": dict(NETS[chosen.net]),
        "training": {"steps": chosen.steps, "batch_size": chosen.batch * workers, "precision": chosen.precision},
    }
    return Experiment.model_validate(
        {
            "name": "training",
            "seed": seed,
            "data": {"kind": "drawn", "size": SIZE, "train": 2000, "val": 32},
            "stages": {"base": stage},
            "evaluation": {"samples": 16, "reference": 32, "held_out": 8},
            "resources": {"workers": workers, "log_every": chosen.every, "checkpoint_seconds": 1e6},
            "store": str(store),
        }
    )


def _stage(chosen: argparse.Namespace) -> dict[str, Any]:
    return {"name": "base", "size": SIZE, "classes": len(CLASSES), "net": NETS[chosen.net]}


def _parameters(chosen: argparse.Namespace) -> int:
    return parameter_count(Stage.build(StageSpec.model_validate(_stage(chosen))).new_net())


def _median_rate(history: Sequence[Mapping[str, float]]) -> float:
    """Of a training's windows after the first, in which it warms up."""
    return statistics.median(entry["images_per_second"] for entry in history[1:])


def _print(timings: Mapping[str, Timing], ratios: Mapping[str, Sequence[float]], exchange: float) -> None:
    table = Table("training", "images/s")
    for name, timing in timings.items():
        table.add_row(name, f"{timing.rate:.2f}")
    shares = Table("time per image of", "median", "least to most")
    for name, (median, least, most) in ratios.items():
        shares.add_row(name, f"{median:.3f}", f"{least:.3f} to {most:.3f}")
    Console(width=140).print(table, shares, f"gradients exchanged among two, alone: {1000 * exchange:.1f} ms")
