"""A driver with a Ray cluster of its own, whose training workers tests kill: it trains stages with a group of workers.

A line of JSON on standard input is one training: the settings of ``LoopSettings``, and in ``ledger`` a file in which
each worker notes what it reads. Where Ray gave up, it is begun anew, as by the same command again. How often it was
begun is answered when it is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

WORKERS = 2


def loop(config: dict[str, Any], worker: Any) -> None:
    """``train_loop`` with a ledger: of each step that is read the examples, the worker and who is rank 0 of its group.

    Sent by value, so it imports what it needs."""
    from ray.train.collective import broadcast_from_rank_zero

    from pipeline.data.batches import StepBatches
    from pipeline.training import train_loop

    whole, file, group = StepBatches.read, config.pop("ledger"), broadcast_from_rank_zero(os.getpid())

    def read(self: Any, step: int) -> Any:
        examples = self.order.of_step(step, self.batch_size, self.positions).tolist()
        placed = dict(zip(self.positions.tolist(), examples, strict=True))
        row = {"group": group, "step": step, "examples": placed}  # by their position in the global batch
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, (json.dumps(row) + "\n").encode())
        os.close(handle)
        return whole(self, step)

    StepBatches.read = read  # type: ignore[method-assign]
    train_loop(config, worker)


def train(told: dict[str, Any]) -> int:
    """How often the training was begun until it was done."""
    from ray.train import TrainingFailedError

    from pipeline.commits import CommitLog
    from pipeline.storage import open_storage
    from pipeline.train_workers import run_workers

    storage = open_storage(told["storage"])
    commits = CommitLog(storage, told["run"], owner="driver", clock=time.time)
    context = {"workers": WORKERS, "cpus_per_worker": 1.0, "checkpoint_seconds": told["checkpoint_seconds"]}
    place = storage.ray_address("ray-train")
    for number in range(1, 100):
        try:
            run_workers(loop, told, context=context, commits=commits, name="sr", place=place)
            return number
        except TrainingFailedError as error:
            print(error, file=sys.stderr)
    raise AssertionError("it does not end")


def main() -> None:
    import ray

    options = {"include_dashboard": True, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=WORKERS, num_gpus=0, object_store_memory=100 << 20, **options)
    print("ready", flush=True)
    for line in sys.stdin:
        print(train(json.loads(line)), flush=True)
    ray.shutdown()


if __name__ == "__main__":
    main()
