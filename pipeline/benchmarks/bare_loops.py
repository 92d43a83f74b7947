"""The bare step in processes of their own, without Ray: alone, two side by side, two in step, two that share gradients.

Two that begin each step together lose what the slower of the two takes longer, step for step, however little they say
to each other: where the two cores are not alike at every moment no training of two workers can be faster.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ALONE, SIDE_BY_SIDE = "bare loop", "two bare loops"
IN_STEP, SHARING = "two bare loops in step", "two bare loops that share gradients"
WORLDS = {ALONE: 1, SIDE_BY_SIDE: 2, IN_STEP: 2, SHARING: 2}

LOOP = """
import json, sys, time, torch, torch.distributed as dist
from stages.processor import prepare_processor
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage
from stages.training import Batch, TrainState, train_step
told = json.loads(sys.argv[1])
prepare_processor(1)
stage, training = Stage.build(StageSpec.model_validate(told["stage"])), TrainingSpec.model_validate(told["training"])
state, size = TrainState.start(stage, training, 0), training.batch_size
batch = Batch(torch.rand(size, 3, 32, 32) * 2 - 1, torch.arange(size) % stage.spec.classes, torch.arange(size))
model = state.net
if told["meeting"]:
    dist.init_process_group("gloo", init_method="file://" + told["meeting"], rank=told["rank"], world_size=2)
if told["share"]:
    from pipeline.ranks import sum_over_ranks
    model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    model.register_comm_hook(None, lambda _, bucket: sum_over_ranks(bucket))
rates, mark = [], time.monotonic()
while state.step < training.steps:
    if told["meeting"] and not told["share"]:
        dist.barrier()
    train_step(stage, state, batch, model=model, training=training, seed=0)
    if state.step % told["every"] == 0:
        rates.append(told["every"] * size / (time.monotonic() - mark))
        mark = time.monotonic()
if told["meeting"]:
    dist.destroy_process_group()
print(json.dumps(rates))
"""

EXCHANGE = """
import json, sys, time, torch, torch.distributed as dist
told = json.loads(sys.argv[1])
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + told["meeting"], rank=told["rank"], world_size=2)
buckets, seconds = torch.zeros(told["numbers"]).split(told["bucket"]), []
for _ in range(told["rounds"]):
    dist.barrier()
    mark = time.monotonic()
    for bucket in buckets:
        dist.all_reduce(bucket)
    seconds.append(time.monotonic() - mark)
dist.destroy_process_group()
print(json.dumps(seconds))
"""


def bare_rate(name: str, stage: Mapping[str, Any], training: Mapping[str, Any], every: int, meeting: Path) -> float:
    """Images per second of the loops called ``name`` together, each by its median window of ``every`` steps after the
    first. ``meeting`` is a file that is not there yet."""
    together = name in (IN_STEP, SHARING)
    told = {"stage": dict(stage), "training": dict(training), "every": every, "share": name == SHARING}
    found = _told_by(LOOP, {**told, "meeting": str(meeting) if together else None}, WORLDS[name])
    return sum(statistics.median(rates[1:]) for rates in found)


def exchange_seconds(numbers: int, bucket: int, meeting: Path) -> float:
    """Of so many float32 numbers among two processes that do nothing else, in buckets of so many."""
    told = {"meeting": str(meeting), "numbers": numbers, "bucket": bucket, "rounds": 20}
    return statistics.median(_told_by(EXCHANGE, told, 2)[0])


def _told_by(code: str, told: Mapping[str, Any], world: int) -> list[list[float]]:
    """What each of ``world`` processes that run ``code`` at once prints last."""
    started = [
        subprocess.Popen([sys.executable, "-c", code, json.dumps({**told, "rank": rank})], stdout=subprocess.PIPE)
        for rank in range(world)
    ]
    printed = []
    try:
        for process in started:
            printed.append(process.communicate()[0])
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, "a bare loop")
    finally:
        for process in started:
            process.kill()  # what waits for one that is gone; the others have ended
    return [json.loads(lines) for lines in printed]
