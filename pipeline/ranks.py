"""The workers of one training, as each of them knows the others. Where there is one, nobody is asked anything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This worker is number ``rank`` of ``world``, which have a process group if they are several."""

    rank: int
    world: int
    device: torch.device | str

    @property
    def is_first(self) -> bool:
        """Whether this worker is the one that writes: commits, progress, metrics."""
        return self.rank == 0

    def from_first(self, value: float) -> float:
        """What the first worker says, whatever the others do. All ask at the same time."""
        if self.world == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def summed(self, value: Tensor) -> Tensor:
        """The sum of what all workers have. All ask at the same time."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value


def sum_over_ranks(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """How DistributedDataParallel shall exchange gradients: their sum.

    Its own way is their mean, in which an example of a smaller share would weigh more.
    """
    reduced = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return reduced.then(lambda done: done.value()[0])
