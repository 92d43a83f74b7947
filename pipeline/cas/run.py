"""One worker's part of training the classifier and of testing it. Knows nothing of Ray.

As in training a stage (`pipeline.stage_run`), the commit log is the only truth about a checkpoint and every draw is
keyed by global step and position, so a run that was killed and goes on repeats itself: bit for bit with one or two
workers on CPUs. With more than one the gradients of all are averaged, each example weighing the same. *Batch norms
use the statistics of each worker's own examples*, as in the published protocol, whose workers held 32 to 128 each:
so unlike elsewhere the number of workers changes the result by more than rounding: it is digested, and it may not
change within a run. The running statistics, which testing uses, are those of the first worker.

Every validation image is tested once, in blocks dealt out to all workers; the counts of right answers are added up.
The test comes after the last step and never before: nothing is chosen by it. A step whose loss or gradient is not
finite ends the training before the next commit, so no weights of after it are ever tested or resumed from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.cas.augmentation import augmented, centre
from pipeline.cas.checkpoints import load_state, save_state
from pipeline.cas.networks import build_net, parameter_groups
from pipeline.cas.spec import CasSpec
from pipeline.commits import CommitLog, Entry
from pipeline.dag import Progress
from pipeline.data.batches import StepBatches, step_batches
from pipeline.data.datasets import open_examples
from pipeline.data.loading import Examples
from pipeline.data.ordering import ExampleOrder, Indices
from pipeline.data.sharing import positions_of_rank
from pipeline.errors import UserError
from pipeline.history import read_history
from pipeline.leases import this_process
from pipeline.post_mortem import Inquest
from pipeline.preemption import Announced, CommitTimes, nothing
from pipeline.ranks import Ranks
from pipeline.results import Place, folder_of
from pipeline.shortages import memory_of_cas, shortages_named
from pipeline.step_window import StepWindow
from pipeline.storage import open_storage
from pipeline.worker_settings import WorkerSettings
from stages.images import to_float
from stages.optimizers import SGD
from stages.randomness import KeyedDraws
from stages.training import StepReport

TEST_BLOCK = 250  # validation images that the net sees at once
TOP = 5

Report = Callable[[Entry | None], None]


@dataclass(frozen=True, kw_only=True)
class CasSettings(WorkerSettings):
    """What a worker needs to know."""

    spec: dict[str, Any]
    size: int  # of the images, px
    train: Place  # result that holds the training images: a data node's, or a sample set's
    val: Place  # the data node's result: real images to test on


class CasRun:
    """One worker's part; a process group is used if there is more than one worker.

    ``local_world`` of the ``world`` workers are on this node and share its cache. Raises UserError for data sets of
    different classes.
    """

    def __init__(
        self, settings: CasSettings, *, rank: int, world: int, device: torch.device | str, local_world: int = 1
    ) -> None:
        self.settings, self.ranks, self.device = settings, Ranks(rank, world, device), torch.device(device)
        self.spec = spec = CasSpec.model_validate(settings.spec)
        self.cache = settings.shard_cache()
        self.examples = settings.training_images(settings.train, settings.size, self.cache)
        self.tested = open_examples(folder_of(settings.val), "val", size=settings.size, keep_bytes=0)
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
        with self._shortages_named():
            self.net = net.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model: Any = self.net
        self.optimizer = SGD(parameter_groups(self.net, spec.weight_decay), lr=0.0, momentum=spec.momentum)
        storage = open_storage(settings.storage, known=True)
        self.commits = CommitLog(storage, settings.run, owner=this_process(), clock=time.time)
        self.inquest = Inquest(storage, settings.run, "the classification accuracy score", spec.seed, self.batches)
        self.window = StepWindow(self.ranks)
        self.history: list[dict[str, float]] = []
        self.step, self.seconds = 0, 0.0

    def resume(self) -> None:
        """Take the run over and go on from its newest whole commit."""
        number = 0
        if self.ranks.is_first:
            self.commits.take_over()
            found = self.commits.latest_whole()
            number = found[0].number if found else 0
        number = int(self.ranks.from_first(number))
        if number:
            entry = self.commits.entries()[number - 1]  # what rank 0 chose, also when another appears meanwhile
            folder = self.commits.fetch(entry)
            load_state(folder, self.net, self.optimizer)
            self.history = read_history(folder)
            self.step, self.seconds = entry.info["step"], entry.info["seconds"]
        if self.ranks.world > 1:
            self.model = torch.nn.parallel.DistributedDataParallel(self.net)

    def advance(self, pixels: Tensor, labels: Tensor) -> None:
        """One optimizer step, with the other ranks, on this one's images uint8 (P, S, S, 3) and labels (P,)."""
        spec = self.spec
        images = to_float(pixels.to(self.device, non_blocking=True))
        images = augmented(images, spec, self.draws, self.step, self.positions)
        rate = spec.rate_at(self.step * spec.batch_size / self.images)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        logits = self._logits(self.model, images)
        loss = F.cross_entropy(logits, labels.to(self.device, non_blocking=True), reduction="sum") / spec.batch_size
        self.optimizer.zero_grad(set_to_none=True)
        (loss * self.ranks.world).backward()  # the mean over ranks, which follows, is then the sum of their parts
        norm = nn.utils.get_total_norm([one.grad for one in self.net.parameters() if one.grad is not None])
        self.window.add(StepReport(loss.detach(), norm, rate))
        self.optimizer.step()
        self.step += 1

    def _logits(self, net: Any, images: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.spec.precision == "bf16"):
            logits: Tensor = net(images.contiguous(memory_format=torch.channels_last))
        return logits.float()

    def train(self, report: Report, announced: Announced = nothing) -> None:
        """Step until done, test, commit; ``report(entry)`` is called by every rank after each commit.

        ``announced()`` is asked by every rank, equally often: whether a node is to be taken away. Raises
        FloatingPointError, before a commit, where a loss or a gradient is not finite.
        """
        steps, processes = range(self.step, self.steps), self.settings.loader_processes
        batches = step_batches(self.batches, steps, processes=processes, pin=self.device.type == "cuda")
        with self._shortages_named(), self.cache, closing(batches) as read:
            self._train_on(read, report, announced)

    def _train_on(self, read: Iterator[tuple[Tensor, Tensor]], report: Report, announced: Announced) -> None:
        settings = self.settings
        progress = Progress(self.commits.storage, settings.progress if self.ranks.is_first else None)
        times, started, before = CommitTimes(settings.checkpoint_seconds), time.monotonic(), self.seconds
        while self.step < self.steps:
            self.advance(*next(read))
            if self.step % settings.log_every and self.step < self.steps:
                continue
            loss = self.inquest.mean_loss(self.window, self.step, self.history)
            self.window = StepWindow(self.ranks)
            self.history.append({"step": self.step, "loss": loss})
            progress(self.step, self.steps)
            done = self.step == self.steps
            due = done or times.due(announced())
            if self.ranks.from_first(float(due)):
                accuracy = self.test() if done else {}
                self.seconds = before + time.monotonic() - started
                times.begun()
                with times.writing():
                    report(self.commit(accuracy) if self.ranks.is_first else None)

    def _shortages_named(self) -> AbstractContextManager[None]:
        memory = memory_of_cas(self.spec, workers=self.ranks.world, device=str(self.device))
        folders = [self.settings.storage, self.settings.cache]
        return shortages_named("evaluation.cas", memory=memory, folders=folders)

    @torch.inference_mode()
    def test(self) -> dict[str, float | None]:
        """Top-1 and top-5 accuracy on all validation images, each seen once; top-5 None with fewer than 6 classes."""
        self.net.eval()
        if self.ranks.world > 1:
            for buffer in self.net.buffers():  # since the last step each worker has running statistics of its own
                dist.broadcast(buffer, src=0)
        right = torch.zeros(2, dtype=torch.int64, device=self.device)
        for start in range(self.ranks.rank * TEST_BLOCK, len(self.tested), self.ranks.world * TEST_BLOCK):
            pixels, labels = self.tested.read(np.arange(start, min(start + TEST_BLOCK, len(self.tested))))
            images = to_float(torch.from_numpy(pixels).to(self.device))
            logits = self._logits(self.net, centre(images, self.spec.side(self.settings.size)))
            ranked = logits.topk(min(TOP, logits.shape[1]), dim=1).indices
            hits = ranked == torch.from_numpy(labels).to(self.device)[:, None]
            right += torch.stack([hits[:, 0].sum(), hits.sum()])
        self.net.train()
        top1, top5 = (count / len(self.tested) for count in self.ranks.summed(right).tolist())
        return {"cas_top1": top1, "cas_top5": top5 if len(self.examples.classes) > TOP else None}

    def commit(self, accuracy: Mapping[str, float | None]) -> Entry:
        """Save the state and publish it as the next entry of the log; ``accuracy`` marks the last one."""
        with self.commits.filling(f"step-{self.step}") as (name, folder):
            save_state(folder, self.net, self.optimizer)
            (folder / "history.json").write_text(json.dumps(self.history))
        info: dict[str, Any] = {"step": self.step, "seconds": self.seconds, "images": self.images}
        info |= {"workers": self.ranks.world, "device": self.device.type}
        entry = self.commits.commit(name, {**info, **accuracy, "final": bool(accuracy)})
        self.commits.prune()
        return entry


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
