"""How well an order mixes, against a full permutation: what a smaller window costs, in numbers.

Shards are written in a seeded permutation of the source, so even unshuffled reading has mixed classes. What a window
can still do is keep the *same* examples together epoch after epoch. Two figures, each 1 for a full permutation:

- ``together``: how much more often two examples of one batch come from one shard than under a full permutation. It is
  all that a window changes: under a full permutation any two examples are equally likely to share a batch;
- ``spread``: the standard deviation, over batches, of the share of the commonest class, against that of batches drawn
  from a full permutation of the labels: what the gradient sees.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.ordering import ExampleOrder


class Quality(NamedTuple):
    """See the module; 1 is a full permutation."""

    together: float
    spread: float


def quality_of(order: ExampleOrder, labels: npt.NDArray[np.int64], batch_size: int, epochs: int = 2) -> Quality:
    """Measure ``order`` over ``epochs`` with batches of ``batch_size``; ``labels`` (N,) in the order of the shards."""
    shard_of = np.repeat(np.arange(len(order.counts)), order.counts)
    steps = epochs * order.examples // batch_size
    batches = np.stack([order.of_step(step, batch_size) for step in range(steps)])
    common = int(np.bincount(labels).argmax())
    full = np.random.Generator(np.random.Philox(0)).permutation(np.tile(np.arange(order.examples), epochs))
    fair = full[: steps * batch_size].reshape(steps, batch_size)
    return Quality(
        together=_pairs_of_one_shard(shard_of[batches]) / _expected_pairs(order.counts),
        spread=float((labels[batches] == common).mean(1).std() / (labels[fair] == common).mean(1).std()),
    )


def _pairs_of_one_shard(shards: npt.NDArray[np.int64]) -> float:
    """The share of pairs within a batch (rows) that come from one shard."""
    batch = shards.shape[1]
    pairs = 0
    for row in shards:
        counts = np.unique(row, return_counts=True)[1]
        pairs += int((counts * (counts - 1)).sum())
    return pairs / (len(shards) * batch * (batch - 1))


def _expected_pairs(counts: npt.NDArray[np.int64]) -> float:
    """The same share under a full permutation."""
    total = int(counts.sum())
    return float((counts * (counts - 1)).sum() / (total * (total - 1)))
