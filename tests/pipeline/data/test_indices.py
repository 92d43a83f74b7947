"""The index of a shard: the same bytes every time, and refused by name when it cannot be right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.indices import (
    ROW,
    IndexHead,
    ShardIndex,
    check_index,
    checksum_of,
    encode_index,
    parse_index,
    safe_key,
)
from pipeline.data.manifest import Shard, Undecodable
from pipeline.errors import UserError

NAME = "8-png/train-00003.tar"
ROWS = [(512, 100, 0, 2**64 - 1), (2048, 7, 2, 5), (4096, 0, 1, 0)]


def _index(rows: list[tuple[int, int, int, int]], size: int = 10_240, **fields: object) -> ShardIndex:
    head = IndexHead(shard=NAME, bytes=size, sha256="a" * 64, examples=len(rows), **fields)  # type: ignore[arg-type]
    return ShardIndex(head=head, rows=np.array(rows, dtype=ROW))


def _entry(data: bytes, index: ShardIndex) -> Shard:
    """What the manifest says of it."""
    return Shard(NAME, index.head.bytes, index.head.sha256, index.head.examples, hashlib.sha256(data).hexdigest())


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**63 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**64 - 1)
        )
    ),
    st.text(),
)
def test_an_index_comes_back_as_it_was(rows: list[tuple[int, int, int, int]], name: str) -> None:
    index = _index(rows, lossy=True, undecodable=(Undecodable(name=name, reason="none"),))
    data = encode_index(index)
    again = parse_index(data, "x.index")
    assert again.head == index.head
    assert np.array_equal(again.rows, index.rows)
    assert encode_index(again) == data


def test_a_row_is_24_bytes_in_one_byte_order() -> None:
    head, packed = encode_index(_index(ROWS[1:2])).split(b"\n")
    assert head.startswith(b'{"bytes":10240,"examples":1,"format":1,')
    assert packed == (2048).to_bytes(8, "little") + (7).to_bytes(4, "little") + b"\2\0\0\0" + b"\5" + bytes(7)


def test_the_index_that_the_manifest_lists_is_accepted() -> None:
    index = _index(ROWS)
    data = encode_index(index)
    assert np.array_equal(check_index(data, _entry(data, index), classes=3).rows, index.rows)
    empty = _index([])
    assert len(check_index(encode_index(empty), _entry(encode_index(empty), empty), classes=3).rows) == 0


def test_any_flipped_byte_and_any_cut_is_noticed() -> None:
    index = _index(ROWS)
    whole = encode_index(index)
    shard = _entry(whole, index)
    for place in range(len(whole)):
        for data in (whole[:place] + bytes([whole[place] ^ 128]) + whole[place + 1 :], whole[:place]):
            with pytest.raises(UserError, match=r"index 8-png/train-00003\.index was altered"):
                check_index(data, shard, classes=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "holds 71 bytes of rows instead of 72"),
        (lambda data: data + b"\0", "holds 73 bytes of rows instead of 72"),
        (lambda data: data.split(b"\n")[0], "holds 0 bytes of rows instead of 72"),
        (lambda data: b"", "cannot be read"),
        (lambda data: data.replace(b'"format":1', b'"format":2'), "cannot be read"),
    ],
)
def test_what_is_no_index_is_refused_by_name(change: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(UserError, match=f"the index some.index {message}"):
        parse_index(change(encode_index(_index(ROWS))), "some.index")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(10_000, 241, 0, 0)], "points outside its shard of 10240 bytes"),
        ([(-1, 5, 0, 0)], "points outside"),
        ([(5, -1, 0, 0)], "points outside"),
        ([(0, 1, 3, 0)], "a label outside 0 to 2"),
        ([(0, 1, -1, 0)], "a label outside 0 to 2"),
    ],
)
def test_rows_that_cannot_be_right_are_refused(rows: list[tuple[int, int, int, int]], message: str) -> None:
    index = _index(rows)
    data = encode_index(index)
    with pytest.raises(UserError, match=f"train-00003.index .*{message}"):
        check_index(data, _entry(data, index), classes=3)


@pytest.mark.parametrize("change", [{"bytes": 10_241}, {"sha256": "b" * 64}, {"examples": 4}])
def test_an_index_of_another_shard_is_refused(change: dict[str, object]) -> None:
    index = _index(ROWS)
    data = encode_index(index)
    with pytest.raises(UserError, match="describes another shard"):
        check_index(data, _entry(data, index)._replace(**change), classes=3)  # type: ignore[arg-type]


def test_the_checksum_is_xxh3() -> None:
    assert checksum_of(b"") == 0x2D06800538D394C2  # of the algorithm's specification
    assert checksum_of(memoryview(b"abc")) == checksum_of(b"abc") != checksum_of(b"abd")


def test_keys_that_webdataset_would_misread_are_not_safe() -> None:
    assert safe_key("00000012")
    assert not any(map(safe_key, ("a.b", "a/b", "", "k" * 91, "ä", "a b", "a\n")))
