"""Shares of a global batch: together the whole, nearly equal, cut at the same places for any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.sharing import positions_of_rank
from pipeline.errors import UserError


@given(st.data(), st.integers(1, 300), st.none() | st.integers(1, 300))
def test_shares_are_the_whole_batch_in_order_and_differ_by_one_piece(
    data: st.DataObject, batch_size: int, micro_batch: int | None
) -> None:
    size = micro_batch or 1
    pieces = -(-batch_size // size)
    world = data.draw(st.integers(1, pieces))
    shares = [positions_of_rank(batch_size, rank, world, micro_batch) for rank in range(world)]
    assert np.array_equal(np.concatenate(shares), np.arange(batch_size))
    counts = [-(-len(share) // size) for share in shares]
    assert sum(counts) == pieces
    assert min(counts) >= 1
    assert max(counts) - min(counts) <= 1
    assert all(share[0] % size == 0 for share in shares)


def test_uneven_shares_by_hand() -> None:
    shares = [positions_of_rank(10, rank, 3).tolist() for rank in range(3)]
    assert shares == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]
    shares = [positions_of_rank(10, rank, 2, micro_batch=4).tolist() for rank in range(2)]
    assert shares == [[0, 1, 2, 3, 4, 5, 6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("batch_size", "micro_batch", "world", "says"),
    [
        (3, None, 4, "a batch of 3 has 3 examples, too few for 4 workers; ask for 3 or fewer"),
        (10, 4, 4, "a batch of 10 has 3 micro-batches of 4, too few for 4 workers; ask for 3 or fewer"),
    ],
)
def test_more_workers_than_pieces_are_refused(batch_size: int, micro_batch: int | None, world: int, says: str) -> None:
    with pytest.raises(UserError) as caught:
        positions_of_rank(batch_size, 0, world, micro_batch)
    assert str(caught.value) == says
