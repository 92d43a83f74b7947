"""Which example each step and each rank reads: pure arithmetic, nothing to save in a checkpoint.

The stream of a stage is the concatenation of its epochs' permutations, and step n reads the slice [n B, (n
+ 1) B) of it, so a step may span two epochs and no example is ever left out. A permutation is the order of
raw Philox 4x64 words under a key hashed from (seed, stage, epoch): raw words are fixed by the cipher,
whereas NumPy may change how its ``permutation`` uses them.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError


def examples_of_step(
    seed: int, stage: str | int, step: int, *, batch_size: int, num_examples: int
) -> npt.NDArray[np.int64]:
    """The indices of the examples in the global batch of one step: int64 (batch_size,), in [0, num_examples).

    ``stage`` is whatever names the stage in the experiment: stages read in different orders. Raises
    UserError for an empty data set, an empty batch or a negative step.
    """
    if num_examples < 1 or batch_size < 1 or step < 0:
        raise UserError(
            "a step needs at least 1 example, a batch of at least 1 and a step of at least 0, but got "
            f"{num_examples} examples, batch size {batch_size}, step {step}"
        )
    position, stop = step * batch_size, (step + 1) * batch_size
    parts = []
    while position < stop:
        epoch, start = divmod(position, num_examples)
        part = permutation_of_epoch(seed, stage, epoch, num_examples)[start : start + stop - position]
        parts.append(part)
        position += len(part)
    return np.concatenate(parts)


@lru_cache(maxsize=8)  # the last epochs of the stages at work; a pure function, so forgetting one costs only time
def permutation_of_epoch(seed: int, stage: str | int, epoch: int, num_examples: int) -> npt.NDArray[np.int64]:
    """The order of one epoch: a permutation of [0, num_examples), int64, read-only (it is shared)."""
    text = f"{seed}\x1f{stage}\x1fexample order\x1f{epoch}"
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype="<u8")
    words = np.random.Philox(key=key.astype(np.uint64)).random_raw(num_examples)
    order = np.argsort(words, kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)
    return order


def positions_of_rank(batch_size: int, rank: int, world: int) -> npt.NDArray[np.int64]:
    """The positions in the global batch that one rank works on: int64 (batch_size / world,), consecutive.

    The ranks' slices, in order, are the whole batch. Raises UserError when the workers do not divide the
    batch.
    """
    if world < 1 or batch_size < 1 or batch_size % world:
        raise UserError(
            f"a batch of {batch_size} cannot be shared evenly by {world} workers; "
            "make the batch size a multiple of the number of workers"
        )
    assert 0 <= rank < world, f"rank {rank} of {world}"
    share = batch_size // world
    return np.arange(rank * share, (rank + 1) * share, dtype=np.int64)
