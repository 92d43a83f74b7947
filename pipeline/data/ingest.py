"""From a source of images to a data set of shards with a manifest. Reads no data set; `pipeline.data.loading`
does.

The bytes are a function of the source's content and the request: a folder and an archive of the same tree,
read on any number of threads, give equal shards. Files are read in `pipeline.data.sources`, decoded in
`pipeline.data.decoding`, sorted into splits in `pipeline.data.arranging` and published in `pipeline.data.publishing`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from PIL import Image

from pipeline.data.arranging import arrange
from pipeline.data.decoding import LOSSY_FORMATS, RESIZE, UndecodableError, decode_square, encode_png
from pipeline.data.manifest import SPLITS, Manifest, SplitName, Undecodable
from pipeline.data.publishing import Request, Written, publish
from pipeline.data.shards import Example, write_split
from pipeline.data.sources import SourceFile, identify, read_source
from pipeline.errors import UserError

Progress = Callable[[int, int | None], None]  # files or images done, and how many there are if that is known

# Decoding releases Python's lock for large images, so threads are enough: on two cores they double the speed
# of photographs and cost tiny images little, and a caller's main module need not be importable a second time.
_MAX_THREADS = 8
_BATCH_FILES, _BATCH_BYTES = 64, 4 << 20
_LARGEST_SIZE = 4096  # px


class _Decoded(NamedTuple):
    name: str
    png: bytes
    format: str
    reason: str  # why there is no image; empty when there is


class _Spooled(NamedTuple):
    """Encoded images waiting in one temporary file: offset and length of each, and what was met on the
    way."""

    file: IO[bytes]
    spans: dict[str, tuple[int, int]]
    undecodable: list[tuple[str, str]]
    formats: set[str]


def ingest(
    source: str | Path,
    dest: str | Path,
    *,
    size: int,
    val_fraction: float,
    shard_size: int,
    progress: Progress | None = None,
) -> Manifest:
    """Make a data set in DEST from a class-per-folder tree or from a .tar or .tar.gz of one.

    ``size`` px is the side of every image (1 to 4096), ``shard_size`` the number of examples per shard,
    ``val_fraction`` in [0, 1) the share of each class held out when the tree has no ``val`` or ``test``
    beside its ``train``. Archives are streamed, never unpacked; the small encoded images wait in an unnamed
    temporary file in DEST, so memory holds little more than the paths. A DEST that answers the same request
    is returned as is, one that was interrupted is written anew. Raises UserError for a source or a DEST
    that cannot be used.
    """
    source, dest = Path(source), Path(dest)
    if not 0 <= val_fraction < 1:
        raise UserError(f"the held-out fraction must be at least 0 and below 1, not {val_fraction}")
    _check_sizes(size, shard_size)
    identity = identify(source)
    if source.is_dir() and dest.resolve().is_relative_to(source.resolve()):
        raise UserError(f"the data set {dest} would lie inside its own source {source}; name a folder elsewhere")
    numbers: dict[str, int | float] = {"val_fraction": float(val_fraction), "shard_size": shard_size}
    request = Request(identity.kind, identity.name, identity.fingerprint, size, RESIZE, numbers)

    def write() -> Written:
        with tempfile.TemporaryFile(dir=dest) as file:
            spooled = _Spooled(file, {}, [], set())
            _decode_all(read_source(source), size, spooled, progress, identity.files)
            return _write_arranged(source, dest, spooled, val_fraction, shard_size)

    return publish(dest, request, write)


def _write_arranged(source: Path, dest: Path, spooled: _Spooled, val_fraction: float, shard_size: int) -> Written:
    arrangement = arrange(spooled.spans, val_fraction)
    left = sorted(spooled.undecodable + arrangement.outside)
    if not arrangement.order["train"]:
        why = f"; the first of the {len(left)} files left out is {left[0][0]!r}: {left[0][1]}" if left else ""
        raise UserError(f"{source} holds no training image in a class folder; it must have one folder per class{why}")

    def examples(split: SplitName) -> Iterator[Example]:
        for index, name in enumerate(arrangement.order[split]):
            offset, length = spooled.spans[name]
            yield f"{index:08d}", os.pread(spooled.file.fileno(), length, offset), arrangement.labels[name]

    spooled.file.flush()
    return Written(
        classes=arrangement.classes,
        splits={split: write_split(dest, split, examples(split), shard_size) for split in SPLITS},
        lossy=bool(spooled.formats & LOSSY_FORMATS),
        undecodable=tuple(Undecodable(name=name, reason=reason) for name, reason in left),
    )


def _decode_all(
    files: Iterable[SourceFile], size: int, spooled: _Spooled, progress: Progress | None, total: int | None
) -> None:
    """Decode in order on a few threads, a bounded number of batches ahead, and spool what came out."""
    threads = min(_MAX_THREADS, len(os.sched_getaffinity(0)))
    waiting: deque[Future[list[_Decoded]]] = deque()
    done = 0
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters is named in the manifest
            for batch in _batches(files):
                waiting.append(pool.submit(_decode_batch, batch, size))
                while len(waiting) > 2 * threads or (waiting and waiting[0].done()):
                    done = _spool(waiting.popleft().result(), spooled, done, total, progress)
            while waiting:
                done = _spool(waiting.popleft().result(), spooled, done, total, progress)
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    held = 0
    for file in files:
        batch.append(file)
        held += len(file.data)
        if len(batch) >= _BATCH_FILES or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _decode_batch(batch: list[SourceFile], size: int) -> list[_Decoded]:
    decoded = []
    for name, data, reason in batch:
        png, kind = b"", ""
        if not reason:
            try:
                image, kind = decode_square(data, size)
                png = encode_png(image)
            except UndecodableError as error:
                reason = str(error)
        decoded.append(_Decoded(name, png, kind, reason))
    return decoded


def _spool(batch: list[_Decoded], spooled: _Spooled, done: int, total: int | None, progress: Progress | None) -> int:
    for item in batch:
        if item.name in spooled.spans:  # an archive may hold a path twice; unpacking it would keep the last
            del spooled.spans[item.name]
            spooled.undecodable.append((item.name, "replaced by a later file of the same path"))
        if item.reason:
            spooled.undecodable.append((item.name, item.reason))
            continue
        spooled.spans[item.name] = (spooled.file.tell(), len(item.png))
        spooled.formats.add(item.format)
        spooled.file.write(item.png)
    done += len(batch)
    if progress is not None:
        progress(done, total)
    return done


def ingest_drawn(
    dest: str | Path,
    *,
    seed: int,
    size: int,
    train: int,
    val: int,
    shard_size: int,
    progress: Progress | None = None,
) -> Manifest:
    """Make a data set in DEST of ``train`` + ``val`` images drawn by `pipeline.data.drawn`, size x size px.

    Training takes the indices [0, train) of the drawing, the held-out split [train, train + val). The rest is
    as with `ingest`: the same shards, the same manifest, the same answer to a second call.
    """
    from pipeline.data.drawn import CLASSES

    _check_sizes(size, shard_size)
    if train < 1 or val < 0:
        raise UserError(f"drawing needs at least 1 image to train on and 0 held out, not {train} and {val}")
    dest = Path(dest)
    ranges: dict[SplitName, range] = {"train": range(train), "val": range(train, train + val)}

    def write() -> Written:
        drawn = {name: _drawn_examples(seed, size, of, train + val, progress) for name, of in ranges.items()}
        splits = {name: write_split(dest, name, examples, shard_size) for name, examples in drawn.items()}
        return Written(tuple(sorted(CLASSES)), splits)

    numbers: dict[str, int | float] = {"seed": seed, "train": train, "val": val, "shard_size": shard_size}
    way = "none, drawn at this size"
    return publish(dest, Request("drawn", "drawn", _drawn_fingerprint(seed, size), size, way, numbers), write)


def _drawn_examples(seed: int, size: int, indices: range, total: int, progress: Progress | None) -> Iterator[Example]:
    from pipeline.data.drawn import CLASSES, draw

    label_of = [sorted(CLASSES).index(name) for name in CLASSES]
    for index in indices:
        pixels, label = draw(seed, index, size)
        yield f"{index:08d}", encode_png(Image.fromarray(pixels)), label_of[label]
        if progress is not None and ((index + 1) % _BATCH_FILES == 0 or index + 1 == total):
            progress(index + 1, total)


def _drawn_fingerprint(seed: int, size: int) -> str:
    """A few images stand for the code that draws them: a changed drawing is another source."""
    from pipeline.data.drawn import CLASSES, draw

    pixels = b"".join(draw(seed, index, size)[0].tobytes() for index in range(2 * len(CLASSES)))
    return hashlib.sha256(repr(CLASSES).encode() + pixels).hexdigest()


def _check_sizes(size: int, shard_size: int) -> None:
    if not 1 <= size <= _LARGEST_SIZE:
        raise UserError(f"the image size must be 1 to {_LARGEST_SIZE} px, not {size}")
    if shard_size < 1:
        raise UserError(f"a shard must hold at least 1 example, not {shard_size}")
