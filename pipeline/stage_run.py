"""One worker's part of training a stage: resume from the log, step, commit. Knows nothing of Ray.

Our commit log is the only truth about a checkpoint. Every draw is keyed by global step and position
(``stages.randomness``), so a run that was killed and resumed repeats itself bit for bit, and a checkpoint holds nothing
of how many workers there were: any number goes on from it. Ranks hold shares of a global batch that need not be equal
(``pipeline.data.sharing``); what they measure and their gradients are sums, so each example weighs the same.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.commits import CommitLog, Entry
from pipeline.dag import Progress
from pipeline.data.batches import StepBatches, step_batches
from pipeline.data.cache import ShardCache
from pipeline.data.datasets import open_examples
from pipeline.data.loading import Examples
from pipeline.data.ordering import ExampleOrder
from pipeline.data.sharing import positions_of_rank
from pipeline.history import open_buffer, read_history, replay
from pipeline.snapshots import Snapshots
from pipeline.storage import open_storage
from pipeline.tracking.metric_buffer import MetricBuffer
from pipeline.watching.weights import WatchedWeights
from stages.checkpoints import load_state, save_checkpoint
from stages.images import to_float
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage, parameter_count
from stages.training import Batch, StepReport, TrainState, accumulate_gradients, train_step

KEEP = 2  # newest commits whose files stay; finals always do
STEP, COMMIT, STOP = 0.0, 1.0, 2.0  # what all ranks do next, as rank 0 says it

Report = Callable[[Entry | None, dict[str, float]], None]


@dataclass(frozen=True)
class LoopSettings:
    """What a worker needs to know; plain data that travels in Ray's config dict."""

    stage: dict[str, Any]
    training: dict[str, Any]
    seed: int
    data: str  # the data node's result
    shuffle: dict[str, int]  # window and lanes
    storage: str
    run: str  # prefix of the run's commit log
    threads: int
    loader_processes: int
    cache: str
    cache_gb: float
    cache_users: int  # stages that may be trained at once on a node
    log_every: int
    checkpoint_seconds: float
    progress: str | None
    tracking_uri: str | None
    tracking_run: str | None
    watch_every: int | None = None  # steps from one average that is set aside to be scored to the next
    watch_steps: tuple[int, ...] = ()  # steps whose averages are set aside besides
    stop: str | None = None  # a key of the store: training ends early, after a commit, once it is there
    asked: float | None = None  # when these workers were asked for, in unix time


def sum_over_ranks(bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    """How DistributedDataParallel shall exchange gradients: their sum.

    Its own way is their mean, in which an example of a smaller share would weigh more.
    """
    reduced = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return reduced.then(lambda done: done.value()[0])


class StageRun:
    """One worker's part of training a stage; a process group is used if there is more than one worker.

    ``local_world`` of the ``world`` workers are on this node and share its cache.
    """

    def __init__(
        self, settings: LoopSettings, *, rank: int, world: int, device: torch.device | str, local_world: int = 1
    ) -> None:
        self.settings, self.rank, self.world, self.device = settings, rank, world, device
        self.training = TrainingSpec.model_validate(settings.training)
        self.cache = ShardCache(Path(settings.cache), int(settings.cache_gb * 1e9))
        self.examples = self._open_examples()
        classes = len(self.examples.classes)
        self.stage = Stage.build(StageSpec.model_validate({**settings.stage, "classes": classes}))
        order = ExampleOrder(self.examples.counts, seed=settings.seed, stage=self.stage.spec.name, **settings.shuffle)
        self.state = TrainState.start(self.stage, self.training, settings.seed, device)
        self.model: Any = self.state.net
        positions = positions_of_rank(self.training.batch_size, rank, world, self.training.micro_batch)
        self.batches = StepBatches(self.examples, order, self.training.batch_size, positions)
        # Workers on a node read the same shards in one lane, and each its own where there are more.
        self.batches.share_cache(settings.cache_users * (local_world if order.lanes > 1 else 1))
        storage = open_storage(settings.storage)
        owner = f"{os.uname().nodename}:{os.getpid()}"
        self.commits = CommitLog(storage, settings.run, owner=owner, clock=time.time)
        self.snapshots = Snapshots.of(self.commits, self.training)
        self.watched = WatchedWeights(self.commits, settings.watch_every, tuple(settings.watch_steps))
        self.history: list[dict[str, float]] = []
        self.seconds = 0.0
        self.start_seconds: float | None = None  # from being asked for to the first step

    def resume(self) -> None:
        """Take the run over and go on from its newest whole commit that is not past the asked steps."""
        number = 0
        if self.rank == 0:
            self.commits.take_over()
            found = self.snapshots.latest_checkpoint(lambda step: step <= self.training.steps)
            number = found[0].number if found else 0
        number = int(self._from_rank_zero(number))
        if number:
            # Every rank reads the commit that rank 0 chose, also when another appears meanwhile.
            entry = self.commits.entries()[number - 1]
            folder = self.commits.storage.path(f"{self.settings.run}/{entry.folder}")
            load_state(folder, self.state)
            self.history = read_history(folder)
            self.seconds = entry.info["seconds"]
            if entry.created >= (self.settings.asked or math.inf):  # Ray started these workers again
                self.start_seconds = entry.info.get("start_seconds")
        if self.world > 1:
            self._join_ranks()

    def _join_ranks(self) -> None:
        """Let backward passes end with the sum of all ranks' gradients, always added up in the same order."""
        self.model = torch.nn.parallel.DistributedDataParallel(self.state.net)
        self.model.register_comm_hook(None, lambda _, bucket: sum_over_ranks(bucket))
        # Where a gradient lies in its bucket decides, from three ranks on, in which order it is added up, and buckets
        # are laid out anew after the first backward pass. So one pass is made that counts for nothing: without it the
        # first step after a resumption would differ in its last bits from the same step of a run that went on.
        batch = self.batch(self.state.step)
        accumulate_gradients(
            self.stage, self.state, batch, model=self.model, training=self.training, seed=self.settings.seed
        )
        self.state.optimizer.zero_grad(set_to_none=True)

    def batch(self, step: int) -> Batch:
        """This rank's slice of the global batch of ``step``, read here and now."""
        return self._on_device(*self.batches.read(step))

    def _open_examples(self) -> Examples:
        """The training split at the stage's own size; decoded images are kept where nobody else decodes ahead."""
        settings = self.settings
        keep = {"keep_bytes": 0} if settings.loader_processes else {}
        return open_examples(Path(settings.data), "train", size=settings.stage["size"], cache=self.cache, **keep)

    def _on_device(self, images: torch.Tensor, labels: torch.Tensor) -> Batch:
        # Bytes travel, floats are made where they are needed; from pinned memory nobody waits for the copy.
        pixels = images.to(self.device, non_blocking=True)
        return Batch(
            to_float(pixels), labels.to(self.device, non_blocking=True), torch.from_numpy(self.batches.positions)
        )

    def advance(self, batch: Batch) -> StepReport:
        """One optimizer step, together with the other ranks."""
        seen = train_step(
            self.stage, self.state, batch, model=self.model, training=self.training, seed=self.settings.seed
        )
        if self.rank == 0:
            self.snapshots.store(self.state)
            if self.watched.store(self.state, self.stage.spec, self.training, self.settings.seed):
                self.commits.prune(KEEP)
        return seen

    def train(self, report: Report) -> None:
        """Step until done; ``report(entry, metrics)`` is called by every rank after each commit."""
        steps = range(self.state.step, self.training.steps)
        pin = torch.device(self.device).type == "cuda"
        with (
            self.cache,
            closing(step_batches(self.batches, steps, processes=self.settings.loader_processes, pin=pin)) as read,
        ):
            self._train_on(read, report)

    def _train_on(self, read: Iterator[tuple[torch.Tensor, torch.Tensor]], report: Report) -> None:
        steps, log_every = self.training.steps, self.settings.log_every
        progress = Progress(Path(self.settings.progress) if self.settings.progress and self.rank == 0 else None)
        buffer = self._metric_buffer()
        if buffer is not None:
            replay(buffer, self.history)
        window: list[torch.Tensor] = []
        mark = committed = started = time.monotonic()
        before, waited = self.seconds, 0.0
        while self.state.step < steps:
            asked = time.monotonic()
            batch = next(read)
            waited += time.monotonic() - asked
            seen = self.advance(self._on_device(*batch))
            if self.start_seconds is None and self.settings.asked is not None:
                self.start_seconds = time.time() - self.settings.asked
            window.append(seen.loss)
            now = self.state.step
            if now % log_every and now < steps:
                continue
            metrics = self._measured(seen, window, time.monotonic() - mark, waited)
            window, mark, waited = [], time.monotonic(), 0.0
            self.history.append({"step": now, **metrics})
            if buffer is not None:
                buffer.add(now, metrics)
            progress(now, steps)
            self.seconds = before + time.monotonic() - started
            due = now == steps or time.monotonic() - committed > self.settings.checkpoint_seconds
            what = self._from_rank_zero(STOP if self._is_called_off() else COMMIT if due else STEP)
            if what >= COMMIT:
                if buffer is not None:
                    buffer.flush()
                entry = self.commit(metrics) if self.rank == 0 else None
                report(entry, {"step": float(now), **metrics})
                committed = time.monotonic()
            if what == STOP:
                return

    def _is_called_off(self) -> bool:
        """Whether rank 0 finds the mark that ends training early; the others follow it."""
        stop = self.settings.stop
        return self.rank == 0 and stop is not None and self.commits.storage.exists(stop)

    def _measured(
        self, seen: StepReport, window: list[torch.Tensor], seconds: float, waited: float
    ) -> dict[str, float]:
        """Metrics of the steps whose losses are in ``window``: their number took ``seconds``, of which data ``waited``.

        Raises FloatingPointError when the loss is not finite.
        """
        loss = self._sum_over_ranks(torch.stack(window).mean())
        if not math.isfinite(loss):
            raise FloatingPointError(f"{self.stage.spec.name}: the loss is {loss} at step {self.state.step}")
        return {
            "loss": loss,
            "gradient_norm": float(seen.gradient_norm),
            "learning_rate": seen.learning_rate,
            "images_per_second": len(window) * self.training.batch_size / seconds,
            "data_wait_share": waited / seconds,
        }

    def commit(self, metrics: Mapping[str, float]) -> Entry:
        """Save the state and publish it as the next entry of the log. Raises OwnershipLost for a stale owner."""
        name, folder = self.commits.new_folder(f"step-{self.state.step:08d}")
        save_checkpoint(folder, self.stage.spec, self.training, self.settings.seed, self.state)
        (folder / "history.json").write_text(json.dumps(self.history))
        info = {
            "step": self.state.step,
            "seconds": self.seconds,
            "loss": metrics["loss"],
            "parameters": parameter_count(self.state.net),
            "final": self.state.step == self.training.steps,
            "start_seconds": self.start_seconds,
        }
        entry = self.commits.commit(name, info)
        self.commits.prune(KEEP)
        return entry

    def _metric_buffer(self) -> MetricBuffer | None:
        if self.rank or self.settings.tracking_uri is None or self.settings.tracking_run is None:
            return None
        return open_buffer(self.settings.tracking_uri, self.settings.tracking_run)

    def _from_rank_zero(self, value: float) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def _sum_over_ranks(self, value: torch.Tensor) -> float:
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return float(value)
