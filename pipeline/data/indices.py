"""The index beside a shard: where each example lies, its label and a checksum of its bytes. No image is looked at.

An index object is one line of JSON (which shard, its bytes and sha256, what was left out of it) and then, per
example, a packed row of 24 bytes. It is written after its shard, so a shard with an index is whole: that is all that
a resumed ingest needs to know. The manifest lists the sha256 of every index, so whoever holds the manifest can check
the index, and whoever holds the index can check any example without reading the rest of the shard.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import xxhash
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.data.manifest import Sha256, Shard, Undecodable
from pipeline.errors import UserError

ROW = np.dtype([("offset", "<i8"), ("length", "<i4"), ("label", "<i4"), ("checksum", "<u8")])
Rows = npt.NDArray[np.void]  # of dtype ROW


class IndexHead(BaseModel):
    """What an index says of its shard as a whole."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    shard: str
    bytes: int = Field(ge=0)
    sha256: Sha256
    examples: int = Field(ge=0)
    lossy: bool = False
    undecodable: tuple[Undecodable, ...] = ()


class ShardIndex(BaseModel):
    """An index object: its head and its rows, in the order of the shard."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    head: IndexHead
    rows: Annotated[Rows, Field(repr=False)]


def checksum_of(data: bytes | memoryview) -> int:
    """The checksum of an example's bytes: XXH3, 64 bits. It finds damage, not malice (sha256 of the shard does)."""
    return xxhash.xxh3_64_intdigest(data)


def encode_index(index: ShardIndex) -> bytes:
    """The bytes of an index object; a function of its content alone."""
    assert index.rows.dtype == ROW, index.rows.dtype
    assert len(index.rows) == index.head.examples, "rows and head of an index belong together"
    head = json.dumps(index.head.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return head.encode("ascii") + b"\n" + index.rows.tobytes()


def parse_index(data: bytes, name: str) -> ShardIndex:
    """The index that ``data`` is; ``name`` is for the messages. Raises UserError for anything else."""
    line, mark, packed = data.partition(b"\n")
    try:
        head = IndexHead.model_validate_json(line)
    except ValidationError as error:
        raise UserError(f"the index {name} cannot be read: {error.errors()[0]['msg']}; ingest the data again") from None
    if not mark or len(packed) != head.examples * ROW.itemsize:
        raise UserError(
            f"the index {name} holds {len(packed)} bytes of rows instead of {head.examples * ROW.itemsize}; "
            "it was cut short or altered, ingest the data again"
        )
    return ShardIndex(head=head, rows=np.frombuffer(packed, dtype=ROW))


def check_index(data: bytes, shard: Shard, classes: int) -> ShardIndex:
    """The index of ``shard`` from its bytes, checked against the manifest's entry.

    Raises UserError naming the index when it is not the one that the manifest lists, or when a row of it cannot be
    right (bytes outside the shard, a label outside 0 to ``classes`` - 1): then writer and manifest were wrong alike.
    """
    name = shard.index_name
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        raise UserError(f"the index {name} was altered: its sha256 is not the one in the manifest; ingest again")
    index = parse_index(data, name)
    rows, head = index.rows, index.head
    if (head.bytes, head.sha256, head.examples) != (shard.bytes, shard.sha256, shard.examples):
        raise UserError(f"the index {name} describes another shard than the manifest does; ingest the data again")
    ends = rows["offset"] + rows["length"]
    if len(rows) and (rows["offset"].min() < 0 or rows["length"].min() < 0 or ends.max() > shard.bytes):
        raise UserError(f"the index {name} points outside its shard of {shard.bytes} bytes; ingest the data again")
    if len(rows) and not 0 <= rows["label"].min() <= rows["label"].max() < classes:
        raise UserError(f"the index {name} holds a label outside 0 to {classes - 1}; ingest the data again")
    return index


def safe_key(text: str) -> bool:
    """Whether ``text`` can be the key of an example: a dot would end it for WebDataset, a slash would be a folder."""
    return re.fullmatch(r"[A-Za-z0-9_-]{1,90}", text) is not None
