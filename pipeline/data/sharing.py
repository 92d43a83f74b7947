"""Which places of a global batch each rank works on: pure arithmetic.

Not which examples stand at these places: that is the same whoever works on them (`pipeline.data.ordering`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError


def positions_of_rank(batch_size: int, rank: int, world: int, micro_batch: int | None = None) -> npt.NDArray[np.int64]:
    """The positions in a global batch of ``batch_size`` that ``rank`` of ``world`` works on: int64 (n,), consecutive.

    The ranks' shares, in order, are the whole batch. With ``micro_batch`` the batch is cut at its multiples, where it
    is cut whatever the number of workers, and a rank is given whole pieces; the last piece may be shorter. Shares
    differ by at most one piece (one example without ``micro_batch``), the first ranks having more. Raises UserError
    when there are more workers than pieces.
    """
    assert batch_size > 0, batch_size
    assert 0 <= rank < world, f"rank {rank} of {world}"
    size = micro_batch or 1
    pieces = -(-batch_size // size)
    if world > pieces:
        what = "examples" if micro_batch is None else f"micro-batches of {micro_batch}"
        raise UserError(
            f"a batch of {batch_size} has {pieces} {what}, too few for {world} workers; ask for {pieces} or fewer"
        )
    share, more = divmod(pieces, world)
    first = rank * share + min(rank, more)
    last = first + share + (rank < more)
    return np.arange(first * size, min(last * size, batch_size), dtype=np.int64)
