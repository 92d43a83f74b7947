"""``rayfall ingest``: its arguments become one call, and what came of it a few lines."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import typer

from jobs.endings import WRONG_INPUT, ending
from jobs.progress import display
from jobs.work import Manner
from pipeline.data.manifest import Encoding, Form, Manifest, load_manifest
from pipeline.errors import UserError
from pipeline.events import Events

if TYPE_CHECKING:
    from pipeline.data.verifying import Verified
    from pipeline.fan_out import FanOut

_LISTING = "listing (MB)"
_PATIENCE = 2.0  # seconds of listing before anything is said of it; most sources are listed in less
_FEW = 2  # shards, mostly one of each split: done here before a cluster has started
_WORTH_A_CLUSTER = 4 << 30  # bytes to check; fewer are checked here before Ray has started


class IngestOrder(NamedTuple):
    """The command's arguments as they were typed."""

    source: str
    dest: str | None
    sizes: Sequence[str]
    encoding: str
    quality: int
    val_fraction: float
    val: str | None
    labels: Path | None
    shard_size: int
    max_undecodable: int
    spool: Path | None


class Hands(NamedTuple):
    """Who does the work: the Ray cluster at an address, one started here (None), or this process alone."""

    address: str | None
    in_process: bool


def make_data(order: IngestOrder, hands: Hands, manner: Manner) -> None:
    """Ingest, and tell what came in and what was left out."""
    with ending("ingest", as_json=manner.as_json, debug=manner.debug) as end:
        from pipeline.data.ingest import ingest

        if order.dest is None:
            raise UserError("ingest needs a DEST, a new or empty folder or s3://bucket/prefix for the data set")
        forms = _forms(order)
        with display(end.console) as events, _fan_out(hands, events) as fan_out, _spool(order, hands) as spool:
            told = Told(events)
            manifest = ingest(
                order.source,
                order.dest,
                forms=forms,
                val_fraction=order.val_fraction,
                shard_size=order.shard_size,
                max_undecodable=order.max_undecodable,
                val=order.val,
                labels=order.labels,
                spool=spool,
                fan_out=fan_out,
                progress=told.progress,
                listed=told.listed,
            )
            told.finished()
        left_out = [f"{item.name}: {item.reason}" for item in manifest.undecodable]
        end.figures = {
            "dest": order.dest,
            "examples": {name: split.examples for name, split in manifest.splits.items()},
            "classes": len(manifest.classes),
            "forms": [form.name for form in manifest.forms],
            "left_out": left_out,
            "digest": manifest.digest,
        }
        if not manner.as_json:
            _tell_data(order.dest, manifest, left_out)


def verify_data(order: IngestOrder, hands: Hands, manner: Manner) -> None:
    """Check a data set byte by byte, and tell every fault that was found; any of them makes the exit code 2."""
    with ending("ingest", as_json=manner.as_json, debug=manner.debug) as end:
        if order.dest is not None:
            raise UserError("--verify looks at one data set; name it and nothing else")
        found = _verify(order.source, hands, end.console)
        end.figures = {
            "shards": found.shards,
            "bytes": found.bytes,
            "examples": {name: split.examples for name, split in found.manifest.splits.items()},
            "digest": found.manifest.digest,
            "faults": found.faults,
        }
        if not manner.as_json:
            _tell_verified(order.source, found)
    if found.faults:  # the figures are out, so that who reads JSON gets all faults
        count = f"{len(found.faults)} fault{'s' if found.faults[1:] else ''}"
        end.say(f"{order.source} has {count}, the first: {found.faults[0]}", "red")
        raise typer.Exit(WRONG_INPUT)


def _verify(address: str, hands: Hands, console: Any) -> Verified:
    from pipeline.data.verifying import verify

    manifest = load_manifest(address)
    columns = [columns for split in manifest.splits.values() for columns in split.shards.values()]
    if hands.address is None and sum(sum(column.bytes) for column in columns) < _WORTH_A_CLUSTER:
        hands = Hands(None, in_process=True)
    with display(console) as events, _fan_out(hands, events) as fan_out:
        events.started("verify")
        began = time.monotonic()
        found = verify(address, fan_out=fan_out, progress=lambda done, total: events.progress("verify", done, total))
        events.finished("verify", time.monotonic() - began, False)
    return found


class Told:
    """What a person hears of an ingest: of the listing only where it takes long, nothing before there is work."""

    def __init__(self, events: Events, clock: Callable[[], float] = time.monotonic) -> None:
        self._events, self._clock, self._began = events, clock, clock()
        self._spoken: list[str] = []

    def listed(self, done: int, total: int) -> None:
        """So many bytes of the source are listed: told once that takes longer than a person waits without a word."""
        if self._clock() - self._began >= _PATIENCE:
            self._tell(_LISTING, done >> 20, total >> 20)

    def progress(self, done: int, total: int) -> None:
        """So many examples are written, which ends the listing."""
        if _LISTING in self._spoken:
            self._spoken.remove(_LISTING)
            self._events.finished(_LISTING, self._clock() - self._began, False)
        self._tell("ingest", done, total)

    def finished(self) -> None:
        """The data set is there."""
        self._events.finished("ingest", self._clock() - self._began, False)

    def _tell(self, node: str, done: int, total: int) -> None:
        if node not in self._spoken:
            self._spoken.append(node)
            self._events.started(node)
        self._events.progress(node, done, total)


def _forms(order: IngestOrder) -> tuple[Form, ...]:
    from pipeline.data.ingest import make_forms

    return make_forms([_form(text, order.encoding) for text in order.sizes], order.quality)


def _form(text: str, encoding: str) -> tuple[int, Encoding]:
    size, _, own = text.partition(":")
    if not size.isdecimal():
        raise UserError(f"--size {text}: give a number of px, or one with an encoding such as 64:raw")
    known: tuple[Encoding, ...] = get_args(Encoding)
    for name in known:
        if name == (own or encoding):
            return int(size), name
    raise UserError(f"{own or encoding!r} is no encoding of images here; known are {', '.join(known)}")


@contextmanager
def _fan_out(hands: Hands, events: Events) -> Iterator[FanOut]:
    """Ray is joined or started when there is work for it, so a mistake or a data set that is there needs none."""
    from pipeline.cluster import ray_cluster
    from pipeline.fan_out import in_turn, on_ray

    if hands.in_process:
        if hands.address is not None:
            raise UserError("--in-process works without Ray, so it takes no --address; leave one of them out")
        yield in_turn
        return
    with ExitStack() as stack:
        joined = False

        def call(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Generator[Any, None, None]:
            nonlocal joined
            jobs = list(jobs)
            if len(jobs) <= _FEW and hands.address is None:
                return in_turn(function, jobs)
            if not joined:
                events.message("starting Ray" if hands.address is None else f"joining Ray at {hands.address}")
                stack.enter_context(ray_cluster(hands.address))
                joined = True
            return on_ray(name="ingest")(function, jobs)

        yield call


@contextmanager
def _spool(order: IngestOrder, hands: Hands) -> Iterator[Path | None]:
    """Where a .tar.gz is decompressed: where it was said, beside a local DEST, or on this machine if all work here."""
    if order.spool or hands.address is not None or not (order.dest or "").startswith("s3://"):
        yield order.spool
        return
    from pipeline.data.scratch import scratch_folder

    with scratch_folder(Path(tempfile.gettempdir())) as folder:
        yield folder


def _tell_data(dest: str, manifest: Manifest, left_out: Sequence[str]) -> None:
    counts = " and ".join(f"{split.examples} {name}" for name, split in manifest.splits.items())
    forms = ", ".join(form.name for form in manifest.forms)
    print(f"{dest}: {counts} examples of {len(manifest.classes)} classes, stored as {forms}")
    if left_out:
        shown = left_out[:10]
        more = f"\n  and {len(left_out) - 10} more, all named in {dest}/manifest.json" if left_out[10:] else ""
        print(f"left out: {len(left_out)}\n  " + "\n  ".join(shown) + more)


def _tell_verified(address: str, found: Verified) -> None:
    if found.faults:
        print("\n".join(found.faults))
        return
    examples = sum(split.examples for split in found.manifest.splits.values())
    print(f"{address}: {found.shards} shards, {examples} examples, {found.bytes} bytes are as they should be")
