"""One worker's part of training a stage: resume from the log, step, commit. Knows nothing of Ray.

Our commit log is the only truth about a checkpoint. Every draw is keyed by global step and position
(``stages.randomness``), so a run that was killed and resumed repeats itself bit for bit, and a checkpoint holds nothing
of how many workers there were: any number goes on from it. Ranks hold shares of a global batch that need not be equal
(``pipeline.data.sharing``); what they measure and their gradients are sums, so each example weighs the same.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from functools import partial
from typing import Any

import torch

from pipeline.called_nets import called_net, graphs_named
from pipeline.commits import CommitLog, Entry
from pipeline.dag import Progress
from pipeline.data.batches import StepBatches, step_batches
from pipeline.data.ordering import ExampleOrder
from pipeline.data.sharing import positions_of_rank
from pipeline.history import history_points, read_history
from pipeline.kept_states import KeptStates
from pipeline.leases import this_process
from pipeline.post_mortem import Inquest
from pipeline.preemption import Announced, CommitTimes, nothing
from pipeline.ranks import Ranks, sum_over_ranks
from pipeline.shortages import memory_of_stage, shortages_named
from pipeline.step_window import StepWindow
from pipeline.storage import open_storage
from pipeline.tracking.journal import Journal
from pipeline.tracking.metric_buffer import MetricBuffer
from pipeline.watching.weights import WatchedWeights
from pipeline.worker_settings import LoopSettings
from pipeline.writing import BesideTraining
from stages.checkpoints import load_state
from stages.images import to_float
from stages.recomputing import recompute_from
from stages.specs import StageSpec, TrainingSpec
from stages.stage import Stage, parameter_count
from stages.training import Batch, TrainState, accumulate_gradients, positions_for, train_step

STEP, COMMIT, STOP = 0.0, 1.0, 2.0  # what all ranks do next, as rank 0 says it

Report = Callable[[Entry | None, dict[str, float]], None]


class StageRun:
    """One worker's part of training a stage; a process group is used if there is more than one worker.

    ``local_world`` of the ``world`` workers are on this node and share its cache.
    """

    def __init__(
        self, settings: LoopSettings, *, rank: int, world: int, device: torch.device | str, local_world: int = 1
    ) -> None:
        self.settings, self.ranks, self.device = settings, Ranks(rank, world, device), device
        self.training = TrainingSpec.model_validate(settings.training)
        self.cache = settings.shard_cache()
        self.examples = settings.training_images(settings.data, settings.stage["size"], self.cache)
        classes = len(self.examples.classes)
        self.stage = Stage.build(StageSpec.model_validate({**settings.stage, "classes": classes}))
        order = ExampleOrder(self.examples.counts, seed=settings.seed, stage=self.stage.spec.name, **settings.shuffle)
        with self._shortages_named():
            self.state = TrainState.start(self.stage, self.training, settings.seed, device)
        recompute_from(self.state.net, settings.recompute)
        self.model: Any = called_net(self.state.net, settings.compile)
        positions = positions_of_rank(self.training.batch_size, rank, world, self.training.micro_batch)
        self.positions = positions_for(device, torch.from_numpy(positions))
        self.batches = StepBatches(self.examples, order, self.training.batch_size, positions)
        # Workers on a node read the same shards in one lane, and each its own where there are more.
        self.batches.share_cache(settings.cache_users * (local_world if order.lanes > 1 else 1))
        storage = open_storage(settings.storage, known=True)
        self.commits = CommitLog(storage, settings.run, owner=this_process(), clock=time.time)
        self.inquest = Inquest(storage, settings.run, self.stage.spec.name, settings.seed, self.batches)
        watched = WatchedWeights(self.commits, settings.watch_every, tuple(settings.watch_steps))
        self.kept = KeptStates(self.commits, self.stage.spec, self.training, settings.seed, watched)
        self.history: list[dict[str, float]] = []
        self.window = StepWindow(self.ranks)
        self.writer = BesideTraining()
        self.seconds = 0.0
        self.start_seconds: float | None = None  # from being asked for to the first step

    def resume(self) -> None:
        """Take the run over and go on from its newest whole commit that is not past the asked steps."""
        number = 0
        if self.ranks.is_first:
            self.commits.take_over()
            found = self.kept.snapshots.latest_checkpoint(lambda step: step <= self.training.steps)
            number = found[0].number if found else 0
        number = int(self.ranks.from_first(number))
        if number:
            # Every rank reads the commit that rank 0 chose, also when another appears meanwhile.
            entry = self.commits.entries()[number - 1]
            folder = self.commits.fetch(entry)
            load_state(folder, self.state)
            self.history = read_history(folder)
            self.seconds = entry.info["seconds"]
            if entry.created >= (self.settings.asked or math.inf):  # Ray started these workers again
                self.start_seconds = entry.info.get("start_seconds")
        if self.ranks.world > 1:
            with self._shortages_named(), graphs_named():
                self._join_ranks()

    def _join_ranks(self) -> None:
        """Let backward passes end with the sum of all ranks' gradients, always added up in the same order."""
        self.model = torch.nn.parallel.DistributedDataParallel(self.model, gradient_as_bucket_view=True)
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

    def _on_device(self, images: torch.Tensor, labels: torch.Tensor) -> Batch:
        # Bytes travel, floats are made where they are needed; from pinned memory nobody waits for the copy.
        pixels = images.to(self.device, non_blocking=True)
        return Batch(to_float(pixels), labels.to(self.device, non_blocking=True), self.positions)

    def advance(self, batch: Batch) -> None:
        """One optimizer step, together with the other ranks."""
        told: dict[str, Any] = {"model": self.model, "training": self.training, "seed": self.settings.seed}
        self.window.add(train_step(self.stage, self.state, batch, **told))
        if (averages := self.kept.averages_due(self.state)) and not self.window.gradients_are_finite():
            self.check_sound()
        if self.ranks.is_first:
            for copy in averages:
                self.writer.begin(copy)

    def train(self, report: Report, announced: Announced = nothing) -> None:
        """Step until done; ``report(entry, metrics)`` is called by every rank when a commit was begun.

        The entry is rank 0's newest that is written by then: at the end, and where training is called off, that one.
        ``announced()`` is asked by every rank, equally often: whether a node is to be taken away.
        """
        steps = range(self.state.step, self.training.steps)
        pin = torch.device(self.device).type == "cuda"
        with (
            self._shortages_named(),
            graphs_named(),
            self.cache,
            closing(step_batches(self.batches, steps, processes=self.settings.loader_processes, pin=pin)) as read,
            self._metric_buffer() as buffer,
            self.writer,
        ):
            self._train_on(read, report, announced, buffer)

    def _train_on(
        self,
        read: Iterator[tuple[torch.Tensor, torch.Tensor]],
        report: Report,
        announced: Announced,
        buffer: MetricBuffer | None,
    ) -> None:
        steps, log_every = self.training.steps, self.settings.log_every
        progress = Progress(self.commits.storage, self.settings.progress if self.ranks.is_first else None)
        times = CommitTimes(self.settings.checkpoint_seconds)
        mark = started = time.monotonic()
        before, waited, stood = self.seconds, 0.0, self.writer.waited
        while self.state.step < steps:
            asked = time.monotonic()
            batch = next(read)
            waited += time.monotonic() - asked
            self.advance(self._on_device(*batch))
            if self.start_seconds is None and self.settings.asked is not None:
                self.start_seconds = time.time() - self.settings.asked
            now = self.state.step
            if now % log_every and now < steps:
                continue
            metrics = self._measured(time.monotonic() - mark, waited, self.writer.waited - stood)
            mark, waited, stood = time.monotonic(), 0.0, self.writer.waited
            when = int(1000 * time.time())
            self.history.append({"step": now, "time": when, **metrics})
            if buffer is not None:
                buffer.add(now, metrics, when)
            progress(now, steps)
            self.seconds = before + time.monotonic() - started
            due = now == steps or times.due(announced())
            what = self.ranks.from_first(STOP if self._is_called_off() else COMMIT if due else STEP)
            if what >= COMMIT:
                if buffer is not None:
                    buffer.flush()
                if self.ranks.is_first:
                    self.begin_commit(metrics, times)
                    if now == steps or what == STOP:
                        self.writer.wait()
                report(self.kept.committed, {"step": float(now), **metrics})
            if what == STOP:
                return

    def _shortages_named(self) -> AbstractContextManager[None]:
        name, folders = self.settings.stage["name"], [self.settings.storage, self.settings.cache]
        graphs = self.settings.compile == "graphs"
        memory = memory_of_stage(name, self.training, workers=self.ranks.world, device=str(self.device), graphs=graphs)
        return shortages_named(f"stages.{name}", memory=memory, folders=folders)

    def _is_called_off(self) -> bool:
        """Whether rank 0 finds the mark that ends training early; the others follow it."""
        stop = self.settings.stop
        return self.ranks.is_first and stop is not None and self.commits.storage.exists(stop)

    def check_sound(self) -> None:
        """Raise FloatingPointError if a step since the last look was not finite. All ranks do."""
        self.inquest.require_sound(self.window, self.state.step, self.history)

    def _measured(self, seconds: float, waited: float, stood: float) -> dict[str, float]:
        """Metrics of the steps since the last look, which took ``seconds``: it ``waited`` for data and ``stood`` still
        for commits.

        Raises FloatingPointError when a loss or a gradient is not finite.
        """
        window, self.window = self.window, StepWindow(self.ranks)
        loss = self.inquest.mean_loss(window, self.state.step, self.history)
        return {
            "loss": loss,
            "gradient_norm": float(window.seen[-1].gradient_norm),
            "learning_rate": window.seen[-1].learning_rate,
            "images_per_second": len(window) * self.training.batch_size / seconds,
            "data_wait_share": waited / seconds,
            "commit_wait_share": stood / seconds,
        }

    def begin_commit(self, metrics: Mapping[str, float], times: CommitTimes) -> None:
        """Copy the state and write it beside the training, for which only rank 0 is asked."""
        info = {
            "seconds": self.seconds,
            "loss": metrics["loss"],
            "parameters": parameter_count(self.state.net),
            "start_seconds": self.start_seconds,
        }
        times.begun()
        self.writer.begin(partial(self.kept.checkpoint, self.state, self.history, info, times))

    def _metric_buffer(self) -> AbstractContextManager[MetricBuffer | None]:
        """Where rank 0 leaves its metrics. What it resumes from is told first, be it that this run of MLflow was begun
        under another parent and lacks it; what it has is not written again."""
        if not self.ranks.is_first or self.settings.tracking_run is None:
            return nullcontext()
        journal = Journal(self.commits.storage, self.settings.tracking_run)
        if self.history:
            journal.append(history_points(self.history))
        return MetricBuffer(journal)
