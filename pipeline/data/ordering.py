"""Which example each step reads: pure arithmetic on (seed, stage, global step), nothing to save in a checkpoint.

The stream of a stage is the concatenation of its epochs' permutations, and step k reads the slice [k B, (k + 1) B) of
it: a step may span two epochs, no batch is partial and no example is ever left out. How many nodes, workers or
loader processes read it does not enter.

A full permutation would touch every shard at every moment, so an epoch is permuted in three steps, each cheap to
evaluate at any point of the stream (nothing before it is walked through):

1. the shards are permuted and laid one after the other;
2. that sequence is cut into ``lanes`` equal parts, and the stream takes one example of each in turn. Within a batch
   the examples are sorted by lane, so that workers which share a batch in contiguous slices read different shards
   (one lane: every worker reads all shards, which is right where a node keeps the whole set);
3. each lane is cut into windows of at most ``window`` shards, evenly, and the examples of a window are permuted.

Where a split has no more shards than a window, one lane gives the full permutation. A permutation is the order of raw
Philox 4x64 words under a key hashed from what it is for: raw words are fixed by the cipher, whereas NumPy may change
how its ``permutation`` uses them.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError

Indices = npt.NDArray[np.int64]


class _Epoch(NamedTuple):
    """The shards of an epoch one after the other: their numbers, and where each begins (one more: the end)."""

    shards: Indices  # (shards,)
    begins: Indices  # (shards + 1,)


class _Window(NamedTuple):
    """Part of an epoch's sequence that is permuted as one: its shards' ordinals, its places, their order."""

    first_shard: int
    end_shard: int
    begin: int
    order: Indices  # (examples of the window,) a permutation of its places, counted from ``begin``


class ExampleOrder:
    """The order in which one stage reads a split whose shards hold ``counts`` examples each.

    Examples are numbered through the shards: those of shard n are ``counts[:n].sum()`` and on. ``stage`` is whatever
    names the stage in the experiment: stages read in different orders. Memory: 16 bytes per shard for each of two
    epochs, and 8 bytes per example for two windows per lane. Raises UserError for an empty split.
    """

    def __init__(self, counts: npt.ArrayLike, *, seed: int, stage: str | int, window: int = 16, lanes: int = 1) -> None:
        self.counts = np.asarray(counts, dtype=np.int64)
        self.examples = int(self.counts.sum())
        if self.examples < 1:
            raise UserError("an order needs at least 1 example, and the split holds none")
        if window < 1 or lanes < 1:
            raise UserError(f"a shuffle needs a window of at least 1 shard and at least 1 lane, not {window}, {lanes}")
        self.seed, self.stage = seed, stage
        self.window, self.lanes = window, min(lanes, self.examples)
        self._first = np.concatenate(([0], np.cumsum(self.counts)[:-1]))
        # Pure functions of their arguments: forgetting one costs only time.
        self._epoch = lru_cache(maxsize=2)(self._lay_out)
        self._window = lru_cache(maxsize=2 * self.lanes + 2)(self._permute)

    def __reduce__(self) -> tuple[Any, ...]:
        return _make, (self.counts, self.seed, self.stage, self.window, self.lanes)

    def of_step(self, step: int, batch_size: int, positions: npt.ArrayLike | None = None) -> Indices:
        """The examples of a step's global batch, int64 (batch_size,), or only those at ``positions`` (P,) of it."""
        if batch_size < 1 or step < 0:
            raise UserError(f"a step needs a batch of at least 1 and a number of at least 0, not {batch_size}, {step}")
        stream = self._sorted_by_lane(step, batch_size)
        return self.at(stream if positions is None else stream[np.asarray(positions, dtype=np.int64)])

    def at(self, stream: npt.ArrayLike) -> Indices:
        """The examples at places ``stream`` (S,) int64 >= 0 of the endless stream: int64 (S,) in [0, examples)."""
        places = np.asarray(stream, dtype=np.int64).reshape(-1)
        epochs, inside = np.divmod(places, self.examples)
        lanes, depths = inside % self.lanes, inside // self.lanes
        found = np.empty_like(places)
        for group in np.unique(np.stack([epochs, lanes]), axis=1).T.tolist():
            epoch, lane = group
            chosen = np.flatnonzero((epochs == epoch) & (lanes == lane))
            found[chosen] = self._in_lane(epoch, lane, depths[chosen])
        return found

    def shards_of_steps(self, steps: range, batch_size: int, positions: npt.ArrayLike | None = None) -> list[int]:
        """The shards whose windows the given steps (consecutive) touch at ``positions``, in the order of first use.

        What is fetched ahead of reading; windows are taken whole.
        """
        if not steps:
            return []
        lanes = self._lanes_of(steps, batch_size, positions)
        needed: dict[int, None] = {}
        begin, end = steps.start * batch_size, steps.stop * batch_size
        for epoch in range(begin // self.examples, (end - 1) // self.examples + 1):
            low, high = max(0, begin - epoch * self.examples), min(self.examples, end - epoch * self.examples)
            for lane in lanes:
                depth, last = max(0, (low - lane) // self.lanes), (high - 1 - lane) // self.lanes
                at, stop = self._lane_begin(lane) + depth, min(self._lane_begin(lane) + last + 1, self.examples)
                while at < stop:
                    window = self._window(epoch, lane, self._window_of(epoch, lane, at))
                    shards = self._epoch(epoch).shards[window.first_shard : window.end_shard]
                    needed |= dict.fromkeys(shards.tolist())
                    at = window.begin + len(window.order)
        return list(needed)

    def most_at_once(self, batch_size: int, positions: npt.ArrayLike) -> int:
        """At most so many shards are read side by side at ``positions``: two windows, at their edges, of each lane."""
        share = -(-len(np.asarray(positions)) * self.lanes // batch_size) + 1 if self.lanes > 1 else 1
        return min(2 * self.window * min(share, self.lanes), len(self.counts))

    def _lanes_of(self, steps: range, batch_size: int, positions: npt.ArrayLike | None) -> list[int]:
        """The lanes that ``positions`` read: those of the first and last step, as a batch holds all in order, and of
        the steps in which an epoch ends, where that order starts again."""
        if positions is None or batch_size < self.lanes:
            return list(range(self.lanes))
        chosen = np.asarray(positions, dtype=np.int64)
        begin, end = steps.start * batch_size, steps.stop * batch_size
        edges = range((begin // self.examples + 1) * self.examples, end, self.examples)
        looked_at = {steps[0], steps[-1], *(edge // batch_size for edge in edges)}
        stream = np.concatenate([self._sorted_by_lane(step, batch_size)[chosen] for step in sorted(looked_at)])
        lanes: list[int] = np.unique(stream % self.examples % self.lanes).tolist()
        return lanes

    def _sorted_by_lane(self, step: int, batch_size: int) -> Indices:
        stream = np.arange(step * batch_size, (step + 1) * batch_size, dtype=np.int64)
        return stream[np.argsort(stream % self.examples % self.lanes, kind="stable")] if self.lanes > 1 else stream

    def _lane_begin(self, lane: int) -> int:
        """Where a lane begins in an epoch's sequence; the first ``examples % lanes`` lanes hold one example more."""
        return lane * (self.examples // self.lanes) + min(lane, self.examples % self.lanes)

    def _in_lane(self, epoch: int, lane: int, depths: Indices) -> Indices:
        layout = self._epoch(epoch)
        places = self._lane_begin(lane) + depths
        numbers = np.array([self._window_of(epoch, lane, place) for place in (places.min(), places.max())])
        permuted = np.empty_like(places)
        for number in range(int(numbers[0]), int(numbers[1]) + 1):
            window = self._window(epoch, lane, number)
            inside = places - window.begin
            mine = (inside >= 0) & (inside < len(window.order))
            permuted[mine] = window.begin + window.order[inside[mine]]
        ordinals = np.searchsorted(layout.begins, permuted, side="right") - 1
        found: Indices = self._first[layout.shards[ordinals]] + permuted - layout.begins[ordinals]
        return found

    def _span(self, epoch: int, lane: int) -> tuple[int, int, int, int]:
        """A lane's first place and end, and the ordinals of its first shard and of the one after its last."""
        begin, end = self._lane_begin(lane), self._lane_begin(lane + 1)
        begins = self._epoch(epoch).begins
        first, last = np.searchsorted(begins, [begin, end - 1], side="right") - 1
        return begin, end, int(first), int(last) + 1

    def _window_of(self, epoch: int, lane: int, place: int) -> int:
        """The number of the window, counted in its lane, that holds a place of the sequence."""
        _, _, first, end = self._span(epoch, lane)
        ordinal = int(np.searchsorted(self._epoch(epoch).begins, place, side="right")) - 1
        shards = end - first
        return ((ordinal - first + 1) * -(-shards // self.window) - 1) // shards

    def _lay_out(self, epoch: int) -> _Epoch:
        shards = _permutation(len(self.counts), self.seed, self.stage, "shard order", epoch)
        return _Epoch(shards, np.concatenate(([0], np.cumsum(self.counts[shards]))))

    def _permute(self, epoch: int, lane: int, number: int) -> _Window:
        begin, end, first, last = self._span(epoch, lane)
        shards, windows = last - first, -(-(last - first) // self.window)
        low, high = first + number * shards // windows, first + (number + 1) * shards // windows
        begins = self._epoch(epoch).begins
        begin, end = max(begin, int(begins[low])), min(end, int(begins[high]))
        order = _permutation(end - begin, self.seed, self.stage, "example order", epoch, lane, number)
        return _Window(low, high, begin, order)


def _make(counts: Indices, seed: int, stage: str | int, window: int, lanes: int) -> ExampleOrder:
    return ExampleOrder(counts, seed=seed, stage=stage, window=window, lanes=lanes)


def _permutation(count: int, *purpose: str | int) -> Indices:
    """A permutation of [0, count) under a key of what it is for: int64 (count,), read-only (it is shared)."""
    text = "\x1f".join(map(str, purpose))
    key = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=16).digest(), dtype="<u8")
    words = np.random.Philox(key=key.astype(np.uint64)).random_raw(count)
    order = np.argsort(words, kind="stable").astype(np.int64, copy=False)
    order.setflags(write=False)
    return order
