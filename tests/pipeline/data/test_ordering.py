"""The order of examples: epochs are permutations, workers share a batch, and nothing but (seed, stage, step) enters."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.ordering import ExampleOrder
from pipeline.errors import UserError

SHARDS = st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any)
WINDOWS = st.integers(1, 8)
LANES = st.integers(1, 6)


@settings(max_examples=150, deadline=None)
@given(counts=SHARDS, window=WINDOWS, lanes=LANES, seed=st.integers(0, 99), batch_size=st.integers(1, 40))
def test_every_epoch_of_the_stream_holds_every_example_once(
    counts: list[int], window: int, lanes: int, seed: int, batch_size: int
) -> None:
    order = ExampleOrder(counts, seed=seed, stage="base", window=window, lanes=lanes)
    number, steps = sum(counts), -(-3 * sum(counts) // batch_size)
    batches = [order.of_step(step, batch_size) for step in range(steps)]
    assert all(batch.dtype == np.int64 and len(batch) == batch_size for batch in batches), "no batch is partial"
    # Lanes only sort inside a batch: cut anywhere, the batches hold what the stream holds.
    stream = order.at(np.arange(steps * batch_size))
    for step, batch in enumerate(batches):
        assert sorted(batch.tolist()) == sorted(stream[step * batch_size : (step + 1) * batch_size].tolist())
    for epoch in range(3):
        assert sorted(stream[epoch * number : (epoch + 1) * number].tolist()) == list(range(number))


@settings(max_examples=60, deadline=None)
@given(counts=SHARDS, window=WINDOWS, lanes=LANES, batch_size=st.integers(1, 24), start=st.integers(0, 60))
def test_a_run_that_begins_anywhere_reads_what_an_uninterrupted_one_reads(
    counts: list[int], window: int, lanes: int, batch_size: int, start: int
) -> None:
    """Also in the middle of an epoch, at its boundary, and with no history or any."""
    whole = ExampleOrder(counts, seed=1, stage="sr", window=window, lanes=lanes)
    history = [whole.of_step(step, batch_size) for step in range(start + 4)]
    resumed = ExampleOrder(counts, seed=1, stage="sr", window=window, lanes=lanes)
    for step in range(start, start + 4):
        assert np.array_equal(resumed.of_step(step, batch_size), history[step])


@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 8, 24])
def test_any_number_of_workers_sees_the_same_global_batches(world: int, lanes: int) -> None:
    """More workers than shards is no error: a worker's part is a part of the batch, not of the shards."""
    counts, batch_size = [5, 7, 4, 6, 9], 24
    alone = ExampleOrder(counts, seed=0, stage="base", window=2, lanes=lanes)
    for step in (0, 1, 2, 17):
        parts = np.array_split(np.arange(batch_size), world)
        shared = [
            ExampleOrder(counts, seed=0, stage="base", window=2, lanes=lanes).of_step(step, batch_size, positions)
            for positions in parts
        ]
        assert np.array_equal(np.concatenate(shared), alone.of_step(step, batch_size))


def test_seeds_stages_and_epochs_have_their_own_orders() -> None:
    def epoch(seed: int, stage: str | int, number: int) -> bytes:
        return ExampleOrder([25] * 4, seed=seed, stage=stage).at(np.arange(100) + 100 * number).tobytes()

    orders = [epoch(seed, stage, e) for seed in (0, 1) for stage in ("base", "sr1", 0, 1) for e in (0, 1)]
    assert len(set(orders)) == len(orders)


def test_the_orders_have_not_changed_since_results_were_written_down() -> None:
    full = ExampleOrder([10], seed=0, stage="base")
    windowed = ExampleOrder([3, 2, 4, 1], seed=0, stage="base", window=1, lanes=2)
    assert full.of_step(0, 10).tolist() == [6, 0, 8, 3, 5, 4, 2, 7, 9, 1]
    assert windowed.of_step(0, 10).tolist() == [9, 8, 6, 5, 7, 0, 2, 1, 3, 4]


def test_workers_that_hold_whole_lanes_read_their_own_shards() -> None:
    """64 shards, 8 lanes, 4 workers: each worker reads 16 shards of an epoch and no other worker touches them."""
    order = ExampleOrder([32] * 64, seed=3, stage="base", window=4, lanes=8)
    batch_size, steps = 64, 64 * 32 // 64
    read = []
    for positions in np.array_split(np.arange(batch_size), 4):
        examples = np.concatenate([order.of_step(step, batch_size, positions) for step in range(steps)])
        read.append(set((examples // 32).tolist()))
    assert [len(shards) for shards in read] == [16] * 4
    assert len(set.union(*read)) == 64


def test_no_more_than_a_window_of_shards_is_in_use_at_once() -> None:
    order = ExampleOrder([10] * 40, seed=0, stage="base", window=4)
    shards = order.at(np.arange(400)) // 10
    assert [len(set(shards[start : start + 40].tolist())) for start in range(0, 400, 40)] == [4] * 10


@settings(max_examples=60, deadline=None)
@given(counts=SHARDS, window=WINDOWS, lanes=LANES, batch_size=st.integers(1, 20), start=st.integers(0, 30))
def test_what_is_fetched_ahead_is_all_that_is_read(
    counts: list[int], window: int, lanes: int, batch_size: int, start: int
) -> None:
    order = ExampleOrder(counts, seed=0, stage="base", window=window, lanes=lanes)
    shard_of = np.repeat(np.arange(len(counts)), counts)
    steps = range(start, start + 5)
    fetched = order.shards_of_steps(steps, batch_size)
    assert len(set(fetched)) == len(fetched)
    read = np.concatenate([order.of_step(step, batch_size) for step in steps])
    assert set(shard_of[read].tolist()) <= set(fetched)
    assert order.shards_of_steps(range(start, start), batch_size) == []


def test_fetching_ahead_for_some_positions_leaves_the_lanes_of_others_alone() -> None:
    order = ExampleOrder([32] * 64, seed=3, stage="base", window=4, lanes=8)
    half = order.shards_of_steps(range(4), 64, np.arange(32))
    assert len(half) == 4 * 4
    assert set(half).isdisjoint(order.shards_of_steps(range(4), 64, np.arange(32, 64)))


def test_a_split_within_one_window_is_fully_mixed() -> None:
    """Positions of an epoch and examples are uncorrelated, to five standard deviations of independent pairs."""
    order = ExampleOrder([1000] * 16, seed=3, stage="base", window=16).at(np.arange(16_000))
    assert abs(np.corrcoef(order, np.arange(16_000))[0, 1]) < 5 / np.sqrt(16_000)


def test_a_million_shards_cost_a_fraction_of_a_second_at_any_step() -> None:
    """A billion examples: the first batch at any step needs a megabyte or two per epoch, and no walk through it.

    The time is not asserted (a benchmark has it); what is asserted bounds it: memory, and that any step can be had.
    """
    counts = np.full(1_000_000, 1000)
    tracemalloc.start()
    order = ExampleOrder(counts, seed=0, stage="base", window=16, lanes=64)
    last = order.examples // 4096 - 1
    for step in (0, last // 2, last):
        batch = order.of_step(step, 4096)
        assert len(set(batch.tolist())) == 4096
        assert len(set((batch // 1000).tolist())) > 64 * 12, "64 windows of 16 shards, 64 examples of each"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 << 20, f"{peak / 2**20:.0f} MiB"
    assert sorted(order.at(np.arange(order.examples - 5, order.examples)).tolist()) != list(range(5))


def test_an_order_travels_to_another_process_as_its_arguments() -> None:
    order = ExampleOrder([5, 6], seed=2, stage="base", window=1, lanes=2)
    assert np.array_equal(pickle.loads(pickle.dumps(order)).of_step(7, 4), order.of_step(7, 4))


def test_impossible_orders_are_refused() -> None:
    with pytest.raises(UserError, match="the split holds none"):
        ExampleOrder([0, 0], seed=0, stage="base")
    with pytest.raises(UserError, match="window of at least 1"):
        ExampleOrder([1], seed=0, stage="base", window=0)
    with pytest.raises(UserError, match="at least 0, not 0, 3"):
        ExampleOrder([1], seed=0, stage="base").of_step(3, 0)
