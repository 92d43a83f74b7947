"""Objects below a prefix of an S3 bucket, of Amazon's or any other store that speaks S3.

With ``s3_requests``, which repeats what fails, the only part of the data path that knows boto3; ``open_objects``
imports it when it meets such an address, and not before. Every verb is safe to repeat and to kill: it reads, or it
replaces a whole object. What is left of a killed upload of many parts is invisible here, but costs room until a rule
of the bucket removes it (``AbortIncompleteMultipartUpload``).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from pipeline.errors import UserError
from pipeline.objects import MissingObject, check_name, ends_early, new_file
from pipeline.s3_requests import NotStored, S3Requests

PIECE = 32 << 20  # bytes of one request of a long transfer: what is lost when it breaks off, and what memory holds
MOST_PARTS = 10_000  # of one object, says S3


@dataclass(frozen=True)
class S3Objects:
    """Objects of ``bucket`` whose keys begin with ``prefix/``; nothing is asked of the store before the first verb."""

    bucket: str
    prefix: str = ""
    requests: S3Requests = field(default_factory=S3Requests)
    piece: int = PIECE

    @property
    def address(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    def read(self, name: str) -> bytes:
        where = self._where(name)
        return self.requests.tried(self._told(name), lambda client: client.get_object(**where)["Body"].read())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        return self._range(name, start, length)

    def size(self, name: str) -> int | None:
        head = self._head(name)
        return None if head is None else head["ContentLength"]

    def age(self, name: str) -> float | None:
        """Seconds since an object was written, both times as the store has them; None where there is none."""
        head = self._head(name)
        if head is None:
            return None
        now = parsedate_to_datetime(head["ResponseMetadata"]["HTTPHeaders"]["date"])
        return max(0.0, (now - head["LastModified"]).total_seconds())

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        below = f"{self.prefix}/" if self.prefix else ""
        for answer in self._pages(prefix, Prefix=below + prefix):
            for entry in answer.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # consoles make such objects to show an empty folder
                    yield entry["Key"].removeprefix(below), entry["Size"]

    def _pages(self, told: str, **asked: str) -> Iterator[dict[str, Any]]:
        """Every answer of a listing."""
        page: dict[str, Any] = {"Bucket": self.bucket, **asked}
        while True:
            answer = self.requests.tried(self._told(told), lambda client: client.list_objects_v2(**page))
            yield answer
            if not answer["IsTruncated"]:
                return
            page["ContinuationToken"] = answer["NextContinuationToken"]

    def below(self, prefix: str) -> list[str]:
        start = "/".join(part for part in (self.prefix, prefix) if part)
        start += "/" if start else ""
        found: set[str] = set()
        for answer in self._pages(prefix, Prefix=start, Delimiter="/"):
            found |= {entry["Key"].removeprefix(start) for entry in answer.get("Contents", ())}
            found |= {entry["Prefix"].removeprefix(start).rstrip("/") for entry in answer.get("CommonPrefixes", ())}
        return sorted(found - {""})

    def write(self, name: str, data: bytes) -> None:
        where = self._where(name)

        def act(client: Any) -> None:
            client.put_object(**where, ContentMD5=_md5(data), Body=data)
            _check_stored(client, where, len(data))  # in the same try: what was swallowed is sent again

        self.requests.tried(self._told(name), act)

    def write_unchecked(self, name: str, data: bytes) -> None:
        """As ``write``, without asking whether it arrived: one request less, for what may be lost."""
        where = self._where(name)
        self.requests.tried(self._told(name), lambda client: client.put_object(**where, Body=data))

    def create(self, name: str, data: bytes) -> bool:
        where = self._where(name)

        def act(client: Any) -> bool:
            try:
                client.put_object(**where, ContentMD5=_md5(data), IfNoneMatch="*", Body=data)
            except ClientError as error:
                if error.response["Error"]["Code"] != "PreconditionFailed":
                    raise
                return False
            _check_stored(client, where, len(data))
            return True

        # An object that was there already may be of an earlier try of ours, whose answer was lost.
        return self.requests.tried(self._told(name), act) or self.read(name) == data

    def upload(self, name: str, file: Path) -> None:
        size = file.stat().st_size
        if size <= self.piece:
            self.write(name, file.read_bytes())
            return
        where, told = self._where(name), self._told(name)
        begun = self.requests.tried(told, lambda client: client.create_multipart_upload(**where))
        where["UploadId"] = begun["UploadId"]
        try:
            self._upload_parts(name, file, size, where)
        except BaseException:
            with contextlib.suppress(UserError):  # what went wrong first is the one to tell
                self.requests.tried(told, lambda client: client.abort_multipart_upload(**where))
            raise
        self.requests.tried(told, lambda client: _check_stored(client, self._where(name), size))

    def fetch(self, name: str, file: Path) -> None:
        head = self._head(name)
        if head is None:
            raise MissingObject(f"{self._told(name)} is not there")
        size = head["ContentLength"]
        with new_file(file) as target:
            for start in range(0, size, self.piece):
                # All of one version: pieces of two would fit together unnoticed.
                target.write(self._range(name, start, min(self.piece, size - start), IfMatch=head["ETag"]))

    def remove(self, name: str) -> None:
        where = self._where(name)
        self.requests.tried(self._told(name), lambda client: client.delete_object(**where))

    def _told(self, name: str) -> str:
        return f"{self.address}/{name}"

    def _where(self, name: str) -> dict[str, Any]:
        check_name(name, self.address)
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{name}" if self.prefix else name}

    def _head(self, name: str) -> dict[str, Any] | None:
        where = self._where(name)
        try:
            return self.requests.tried(self._told(name), lambda client: client.head_object(**where))
        except MissingObject:
            # The answer to HEAD has no body, so it does not tell a missing object from a missing bucket.
            if not self.requests.served:
                next(self.names(), None)
            return None

    def _range(self, name: str, start: int, length: int, **conditions: str) -> bytes:
        assert min(start, length) >= 0, f"{length} bytes from {start} on"
        asked = {**self._where(name), "Range": f"bytes={start}-{start + length - 1}", **conditions}

        def act(client: Any) -> bytes:
            try:
                answer = client.get_object(**asked)
            except ClientError as error:
                if error.response["Error"]["Code"] == "InvalidRange":
                    raise ends_early(name, self.address, start, length) from error
                raise
            told = answer.get("ContentRange", "")
            if not told.startswith(f"bytes {start}-"):
                raise UserError(f"{self._told(name)}: the store gave {told or 'everything'} instead of a range")
            return answer["Body"].read()

        data = self.requests.tried(self._told(name), act) if length else b""
        if len(data) != length:
            raise ends_early(name, self.address, start, length)
        return data

    def _upload_parts(self, name: str, file: Path, size: int, where: dict[str, Any]) -> None:
        part_size = max(self.piece, -(-size // MOST_PARTS))
        parts: list[dict[str, Any]] = []
        with file.open("rb") as source:
            while data := source.read(part_size):
                parts.append(self._upload_part(name, {**where, "PartNumber": len(parts) + 1}, data))
        whole = {**where, "MultipartUpload": {"Parts": parts}}
        self.requests.tried(self._told(name), lambda client: client.complete_multipart_upload(**whole))

    def _upload_part(self, name: str, where: dict[str, Any], data: bytes) -> dict[str, Any]:
        part = {**where, "ContentMD5": _md5(data), "Body": data}
        answer = self.requests.tried(self._told(name), lambda client: client.upload_part(**part))
        return {"PartNumber": where["PartNumber"], "ETag": answer["ETag"]}


def _check_stored(client: Any, where: dict[str, Any], size: int) -> None:
    """A store or a proxy may swallow what went wrong with an upload, so it is asked how much it holds.

    What was to replace as many bytes and was swallowed is not found out: not every store has an MD5 to compare.
    """
    try:
        stored = client.head_object(**where)["ContentLength"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "404":
            raise NotStored("nothing is stored") from error
        raise
    if stored != size:
        raise NotStored(f"{stored} bytes are stored instead of {size}")


def _md5(data: bytes) -> str:
    """As S3 takes it, to refuse what was altered on its way."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
