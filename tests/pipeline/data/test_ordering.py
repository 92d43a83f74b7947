"""The order of examples: epochs are permutations, ranks share a batch, and nothing else enters."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.data.ordering import examples_of_step, permutation_of_epoch, positions_of_rank
from pipeline.errors import UserError


@pytest.mark.parametrize(("batch_size", "num_examples"), [(4, 20), (7, 20), (64, 20), (20, 20), (3, 1)])
def test_every_epoch_of_the_stream_holds_every_example_once(batch_size: int, num_examples: int) -> None:
    steps = -(-3 * num_examples // batch_size)
    stream = np.concatenate(
        [examples_of_step(5, "base", step, batch_size=batch_size, num_examples=num_examples) for step in range(steps)]
    )
    assert stream.dtype == np.int64
    for epoch in range(3):
        of_epoch = stream[epoch * num_examples : (epoch + 1) * num_examples]
        assert sorted(of_epoch.tolist()) == list(range(num_examples))


def test_the_stream_does_not_depend_on_how_it_is_cut() -> None:
    fine = [examples_of_step(1, "sr1", step, batch_size=3, num_examples=11) for step in range(20)]
    coarse = [examples_of_step(1, "sr1", step, batch_size=12, num_examples=11) for step in range(5)]
    assert np.array_equal(np.concatenate(fine), np.concatenate(coarse))


def test_a_step_is_the_same_after_any_history() -> None:
    alone = examples_of_step(0, "base", 1000, batch_size=8, num_examples=50)
    permutation_of_epoch.cache_clear()
    for step in (0, 3, 999):
        examples_of_step(0, "base", step, batch_size=8, num_examples=50)
    assert np.array_equal(alone, examples_of_step(0, "base", 1000, batch_size=8, num_examples=50))


def test_seeds_stages_and_epochs_have_their_own_orders() -> None:
    orders = [
        permutation_of_epoch(seed, stage, epoch, 100).tobytes()
        for seed in (0, 1)
        for stage in ("base", "sr1", 0, 1)
        for epoch in (0, 1)
    ]
    assert len(set(orders)) == len(orders)


def test_the_orders_have_not_changed_since_results_were_written_down() -> None:
    assert permutation_of_epoch(0, "base", 0, 10).tolist() == [4, 1, 5, 0, 6, 7, 3, 8, 2, 9]


def test_a_large_order_is_uniform_over_places() -> None:
    order = permutation_of_epoch(3, "base", 0, 100_000)
    correlation = np.corrcoef(order, np.arange(100_000))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(100_000)  # five standard deviations of an independent pair


def test_a_shared_order_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        permutation_of_epoch(0, "base", 0, 10)[0] = 3
    batch = examples_of_step(0, "base", 0, batch_size=5, num_examples=10)
    batch[:] = 0  # the caller's own
    assert sorted(permutation_of_epoch(0, "base", 0, 10)) == list(range(10))


@pytest.mark.parametrize("world", [1, 2, 3, 4, 6, 12])
def test_ranks_share_the_batch_in_order(world: int) -> None:
    parts = [positions_of_rank(12, rank, world) for rank in range(world)]
    assert {len(part) for part in parts} == {12 // world}
    assert np.concatenate(parts).tolist() == list(range(12))


def test_workers_that_do_not_divide_the_batch_are_refused() -> None:
    with pytest.raises(UserError, match="batch of 10 cannot be shared evenly by 4 workers"):
        positions_of_rank(10, 0, 4)


@pytest.mark.parametrize(("step", "batch_size", "num_examples"), [(-1, 4, 10), (0, 0, 10), (0, 4, 0)])
def test_impossible_steps_are_refused(step: int, batch_size: int, num_examples: int) -> None:
    with pytest.raises(UserError, match="a step needs"):
        examples_of_step(0, "base", step, batch_size=batch_size, num_examples=num_examples)
