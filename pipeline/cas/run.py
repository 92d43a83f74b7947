"""One worker's part of training the classifier and of testing it. Knows nothing of Ray.

As in training a stage (`pipeline.stage_run`), the commit log is the only truth about a checkpoint and every draw is
keyed by global step and position, so a run that was killed and goes on repeats itself: bit for bit with one or two
workers on CPUs. With more than one the gradients of all are averaged, each example weighing the same. *Batch norms
use the statistics of each worker's own examples*, as in the published protocol, whose workers held 32 to 128 each:
so unlike elsewhere the number of workers changes the result by more than rounding: it is digested, and it may not
change within a run. The running statistics, which testing uses, are those of the first worker.

Every validation image is tested once, in blocks dealt out to all workers; the counts of right answers are added up.
The test comes after the last step and never before: nothing is chosen by it.
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

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pipeline.cas.augmentation import augmented, centre
from pipeline.cas.checkpoints import load_state, save_state
from pipeline.cas.networks import build_net, parameter_groups
from pipeline.cas.spec import CasSpec
from pipeline.commits import CommitLog, Entry
from pipeline.dag import Progress
from pipeline.data.batches import StepBatches, step_batches
from pipeline.data.cache import ShardCache
from pipeline.data.datasets import open_examples
from pipeline.data.loading import Examples
from pipeline.data.ordering import ExampleOrder, Indices
from pipeline.data.sharing import positions_of_rank
from pipeline.errors import UserError
from pipeline.history import read_history
from pipeline.storage import open_storage
from stages.images import to_float
from stages.randomness import KeyedDraws

KEEP = 2  # newest commits whose files stay
TEST_BLOCK = 250  # validation images that the net sees at once
TOP = 5

Report = Callable[[Entry | None], None]


@dataclass(frozen=True)
class CasSettings:
    """What a worker needs to know; plain data that travels in Ray's config dict."""

    spec: dict[str, Any]
    size: int  # of the images, px
    train: str  # result that holds the training images: a data node's, or a sample set's
    val: str  # the data node's result: real images to test on
    shuffle: dict[str, int]  # window and lanes
    storage: str
    run: str  # prefix of the run's commit log
    threads: int
    loader_processes: int
    cache: str
    cache_gb: float
    cache_users: int  # trainings that may run at once on a node
    log_every: int
    checkpoint_seconds: float
    progress: str | None


class CasRun:
    """One worker's part; a process group is used if there is more than one worker.

    ``local_world`` of the ``world`` workers are on this node and share its cache. Raises UserError for data sets of
    different classes.
    """

    def __init__(
        self, settings: CasSettings, *, rank: int, world: int, device: torch.device | str, local_world: int = 1
    ) -> None:
        self.settings, self.rank, self.world, self.device = settings, rank, world, torch.device(device)
        self.spec = spec = CasSpec.model_validate(settings.spec)
        self.cache = ShardCache(Path(settings.cache), int(settings.cache_gb * 1e9))
        keep = {"keep_bytes": 0} if settings.loader_processes else {}
        self.examples = open_examples(Path(settings.train), "train", size=settings.size, cache=self.cache, **keep)
        self.tested = open_examples(Path(settings.val), "val", size=settings.size, keep_bytes=0)
        _refuse_other_classes(self.examples, self.tested)
        counts = counts_of_first(self.examples.counts, spec.images)
        self.images = int(counts.sum())
        self.steps = spec.steps(self.images)
        order = ExampleOrder(counts, seed=spec.seed, stage="cas", **settings.shuffle)
        self.batches = StepBatches(
            self.examples, order, spec.batch_size, positions_of_rank(spec.batch_size, rank, world)
        )
        self.batches.share_cache(settings.cache_users * (local_world if order.lanes > 1 else 1))
        self.positions = torch.from_numpy(self.batches.positions).to(self.device)
        self.draws = KeyedDraws(spec.seed, "cas augmentation")
        side = spec.side(settings.size)
        net = build_net(spec.net, classes=len(self.examples.classes), side=side, seed=spec.seed)
        self.net = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: Any = self.net
        self.optimizer = torch.optim.SGD(parameter_groups(self.net, spec.weight_decay), lr=0.0, momentum=spec.momentum)
        owner = f"{os.uname().nodename}:{os.getpid()}"
        self.commits = CommitLog(open_storage(settings.storage), settings.run, owner=owner, clock=time.time)
        self.history: list[dict[str, float]] = []
        self.step, self.seconds = 0, 0.0

    def resume(self) -> None:
        """Take the run over and go on from its newest whole commit."""
        number = 0
        if self.rank == 0:
            self.commits.take_over()
            found = self.commits.latest_whole()
            number = found[0].number if found else 0
        number = int(self._from_rank_zero(number))
        if number:
            entry = self.commits.entries()[number - 1]  # what rank 0 chose, also when another appears meanwhile
            folder = self.commits.storage.path(f"{self.settings.run}/{entry.folder}")
            load_state(folder, self.net, self.optimizer)
            self.history = read_history(folder)
            self.step, self.seconds = entry.info["step"], entry.info["seconds"]
        if self.world > 1:
            self.model = torch.nn.parallel.DistributedDataParallel(self.net)

    def advance(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """One optimizer step on this rank's images uint8 (P, S, S, 3) and labels (P,), together with the other ranks.

        Returns this rank's part of the mean loss of the global batch.
        """
        spec = self.spec
        images = to_float(pixels.to(self.device, non_blocking=True))
        images = augmented(images, spec, self.draws, self.step, self.positions)
        rate = spec.rate_at(self.step * spec.batch_size / self.images)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self._logits(self.model, images)
        loss = F.cross_entropy(logits, labels.to(self.device, non_blocking=True), reduction="sum") / spec.batch_size
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.world).backward()  # the mean over ranks, which follows, is then the sum of their parts
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def _logits(self, net: Any, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
            logits: Tensor = net(images.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def train(self, report: Report) -> None:
        """Step until done, test, commit; ``report(entry)`` is called by every rank after each commit."""
        steps, processes = range(self.step, self.steps), self.settings.loader_processes
        batches = step_batches(self.batches, steps, processes=processes, pin=self.device.type == "cuda")
        with self.cache, closing(batches) as read:
            self._train_on(read, report)

    def _train_on(self, read: Iterator[tuple[Tensor, Tensor]], report: Report) -> None:
        settings = self.settings
        progress = Progress(Path(settings.progress) if settings.progress and self.rank == 0 else None)
        window: list[Tensor] = []
        committed = started = time.monotonic()
        before = self.seconds
        while self.step < self.steps:
            window.append(self.advance(*next(read)))
            if self.step % settings.log_every and self.step < self.steps:
                continue
            self.history.append({"step": self.step, "loss": self._mean_loss(window)})
            window = []
            progress(self.step, self.steps)
            done = self.step == self.steps
            due = done or time.monotonic() - committed > settings.checkpoint_seconds
            if self._from_rank_zero(float(due)):
                accuracy = self.test() if done else {}
                self.seconds = before + time.monotonic() - started
                report(self.commit(accuracy) if self.rank == 0 else None)
                committed = time.monotonic()

    def _mean_loss(self, window: list[Tensor]) -> float:
        """The mean loss of the steps in ``window``. Raises FloatingPointError where it is not finite."""
        loss = float(self._sum_over_ranks(torch.stack(window).mean()))
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss of the classification accuracy score is {loss} at step {self.step}")
        return loss

    @torch.inference_mode()
    def test(self) -> dict[str, float | None]:
        """Top-1 and top-5 accuracy on all validation images, each seen once; top-5 None with fewer than 6 classes."""
        self.net.eval()
        if self.world > 1:
            for buffer in self.net.buffers():  # since the last step each worker has running statistics of its own
                dist.broadcast(buffer, src=0)
        right = torch.zeros(2, dtype=torch.int64, device=self.device)
        for start in range(self.rank * TEST_BLOCK, len(self.tested), self.world * TEST_BLOCK):
            pixels, labels = self.tested.read(np.arange(start, min(start + TEST_BLOCK, len(self.tested))))
            images = to_float(torch.from_numpy(pixels).to(self.device))
            logits = self._logits(self.net, centre(images, self.spec.side(self.settings.size)))
            ranked = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
            hits = ranked == torch.from_numpy(labels).to(self.device)[:, None]
            right += torch.stack([hits[:, 0].sum(), hits.sum()])
        self.net.train()
        top1, top5 = (count / len(self.tested) for count in self._sum_over_ranks(right).tolist())
        return {"cas_top1": top1, "cas_top5": top5 if len(self.examples.classes) > TOP else None}

    def commit(self, accuracy: Mapping[str, float | None]) -> Entry:
        """Save the state and publish it as the next entry of the log; ``accuracy`` marks the last one."""
        name, folder = self.commits.new_folder(f"step-{self.step}")
        save_state(folder, self.net, self.optimizer)
        (folder / "history.json").write_text(json.dumps(self.history))
        info: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "images": self.images}
        info |= {"workers": self.world, "device": self.device.type}
        entry = self.commits.commit(name, {**info, **accuracy, "final": bool(accuracy)})
        self.commits.prune(KEEP)
        return entry

    def _from_rank_zero(self, value: float) -> float:
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def _sum_over_ranks(self, value: Tensor) -> Tensor:
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value


def counts_of_first(counts: Indices, images: int | None) -> Indices:
    """Examples per shard of the first ``images`` examples (None, or more than there are: all), int64."""
    if images is None:
        return counts
    begins = np.cumsum(counts) - counts
    first: Indices = np.clip(images - begins, 0, counts)
    return first[first > 0]


def _refuse_other_classes(train: Examples, val: Examples) -> None:
    if train.classes != val.classes:
        raise UserError(
            f"the images to train on have {len(train.classes)} classes and those to test on {len(val.classes)}, or "
            "other names; draw the samples for the data set that they are tested on"
        )
