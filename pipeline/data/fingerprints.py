"""Fingerprints of sources: which bytes, wherever they lie. Quick rather than complete, as every command asks for one.

Up to 1 GiB all bytes are hashed. Of more, the sizes and 1,024 evenly spaced blocks are: a source that was replaced or
cut is noticed, a byte changed between the blocks is not. Nothing here depends on the address, on times or on ETags
(which say how an object was uploaded), so a copy elsewhere has the same fingerprint.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.data.source_files import Entry
from pipeline.objects import Objects

HASHED_WHOLE = 1 << 30  # bytes
_SAMPLES, _SAMPLE = 1024, 64 << 10  # how many blocks of how many bytes of anything larger
_STRIDE = 8 << 20  # bytes read at once where all are
_THREADS = 8  # requests under way at once


def fingerprint_listing(entries: Sequence[Entry]) -> str:
    """sha256 over the sorted paths and sizes of a folder. No file is read: one changed in place keeps its print."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(f"{entry.name}\0{entry.size}\n".encode())
    return digest.hexdigest()


def fingerprint_bytes(objects: Objects, parts: Sequence[tuple[str, int]]) -> str:
    """sha256 of objects (name, bytes) laid end to end; beyond 1 GiB of their size and samples.

    Of one file up to 1 GiB it is what ``sha256sum`` prints.
    """
    starts = list(itertools.accumulate((size for _, size in parts), initial=0))
    total = starts.pop()
    if total <= HASHED_WHOLE:
        digest = hashlib.sha256()
        spans = [(start, min(_STRIDE, total - start)) for start in range(0, total, _STRIDE)]
    else:
        digest = hashlib.sha256(f"{total}\0".encode())
        spans = [(number * (total - _SAMPLE) // (_SAMPLES - 1), _SAMPLE) for number in range(_SAMPLES)]

    def read(span: tuple[int, int]) -> bytes:
        return b"".join(_read_across(objects, parts, starts, *span))

    for block in _in_order(read, spans):
        digest.update(block)
    return digest.hexdigest()


def _read_across(
    objects: Objects, parts: Sequence[tuple[str, int]], starts: Sequence[int], start: int, length: int
) -> Iterator[bytes]:
    index = bisect.bisect_right(starts, start) - 1
    while length:
        name, size = parts[index]
        inside = start - starts[index]
        taken = min(length, size - inside)
        if taken:  # S3 answers no request for an empty range
            yield objects.read_range(name, inside, taken)
        start, length, index = start + taken, length - taken, index + 1


def _in_order(read: Callable[[tuple[int, int]], bytes], spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
    """The blocks in order, a few being read while one is hashed."""
    waiting: deque[Future[bytes]] = deque()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fingerprint") as pool:
        for span in spans:
            waiting.append(pool.submit(read, span))
            if len(waiting) > _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
