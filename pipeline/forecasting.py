"""The forecast of an experiment's trainings: what ``forecast`` is told of its stages, its data and the machines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from pipeline.calibration import Measured, MeasuredStep
from pipeline.data.specs import ShardData
from pipeline.experiment_spec import Experiment
from pipeline.forecast import Load, Rates, efficiency, step_time
from pipeline.machines import GPUS, NETWORK_MICROSECONDS, Cluster, Machine
from pipeline.planning import DataFacts

# Stored pixels that a core turns into tensors in a second, as docs/data.md has them, measured on one core: images of
# 256 px, decoded whole or at a fraction of their size, and of 64 px. That larger images take as much longer as they
# have more pixels is an assumption. PNG and WebP were not measured.
DECODED_PIXELS = {"jpeg, box": 1871 * 256**2, "jpeg, dct": 3141 * 256**2, "raw": 80_646 * 64**2}


def forecast(
    experiment: Experiment, figures: Mapping[str, Any], machine: Machine, cluster: Cluster, measured: Measured
) -> dict[str, Any]:
    """Step times of every stage on each number of GPUs, as plain values; ``figures`` are ``planning.reckon``'s.

    Of a net it needs no more than they say.
    """
    loop, data = measured.loop, DataFacts(**figures["data"])
    stages = {}
    for name, plan in figures["plan"].items():
        load = load_of(experiment, name, plan, data)
        config = experiment.stages[name]
        compiled = experiment.resources.compile
        step = measured.step_for(config.net.kind, config.training.precision, load.flops, machine.gpu, compiled=compiled)
        hidden = 1.0 if loop is None or loop.hidden is None else loop.hidden
        rates = rates_of(machine, cluster, step, 1.0 if loop is None else loop.loop, hidden)
        rows = list(_rows(load, rates, config.training.steps, cluster.gpus))
        stages[name] = {
            "utilisation": machine.utilisation if step is None else step.share,
            "calibration": None if step is None else step.where,
            "calibrated_on": None if step is None else step.gpu,
            "none_fits": step is None and bool(measured.steps),
            "batch": load.batch,
            "rows": rows,
        }
    return {
        "gpu": machine.gpu,
        "gpus_per_node": cluster.gpus_per_node,
        "network_gbit": network_gbit(machine, cluster),
        "link_gb": GPUS[machine.gpu].link,
        "read_mb": cluster.read_mb,
        "loop": None if loop is None else loop.where,
        "stages": stages,
    }


def load_of(experiment: Experiment, name: str, plan: Mapping[str, Any], data: DataFacts) -> Load:
    """What training stage ``name`` asks of a machine; ``plan`` is its part of ``planning.reckon``'s figures."""
    training, resources = experiment.stages[name].training, experiment.resources
    processes = min(resources.loader_processes, max(1, int(resources.cpus_per_worker)))
    per_core = _decoded_per_core(experiment, plan["size"], data)
    return Load(
        flops=plan["training_gflops"] * 1e9,
        parameters=plan["parameters"],
        batch=training.batch_size,
        micro_batch=training.micro_batch,
        averages=0 if training.averages is None else len(training.averages.widths),
        image_bytes=data.bytes_read.get(plan["size"], data.bytes_per_image),
        decoded=max(1, processes) * per_core,
        ahead=processes > 0,
    )


def rates_of(
    machine: Machine, cluster: Cluster, step: MeasuredStep | None = None, loop: float = 1.0, hidden: float = 1.0
) -> Rates:
    """The machine's data sheet and the share of its peak that was measured, else the one that is stated."""
    gpu = GPUS[machine.gpu]
    return Rates(
        flops=gpu.tflops * 1e12 * (machine.utilisation if step is None else step.share),
        memory=gpu.memory * 1e9,
        link=gpu.link * 1e9,
        network=network_gbit(machine, cluster) * 1e9 / 8,
        read=cluster.read_mb * 1e6,
        gpus_per_node=cluster.gpus_per_node,
        link_seconds=gpu.link_microseconds * 1e-6,
        network_seconds=NETWORK_MICROSECONDS * 1e-6,
        loop=loop,
        hidden=hidden,
    )


def network_gbit(machine: Machine, cluster: Cluster) -> float:
    """Of a node, each way, in Gbit/s."""
    return GPUS[machine.gpu].network if cluster.network_gbit is None else cluster.network_gbit


def _decoded_per_core(experiment: Experiment, size: int, data: DataFacts) -> float:
    """Images per second of one core, infinite where no figure says. Shards that are yet to come are taken for JPEG."""
    settings = experiment.data
    reduction = settings.reduction if isinstance(settings, ShardData) else "box"
    largest = max(stage.size for stage in experiment.stages.values())
    assumed = ("jpeg", largest) if isinstance(settings, ShardData) and not data.exact else ("", largest)
    encoding, side = data.forms.get(size, assumed)
    pixels = DECODED_PIXELS.get(f"{encoding}, {reduction}" if encoding == "jpeg" else encoding)
    return math.inf if pixels is None else pixels / side**2


def _rows(load: Load, rates: Rates, steps: int, numbers: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """For each number of GPUs its figures, or why there are none."""
    for gpus in numbers:
        if gpus > load.most_gpus:
            parts = "images" if load.micro_batch is None else f"micro-batches of {load.micro_batch}"
            why = f"impossible: a batch of {load.batch:,} has {load.most_gpus:,} {parts}"
            yield {"gpus": gpus, "impossible": why}
            continue
        found = step_time(load, rates, gpus)
        hours = found.step * steps / 3600
        yield {
            **asdict(found),
            "images_per_second": load.batch / found.step,
            "efficiency": efficiency(load, rates, gpus),
            "hours": hours,
            "gpu_hours": gpus * hours,
        }
