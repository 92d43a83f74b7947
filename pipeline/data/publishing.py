"""An address becomes a data set at one moment: claimed, written, then published by its manifest. Knows no images.

While it is being written the address holds a marker with the request, which says that the shards there are ours and
what they are made for: the same request goes on where it was cut off, another one is refused. An address that holds
other files and no marker is never written into.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, NamedTuple

from pipeline.data.indices import IndexHead
from pipeline.data.manifest import (
    MANIFEST_NAME,
    SPLITS,
    Form,
    Manifest,
    ShardColumns,
    Source,
    Split,
    SplitName,
    Undecodable,
    is_ours,
    load_manifest,
    save_manifest,
)
from pipeline.errors import UserError
from pipeline.leases import Lease, Owner, this_process
from pipeline.objects import LocalObjects, MissingObject, Objects

MARKER = "INCOMPLETE"
SCRATCH = ".scratch"
CLAIM = ".claim"  # of a bucket, which has no locks
_FINGERPRINTS = {"fingerprint": "source", "val_fingerprint": "val"}  # of which of the things asked for
_CUT_OFF = re.compile(r"\.[0-9a-f]{32}\.part")  # what `LocalObjects.write` had begun when it was killed


class Request(NamedTuple):
    """What a data set is asked to be: two equal requests give the same bytes."""

    kind: str
    name: str
    fingerprint: str
    forms: tuple[Form, ...]
    resize: str
    numbers: dict[str, int | float | str]

    def described(self) -> dict[str, Any]:
        """By the words that a person would use, to compare and to tell what differs."""
        return {
            "kind of source": self.kind,
            "source": self.name,
            "forms": [form.model_dump(mode="json") for form in self.forms],
            "way of resizing": self.resize,
            **self.numbers,
            "fingerprint": self.fingerprint,
        }


class WrittenShard(NamedTuple):
    """A shard in one form, as it was written: the head of its index, and the sha256 of the index object."""

    head: IndexHead
    index_sha256: str


class Written(NamedTuple):
    """What came out: per split the shards, each in every form; classes; what was never an image to begin with."""

    classes: tuple[str, ...]
    splits: dict[SplitName, list[tuple[WrittenShard, ...]]]
    left_out: tuple[Undecodable, ...] = ()


def publish(objects: Objects, request: Request, write: Callable[[], Written]) -> Manifest:
    """Let ``write`` fill an address with shards, then publish the manifest; one of an equal request is returned as is.

    A second process waits for the first, and is then given its data set, or refused. Raises UserError when the address
    holds a data set of another request (naming what differs), an unfinished one of another request, or files that are
    not ours.
    """
    if (found := _found(objects, request)) is not None:
        return found
    with _claimed(objects):
        if (found := _found(objects, request)) is not None:
            return found  # by whom we waited for
        ours = _mark(objects, request)
        try:
            written = write()
        except UserError:
            # An owner in a bucket that was slow may have been replaced: another may be writing under its marker.
            alone = ours or isinstance(objects, LocalObjects)
            if alone and not any(is_ours(name) for name, _ in objects.names()):
                _unmark(objects)  # a mistake is to be mended, and the address free for the mended request
            raise
        manifest = _describe(request, written)
        save_manifest(objects, manifest)
        _unmark(objects)
    return manifest


def _found(objects: Objects, request: Request) -> Manifest | None:
    """The data set that is there, None where there is none. Raises UserError for one of another request."""
    if objects.size(MANIFEST_NAME) is None:
        return None
    manifest = load_manifest(objects.address)
    if objects.size(MARKER) is not None:  # a writer was killed between the manifest and the end
        _unmark(objects)
    _refuse_difference(objects.address, "a data set", _request_of(manifest), request)
    return manifest


def _unmark(objects: Objects) -> None:
    """Leave nothing but the data set. The marker goes last: while it is there, whatever is hidden here is ours."""
    if isinstance(objects, LocalObjects):
        shutil.rmtree(objects.root / SCRATCH, ignore_errors=True)
        for path in objects.root.rglob(".*.part"):
            if _CUT_OFF.fullmatch(path.name):
                path.unlink(missing_ok=True)
    objects.remove(MARKER)


def _mark(objects: Objects, request: Request) -> bool:
    """Claim the address for the request (True), or find that it is claimed for it (False)."""
    try:
        there = objects.read(MARKER)
    except MissingObject:
        if foreign := next((name for name, _ in objects.names() if not name.startswith(f"{CLAIM}/")), None):
            raise UserError(
                f"{objects.address} is no data set but holds {foreign!r}, which is not ours; name a new or empty folder"
            ) from None
        objects.write(MARKER, json.dumps(request.described()).encode())
        return True
    try:
        _refuse_difference(objects.address, "the beginning of a data set", dict(json.loads(there)), request)
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
        raise UserError(f"{objects.address}/{MARKER} cannot be read; remove it with what lies beside it") from None
    if stranger := next((name for name, _ in objects.names() if not _may_lie_there(name)), None):
        raise UserError(f"{objects.address} holds {stranger!r} beside an unfinished data set; move it elsewhere")
    return False


def _may_lie_there(name: str) -> bool:
    return is_ours(name) or name == MARKER or "/." in f"/{name}"


def _describe(request: Request, written: Written) -> Manifest:
    heads = [shard.head for split in SPLITS for shards in written.splits[split] for shard in shards[:1]]
    undecodable = written.left_out + tuple(item for head in heads for item in head.undecodable)
    source = {
        "kind": request.kind,
        "name": request.name,
        "lossy": any(head.lossy for head in heads),
        "fingerprint": request.fingerprint,
    }
    return Manifest(
        classes=written.classes,
        forms=request.forms,
        resize=request.resize,
        source=Source.model_validate(source),
        request=request.numbers,
        splits={split: _columns(request.forms, written.splits[split]) for split in SPLITS},
        undecodable=tuple(sorted(undecodable, key=lambda item: item.name)),
    ).sealed()


def _columns(forms: tuple[Form, ...], shards: list[tuple[WrittenShard, ...]]) -> Split:
    by_form = {}
    for place, form in enumerate(forms):
        column = [shard[place] for shard in shards]
        by_form[form.name] = ShardColumns(
            bytes=tuple(shard.head.bytes for shard in column),
            sha256=tuple(shard.head.sha256 for shard in column),
            index_sha256=tuple(shard.index_sha256 for shard in column),
        )
    return Split(counts=tuple(shard[0].head.examples for shard in shards), shards=by_form)


def _claimed(objects: Objects) -> AbstractContextManager[None]:
    """Be the only process that writes there: in the block a data set is made, or an error is raised."""
    return _locked(objects) if isinstance(objects, LocalObjects) else _leased(objects)


@contextmanager
def _leased(objects: Objects) -> Iterator[None]:
    lease = Lease(objects, CLAIM, Owner(owner=this_process(), since=time.time()))
    lease.take(wait=True)
    try:
        yield
    finally:
        lease.release()
        with suppress(UserError):  # traces harm nobody
            if objects.size(MANIFEST_NAME) is not None:  # which whoever waits looks for, and then wants no more
                lease.forget()


@contextmanager
def _locked(objects: LocalObjects) -> Iterator[None]:
    try:
        objects.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {objects.root} for the data set cannot be made: {error.strerror}") from None
    handle = os.open(objects.root, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks; renames alone keep readers safe there
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # and with it the lock


def _request_of(manifest: Manifest) -> dict[str, Any]:
    source = manifest.source
    forms, numbers = manifest.forms, manifest.request
    return Request(source.kind, source.name, source.fingerprint, forms, manifest.resize, numbers).described()


def _refuse_difference(address: str, what: str, there: dict[str, Any], request: Request) -> None:
    asked = request.described()
    names = [name for name in dict.fromkeys([*asked, *there]) if there.get(name) != asked.get(name)]
    different = [
        f"{name} {_words(there.get(name))} instead of {_words(asked.get(name))}"
        for name in names
        if name not in _FINGERPRINTS
    ]
    if names and not different:
        different = [f"an earlier content of {asked[_FINGERPRINTS[name]]!r}" for name in names]
    if different:
        raise UserError(f"{address} already holds {what} with {', '.join(different)}; name another folder or remove it")


def _words(value: Any) -> str:
    if isinstance(value, list):  # forms
        return " and ".join(
            f"{form['size']}-{form['encoding']}" + (f" of quality {form['quality']}" if form["quality"] else "")
            for form in value
        )
    return repr(value)
