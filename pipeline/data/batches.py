"""The batches of a training, step by step, read ahead by other processes. The order is `pipeline.data.ordering`'s.

A batch is a function of its step alone, so steps are all that a loader needs to hand out: any number of processes,
any step to begin at, the same batches.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Generator
from functools import partial
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.data.loading import Examples
from pipeline.data.ordering import ExampleOrder, Indices
from pipeline.errors import UserError

_READ_AHEAD = 4  # batches that every process has ready
_WINDOWS_AHEAD = 2  # how far shards are fetched before they are read


class StepBatches:
    """One worker's part of the global batch of every step: images uint8 (P, S, S, 3), labels int64 (P,).

    ``positions`` int64 (P,) are the places in the global batch of ``batch_size`` that the worker holds.
    """

    def __init__(self, examples: Examples, order: ExampleOrder, batch_size: int, positions: Indices) -> None:
        self.examples, self.order = examples, order
        self.batch_size, self.positions = batch_size, positions

    def read(self, step: int) -> tuple[Tensor, Tensor]:
        """The batch of one step. Raises UserError for a shard that cannot be read, by name."""
        images, labels = self.examples.read(self.order.of_step(step, self.batch_size, self.positions))
        return torch.from_numpy(images), torch.from_numpy(labels)

    def share_cache(self, users: int) -> None:
        """Use a ``users``-th of the examples' cache. Raises UserError when it cannot hold what is read side by side."""
        self.examples.share_cache(self.order.most_at_once(self.batch_size, self.positions), users)

    def prefetch(self, step: int, stop: int) -> None:
        """Begin to bring the shards of a step to this node, then those of the windows after it, up to step ``stop``."""
        ahead = range(step, min(stop, step + _WINDOWS_AHEAD * self.steps_per_window))
        needed, later = (
            self.order.shards_of_steps(steps, self.batch_size, self.positions) for steps in (ahead[:1], ahead)
        )
        self.examples.prefetch(needed, later)

    @property
    def steps_per_window(self) -> int:
        """About how many steps it takes to read a window in every lane."""
        shards = min(self.order.window * self.order.lanes, len(self.order.counts))
        return max(1, self.order.examples * shards // len(self.order.counts) // self.batch_size)


def step_batches(batches: StepBatches, steps: range, *, processes: int, pin: bool) -> Generator[tuple[Tensor, Tensor]]:
    """The batches of ``steps`` in order, decoded ahead by ``processes`` (0: here, when they are asked for).

    ``pin`` puts them into pinned memory, from which a GPU copies while it computes. Raises UserError as reading does,
    and RuntimeError when a process was killed. The processes end with the iteration, also one that is given up, and
    with this process, also one that is killed.
    """
    batches.prefetch(steps.start, steps.stop)  # while the processes start
    found_by_step = iter(_loader(batches, steps, processes, pin))
    every = max(1, batches.steps_per_window // 2)
    try:
        for number, step in enumerate(steps):
            if number and number % every == 0:
                batches.prefetch(step, steps.stop)
            try:
                found = next(found_by_step)
            except (ConnectionError, EOFError) as error:  # a batch lies with the process that read it until it is taken
                raise RuntimeError("a process that reads batches ahead is gone; was memory short?") from error
            if isinstance(found, UserError):
                raise found
            images, labels = found
            yield images, labels
    finally:
        del found_by_step  # here and not when somebody lets go of the traceback: this ends the processes


def _loader(batches: StepBatches, steps: range, processes: int, pin: bool) -> DataLoader[Any]:
    if not processes:
        return DataLoader(_Told(batches), sampler=steps, batch_size=None, pin_memory=pin)
    # Forked from a process with threads (Ray's worker, CUDA) a child may hang. The fork server has none; it is started
    # once and imports torch once, so that the processes it forks can read at once.
    multiprocessing.set_forkserver_preload([__name__])
    return DataLoader(
        _Told(batches),
        sampler=steps,
        batch_size=None,
        pin_memory=pin,
        num_workers=processes,
        prefetch_factor=_READ_AHEAD,
        multiprocessing_context="forkserver",
        worker_init_fn=partial(_begin_process, dict(os.environ)),
    )


class _Told(Dataset[Any]):
    """Batches by step, with a UserError in the place of one that cannot be read: raised in another process it would
    come back wrapped in a traceback. For the same reason they are opened there when the first one is asked for."""

    def __init__(self, batches: StepBatches) -> None:
        self._batches: StepBatches | None = batches
        self._sent = b""

    def __getstate__(self) -> dict[str, Any]:
        return {"_batches": None, "_sent": pickle.dumps(self._batches)}

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor] | UserError:
        try:
            if self._batches is None:
                self._batches = pickle.loads(self._sent)
            return self._batches.read(step)
        except UserError as error:
            return error


def _begin_process(environment: dict[str, str], _: int) -> None:
    """In a process that was forked by the fork server: what it would have inherited from the one that asked for it."""
    os.environ.clear()
    os.environ.update(environment)  # as it is now, and not when the server was started: credentials may be new
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """Torch looks whether the process's own parent is alive, but that is the fork server, which in turn lives as long
    as what it forked: after a kill both would wait for each other for ever."""
    parent.join()
    os._exit(1)
