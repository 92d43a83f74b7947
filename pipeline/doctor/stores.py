"""Whether a store does what Rayfall and Ray ask of one; a probe object is written and deleted again."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.doctor.findings import Findings, Trouble
from pipeline.errors import UserError, first_line
from pipeline.objects import LocalObjects, Objects, open_objects

CHECKSUMS, REQUIRED = "AWS_REQUEST_CHECKSUM_CALCULATION", "WHEN_REQUIRED"  # as in pipeline.cluster.ENVIRONMENT
SKEW = 60.0  # seconds; S3 refuses requests beyond 15 minutes, and times in logs mislead long before
ATTEMPTS = 3  # of each request: a doctor does not wait for a store to recover


def open_store(address: str) -> Objects:
    """As ``open_objects``, less patient with a bucket."""
    objects = open_objects(address)
    if isinstance(objects, LocalObjects):
        return objects
    from pipeline.s3 import S3Objects
    from pipeline.s3_requests import S3Requests

    assert isinstance(objects, S3Objects), "an address is a folder's or a bucket's"
    return replace(objects, requests=S3Requests(attempts=ATTEMPTS))


def check_store(address: str, findings: Findings) -> bool:
    """All checks of a store; whether the verbs work."""
    try:
        objects = open_store(address)
    except UserError as error:
        return findings.add("store", False, str(error))
    with removed_after(objects) as name:
        if not findings.check("store verbs", lambda: check_verbs(objects, name)):
            return False
        findings.check("store conditional put", lambda: check_condition(objects, name))
    findings.check("store clock", lambda: check_clock(objects))
    if not isinstance(objects, LocalObjects):
        with removed_after(objects) as name:
            findings.check("store pyarrow", lambda: check_pyarrow(objects, name))
    return True


@contextmanager
def removed_after(objects: Objects) -> Iterator[str]:
    """A name for a probe, which is deleted afterwards."""
    name = f"doctor-{uuid.uuid4().hex}"
    try:
        yield name
    finally:
        with suppress(UserError):  # what went wrong before is the one to tell
            objects.remove(name)


def check_verbs(objects: Objects, name: str) -> str:
    """Create, look at, read, list and delete an object; a sentence for the first that does not what it should."""
    data = os.urandom(1000)
    if not objects.create(name, data):
        raise Trouble(f"{objects.address}/{name} cannot be created, although nobody has; check the store")
    if objects.size(name) != len(data) or objects.read(name) != data:
        raise Trouble(f"{objects.address} gives back other bytes than it was given; use another store")
    if name not in objects.below(""):
        raise Trouble(f"{objects.address} does not list what it was given; use a store whose listings are consistent")
    objects.remove(name)
    if objects.size(name) is not None:
        raise Trouble(f"{objects.address} still has what was deleted; allow deleting, or use another store")
    return f"{objects.address}: create, head, get, list and delete work"


def check_condition(objects: Objects, name: str) -> str:
    """Create an object twice: the second must be refused, since checkpoints are published so."""
    first, second = os.urandom(100), os.urandom(100)
    objects.create(name, first)
    if objects.create(name, second) or objects.read(name) != first:
        told = "lets a second writer replace what the first created (it ignores If-None-Match)"
        raise Trouble(f"{objects.address} {told}; use a store that honours it, or two runs may mix their results")
    return "a second create of one object is refused"


def check_clock(objects: Objects) -> str:
    """Compare this machine's clock with the store's."""
    skew = time.time() - (_file_time(objects) if isinstance(objects, LocalObjects) else _bucket_time(objects))
    if abs(skew) > SKEW:
        raise Trouble(f"this machine's clock is {skew:+.0f} s off that of {objects.address}; set it by NTP")
    return f"{abs(skew):.0f} s apart"


def _file_time(objects: LocalObjects) -> float:
    """Of a file that is written now: a file server's clock, where there is one."""
    with removed_after(objects) as name:
        objects.write(name, b"now")
        return objects.path(name).stat().st_mtime


def _bucket_time(objects: Any) -> float:
    def ask(client: Any) -> dict[str, Any]:
        answer: dict[str, Any] = client.list_objects_v2(Bucket=objects.bucket, MaxKeys=1)
        return answer

    answer = objects.requests.tried(objects.address, ask)
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()


def check_pyarrow(objects: Any, name: str) -> str:
    """Upload, look at and read an object as Ray does it in a run, which has the uploads in the form that every store
    takes unless the environment says otherwise."""
    before = os.environ.get(CHECKSUMS)
    try:
        with _checksums(before or REQUIRED):
            upload_by_pyarrow(objects, name)
    except OSError as error:
        if before not in (None, REQUIRED) and _helps(objects, name):
            remedy = f"unset {CHECKSUMS}, which is {before}, wherever Ray is started"
            raise Trouble(
                f"{objects.address} refuses the chunked uploads of pyarrow, and so of Ray; {remedy}"
            ) from error
        raise Trouble(f"pyarrow, which Ray stores with, cannot use {objects.address}: {first_line(error)}") from error
    return "uploads of pyarrow, which Ray stores with, arrive"


def _helps(objects: Any, name: str) -> bool:
    try:
        with _checksums(REQUIRED):
            upload_by_pyarrow(objects, name)
    except OSError:
        return False
    return True


@contextmanager
def _checksums(value: str) -> Iterator[None]:
    before = os.environ.get(CHECKSUMS)
    os.environ[CHECKSUMS] = value
    try:
        yield
    finally:
        os.environ.pop(CHECKSUMS)
        if before is not None:
            os.environ[CHECKSUMS] = before


def upload_by_pyarrow(objects: Any, name: str) -> None:
    """Put, HEAD and get of one object. Raises OSError: a failed upload may say nothing until it is looked for."""
    from pyarrow.fs import FileType, S3FileSystem

    client = objects.requests.tried(objects.address, lambda client: client)
    files = S3FileSystem(
        endpoint_override=client.meta.endpoint_url,
        region=client.meta.region_name,
        connect_timeout=5,
        request_timeout=20,
    )
    path = "/".join(part for part in (objects.bucket, objects.prefix, name) if part)
    data = os.urandom(1000)
    with files.open_output_stream(path) as stream:
        stream.write(data)
    if files.get_file_info(path).type != FileType.File:
        raise OSError("what was uploaded is not there")
    with files.open_input_stream(path) as stream:
        if stream.read() != data:
            raise OSError("what was uploaded comes back altered")
