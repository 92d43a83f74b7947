"""Shards, from their source to their address, in every form. Which images go where is decided elsewhere (`ingest`).

One shard is one call of a pure function, run anywhere, any number of times. A shard whose indices are all there is
not written again, so an ingest that was cut off goes on where it was.
"""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from pipeline.data.decoding import LOSSY_FORMATS, UndecodableError, decode_square
from pipeline.data.encoding import box_means, encode_image
from pipeline.data.indices import encode_index, parse_index
from pipeline.data.listings import Listed
from pipeline.data.manifest import SPLITS, Form, SplitName, Undecodable, index_name_of, shard_name
from pipeline.data.publishing import SCRATCH, WrittenShard
from pipeline.data.scratch import scratch_folder
from pipeline.data.shards import ShardWriter
from pipeline.data.sources import open_reader
from pipeline.errors import UserError
from pipeline.fan_out import FanOut, in_threads, in_turn
from pipeline.objects import LocalObjects, MissingObject, Objects, open_objects

Progress = Callable[[int, int], None]  # examples in shards that are written, and how many there will be
_READS = 8  # files of a remote source asked for at once, by each worker

# Kept by a process for its next shard: to make a client of S3 takes longer than to write a small shard.
_objects = lru_cache(maxsize=8)(open_objects)
_reader = lru_cache(maxsize=8)(open_reader)


class Square(NamedTuple):
    """A decoded image of the largest form's size, RGB, and whether its coding may have lost detail.

    ``smaller`` are those of the other forms where they are images of their own; None: they are box means of this one.
    """

    key: str
    image: Image.Image
    label: int
    lossy: bool
    smaller: Mapping[int, Image.Image] | None = None

    def at(self, size: int) -> Image.Image:
        """The image at the size of a form."""
        if size == self.image.width:
            return self.image
        return box_means(self.image, self.image.width // size) if self.smaller is None else self.smaller[size]


class Content(Protocol):
    """What a shard is to hold."""

    def __len__(self) -> int: ...

    def squares(self, size: int) -> Iterator[Square | Undecodable]:
        """Its images at ``size`` px, in order, and in the place of one that cannot be decoded, why."""
        ...


@dataclass(frozen=True)
class FileContent:
    """Files of a source: address, and per example a key, where it lies and its label."""

    address: str
    files: tuple[tuple[str, Listed, int], ...]

    def __len__(self) -> int:
        return len(self.files)

    def squares(self, size: int) -> Iterator[Square | Undecodable]:
        listed = [file for _, file, _ in self.files]
        # A store answers in the time that some images take to decode, so several are asked for at once.
        reads = in_threads(_READS) if self.address.startswith("s3://") else in_turn
        with closing(reads(_reader(self.address).read, listed)) as contents:
            for (key, file, label), data in zip(self.files, contents, strict=True):
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # Pillow warns of odd metadata; what matters is named by us
                        image, kind = decode_square(data, size)
                except UndecodableError as error:
                    yield Undecodable(name=file.name, reason=str(error))
                else:
                    yield Square(key, image, label, kind in LOSSY_FORMATS)


@dataclass(frozen=True)
class DrawnContent:
    """Images ``start`` to ``stop`` of the drawn data set; keys count from the split's first index."""

    seed: int
    start: int
    stop: int
    first: int

    def __len__(self) -> int:
        return self.stop - self.start

    def squares(self, size: int) -> Iterator[Square | Undecodable]:
        from pipeline.data.drawn import CLASSES, draw

        label_of = [sorted(CLASSES).index(name) for name in CLASSES]
        for index in range(self.start, self.stop):
            pixels, label = draw(self.seed, index, size)
            yield Square(f"{index - self.first:08d}", Image.fromarray(pixels), label_of[label], False)


@dataclass(frozen=True)
class ShardJob:
    """Write shard ``number`` of ``split`` to ``address`` in ``forms`` (largest first).

    More than ``max_undecodable`` images that cannot be decoded end it.
    """

    address: str
    forms: tuple[Form, ...]
    split: SplitName
    number: int
    content: Content
    max_undecodable: int

    def name(self, form: Form) -> str:
        """The name of the shard in a form."""
        return shard_name(form, self.split, self.number)

    @property
    def mark(self) -> str:
        """The object that is written last of all: where it is, the job is done."""
        return index_name_of(self.name(self.forms[-1]))


def write_shards(
    objects: Objects, jobs: Sequence[ShardJob], max_undecodable: int, fan_out: FanOut, progress: Progress | None
) -> dict[SplitName, list[tuple[WrittenShard, ...]]]:
    """Do all jobs of a data set, but for those that were done before; per split its shards, in order.

    ``progress`` is first told what was done before, so that the pace of the rest is known, then every shard. Raises
    UserError when more than ``max_undecodable`` images of all shards cannot be decoded.
    """
    there = {name for name, _ in objects.names()}
    before = [job.mark in there for job in jobs]
    done = sum(len(job.content) for job, known in zip(jobs, before, strict=True) if known)
    total = sum(len(job.content) for job in jobs)
    tell = progress or (lambda done, total: None)
    splits: dict[SplitName, list[tuple[WrittenShard, ...]]] = {split: [] for split in SPLITS}
    undecodable: list[Undecodable] = []
    with closing(fan_out(write_shard, jobs)) as shards:
        tell(done, total)  # not before: a cluster may have been started for it, which says nothing of the pace
        for job, known, shard in zip(jobs, before, shards, strict=True):
            splits[job.split].append(shard)
            undecodable += shard[0].head.undecodable
            refuse_undecodable(undecodable, max_undecodable)
            if not known:
                done += len(job.content)
                tell(done, total)
    return splits


def write_shard(job: ShardJob) -> tuple[WrittenShard, ...]:
    """Do the job unless it is done; the shard in each form. Raises UserError for too many undecodable images."""
    objects = _objects(job.address)
    return written_shard(objects, job) or _write(objects, job)


def written_shard(objects: Objects, job: ShardJob) -> tuple[WrittenShard, ...] | None:
    """The shard as an earlier ingest wrote it, or None where it did not come to that.

    A shard counts when every form has an index, which is written after the bytes that it describes, and these bytes
    are still as many.
    """
    found = []
    for form in reversed(job.forms):  # the last form's index is written last: mostly one look is enough
        name = job.name(form)
        try:
            data = objects.read(index_name_of(name))
        except MissingObject:
            return None
        try:
            head = parse_index(data, index_name_of(name)).head
        except UserError:
            return None  # damaged since; written again, it is as it was
        if head.shard != name or head.bytes != objects.size(name):
            return None
        found.append(WrittenShard(head, hashlib.sha256(data).hexdigest()))
    return tuple(reversed(found))


def _write(objects: Objects, job: ShardJob) -> tuple[WrittenShard, ...]:
    try:
        with scratch_folder(_scratch(objects)) as folder, ExitStack() as stack:
            writers = [
                stack.enter_context(ShardWriter(folder / form.name, job.name(form), form.encoding))
                for form in job.forms
            ]
            lossy, undecodable = _fill(job, writers)
            indices = [writer.finish(lossy=lossy, undecodable=undecodable) for writer in writers]
            for writer in writers:
                objects.upload(writer.name, writer.path)
    except OSError as error:  # of our temporary files; sources and stores tell their own
        place = _scratch(objects)
        raise UserError(f"shards cannot be written in {place}: {error.strerror or error}; make room there") from error
    written = []
    for index in indices:  # only now: an index says that its shard is there
        data = encode_index(index)
        objects.write(index_name_of(index.head.shard), data)
        written.append(WrittenShard(index.head, hashlib.sha256(data).hexdigest()))
    return tuple(written)


def _fill(job: ShardJob, writers: list[ShardWriter]) -> tuple[bool, list[Undecodable]]:
    lossy, undecodable = False, []
    for square in job.content.squares(job.forms[0].size):
        if isinstance(square, Undecodable):
            undecodable.append(square)
            refuse_undecodable(undecodable, job.max_undecodable)
            continue
        lossy |= square.lossy
        for form, writer in zip(job.forms, writers, strict=True):
            writer.add(square.key, encode_image(square.at(form.size), form), square.label)
    return lossy, undecodable


def refuse_undecodable(found: list[Undecodable], limit: int) -> None:
    """Raise UserError naming the first of ``found`` when there are more than the ``limit`` that the person allows."""
    if len(found) <= limit:
        return
    first = f"{found[0].name!r}: {found[0].reason}"
    if limit == 0:
        raise UserError(
            f"a file of the source cannot be decoded, {first}; say with --max-undecodable how many may be left out (a "
            "source without it is another source, for another DEST)"
        )
    raise UserError(
        f"more than the {limit} files that --max-undecodable allows cannot be decoded; the first is {first}"
    )


def _scratch(objects: Objects) -> Path:
    """Where a shard grows before it is published: in a folder beside its end, so that a rename is enough."""
    return objects.root / SCRATCH if isinstance(objects, LocalObjects) else Path(tempfile.gettempdir())
