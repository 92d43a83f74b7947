"""What an experiment would cost, before anything is started: ``rayfall plan``.

Of the data set its manifest is read, where there is one; to find that of a source of images the source is identified,
which lists a folder and reads an archive once.

GPU-hours are FLOPs over (a GPU's dense bf16 peak times a utilisation that the reader states): a reckoning, no
measurement. Sizes on disk are those of the manifest where the data set exists, else bounds from raw pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.dag import stored
from pipeline.data.datasets import MANIFEST_PART, data_place
from pipeline.data.drawn import CLASSES
from pipeline.data.forms import form_for
from pipeline.data.manifest import MANIFEST_NAME, Manifest, load_manifest
from pipeline.data.specs import SHARD_SIZE, DrawnData, ShardData, absolute
from pipeline.errors import UserError
from pipeline.experiment_spec import Experiment
from pipeline.machines import GPUS, Machine
from pipeline.nodes import Nodes
from pipeline.objects import open_objects
from pipeline.storage import open_storage

if TYPE_CHECKING:
    from stages.accounting import Cost


@dataclass(frozen=True)
class DataFacts:
    """The data set as far as it matters to a plan."""

    train: int
    classes: int
    shards: int
    bytes_per_image: float  # of the largest stored form
    exact: bool  # from a manifest; else bytes are those of raw pixels, an upper bound
    bytes_read: Mapping[int, float] = field(default_factory=dict)  # for an image of a stage's size, from its form
    forms: Mapping[int, tuple[str, int]] = field(default_factory=dict)  # encoding and px of that form, where known


@dataclass(frozen=True)
class StagePlan:
    """What one stage costs; FLOPs count a multiply-add as two."""

    size: int
    parameters: int
    forward_gflops: float  # per image
    training_gflops: float  # per image, forward and backward
    activation_gib: float  # of what one worker works on at once: its share of the batch, or a micro-batch of it
    state_gib: float  # weights, gradients, averages and optimizer moments on one worker
    checkpoint_gib: float
    batch_per_worker: int  # the largest share, where the fewest workers are there
    epochs: float
    gpu_hours: float
    hours: float  # on the most workers of the experiment
    images_per_second: float  # of one worker
    read_mb_per_second: float  # of one worker
    net_calls: int  # to draw one image at this stage alone
    sampling_gpu_hours: float  # of all images that the final evaluation draws, this stage alone


def reckon(experiment: Experiment, machine: Machine) -> dict[str, Any]:
    """Figures of every stage and their sums, as plain values. Raises UserError where the data set is not described."""
    data = data_facts(experiment)
    stages = {name: stage_plan(experiment, name, machine, data) for name in experiment.names}
    return {
        "gpu": f"{machine.gpu}, {GPUS[machine.gpu].tflops:g} TFLOP/s at {machine.utilisation:.0%}",
        "workers": experiment.resources.most_workers,
        "plan": {name: asdict(plan) for name, plan in stages.items()},
        "data": asdict(data),
        "training_gpu_hours": sum(plan.gpu_hours for plan in stages.values()),
        "sampling_gpu_hours": sum(plan.sampling_gpu_hours for plan in stages.values()),
    }


def stage_cost(experiment: Experiment, name: str, data: DataFacts) -> Cost:
    """Parameters, FLOPs and memory of one stage. Its net is built on fake tensors: seconds, however large it is."""
    from stages.accounting import cost_of
    from stages.stage import Stage

    stage = Stage.build(experiment.stage_spec(name, data.classes))
    return cost_of(stage, experiment.stages[name].training, recompute=experiment.resources.recompute)


def stage_plan(
    experiment: Experiment, name: str, machine: Machine, data: DataFacts, cost: Cost | None = None
) -> StagePlan:
    """The plan of one stage, which ``cost`` spares counting it when it is known already."""
    cost = cost or stage_cost(experiment, name, data)
    config, resources = experiment.stages[name], experiment.resources
    training, sampling = config.training, config.sampling
    pieces = -(-training.most_workers // resources.fewest_workers)
    share = min(training.batch_size, pieces * (training.micro_batch or 1))
    seconds = machine.seconds(cost.training_flops * training.batch_size * training.steps)
    rate = 1.0 / machine.seconds(cost.training_flops)
    calls = sampling.net_calls
    drawn = machine.seconds(cost.forward_flops * calls * images_drawn(experiment, name, data.train))
    averages = 0 if training.averages is None else len(training.averages.widths)
    return StagePlan(
        size=config.size,
        parameters=cost.parameters,
        forward_gflops=cost.forward_flops / 1e9,
        training_gflops=cost.training_flops / 1e9,
        activation_gib=cost.activation_bytes * min(share, training.micro_batch or share) / 2**30,
        state_gib=4 * cost.parameters * (5 + averages) / 2**30,
        checkpoint_gib=cost.checkpoint_bytes / 2**30,
        batch_per_worker=share,
        epochs=training.steps * training.batch_size / data.train,
        gpu_hours=seconds / 3600,
        hours=seconds / 3600 / resources.most_workers,
        images_per_second=rate,
        read_mb_per_second=rate * data.bytes_read.get(config.size, data.bytes_per_image) / 1e6,
        net_calls=calls,
        sampling_gpu_hours=drawn / 3600,
    )


def images_drawn(experiment: Experiment, name: str, train: int) -> int:
    """Images that the final evaluation draws of a stage: chained, with the oracle, and to train a classifier on.

    Those of a search come on top; how many depends on what its trials share.
    """
    evaluation = experiment.evaluation
    oracle = 0 if experiment.below(name) is None else evaluation.held_out_images
    cas = 0 if evaluation.cas is None else evaluation.cas.images or train
    kept = evaluation.samples if evaluation.keep_samples else 0
    cascades = sum(name in chain for chain in experiment.chains.values())  # each draws sets of its own
    return evaluation.samples + oracle + cascades * (cas + kept)


def data_facts(experiment: Experiment) -> DataFacts:
    """What is known of the data set: its manifest where it exists, else what the experiment expects of it."""
    data, manifest = experiment.data, _manifest(experiment)
    if manifest is not None:
        split = manifest.splits["train"]
        sizes = {form.name: sum(split.shards[form.name].bytes) / split.examples for form in manifest.forms}
        reduction = data.reduction if isinstance(data, ShardData) else "box"
        forms = {stage.size: form_for(manifest, stage.size, reduction) for stage in experiment.stages.values()}
        read = {size: sizes[form.name] for size, form in forms.items()}
        stored_as = {size: (form.encoding, form.size) for size, form in forms.items()}
        largest = sizes[manifest.forms[0].name]
        return DataFacts(split.examples, len(manifest.classes), len(split.counts), largest, True, read, stored_as)
    if isinstance(data, DrawnData):
        return DataFacts(data.train, len(CLASSES), math.ceil(data.train / SHARD_SIZE), 3.0 * data.size**2, False)
    if data.expects is None:
        where = data.location
        raise UserError(
            f"data: {where} has not been ingested, so its size is not known; say what it will be, as in "
            "expects: {train: 1281167, classes: 1000}"
        )
    side = max(stage.size for stage in experiment.stages.values()) if isinstance(data, ShardData) else data.size
    expects = data.expects
    return DataFacts(expects.train, expects.classes, math.ceil(expects.train / SHARD_SIZE), 3.0 * side**2, False)


def _manifest(experiment: Experiment) -> Manifest | None:
    """The manifest of the experiment's data set, None while there is no data set.

    A data set in an object store of which it is said what to expect is not looked for: a plan needs no credentials.
    """
    data = experiment.data
    if not isinstance(data, DrawnData) and data.expects is not None and "://" in data.location:
        return None
    if isinstance(data, ShardData):
        there = open_objects(absolute(data.path)).size(MANIFEST_NAME) is not None
        return load_manifest(absolute(data.path)) if there else None
    if not isinstance(data, DrawnData) and not Path(data.location).expanduser().exists():
        return None
    found = stored(Nodes(experiment).data, open_storage(experiment.store))
    return load_manifest(data_place(found.part(*MANIFEST_PART)).address) if found else None
