"""Shards: read by stock webdataset and tar, the same bytes every time, and nothing unfit accepted."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.manifest import Manifest, Shard, Source, Split, save_manifest
from pipeline.data.shards import Example, index_shard, map_shard, verify, write_split
from pipeline.errors import UserError


def _png(value: int, size: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, 2, 3)).save(buffer, "PNG")
    return buffer.getvalue()


def _examples(count: int) -> list[Example]:
    return [(f"{index:08d}", _png(index), index % 3) for index in range(count)]


def _data_set(folder: Path, train: Split, val: Split | None = None) -> Manifest:
    manifest = Manifest(
        classes=("a", "b", "c"),
        image_size=4,
        resize="none",
        source=Source(kind="drawn", name="test", lossy=False, fingerprint="0" * 64),
        request={},
        splits={"train": train, "val": val or Split(examples=0, shards=())},
    ).sealed()
    save_manifest(folder, manifest)
    return manifest


def test_stock_webdataset_reads_the_shards(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    write_split(tmp_path, "train", _examples(7), 3)
    urls = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    found = list(wds.WebDataset(urls, shardshuffle=False).decode("pil").to_tuple("__key__", "png", "cls"))
    assert [(key, label) for key, _, label in found] == [(key, label) for key, _, label in _examples(7)]
    assert [image.getpixel((0, 0)) for _, image, _ in found] == [(index, 2, 3) for index in range(7)]


def test_stock_tar_reads_the_shards_and_finds_nothing_of_this_machine(tmp_path: Path) -> None:
    write_split(tmp_path, "val", _examples(2), 5)
    with tarfile.open(tmp_path / "val-00000.tar") as archive:
        members = archive.getmembers()
        assert archive.pax_headers == {}
        contents = [archive.extractfile(member).read() for member in members]  # type: ignore[union-attr]
    assert [member.name for member in members] == [f"0000000{i}.{kind}" for i in (0, 1) for kind in ("png", "cls")]
    assert contents == [_png(0), b"0", _png(1), b"1"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_the_entry_describes_the_files(tmp_path: Path) -> None:
    split = write_split(tmp_path, "train", iter(_examples(7)), 3)
    assert [(shard.name, shard.examples) for shard in split.shards] == [
        ("train-00000.tar", 3),
        ("train-00001.tar", 3),
        ("train-00002.tar", 1),
    ]
    assert split.examples == 7
    for shard in split.shards:
        data = (tmp_path / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    assert len(list(tmp_path.iterdir())) == 3  # no temporary file is left


def test_no_examples_make_no_shard(tmp_path: Path) -> None:
    assert write_split(tmp_path, "val", [], 3) == Split(examples=0, shards=())
    assert list(tmp_path.iterdir()) == []


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    entries = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        entries.append(write_split(tmp_path / name, "train", _examples(5), 2))
    assert entries[0] == entries[1]


def test_an_interrupted_shard_never_gets_its_name(tmp_path: Path) -> None:
    def failing() -> object:
        yield from _examples(4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path, "train", failing(), 3)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["train-00000.tar"]


def test_an_index_leads_to_the_bytes(tmp_path: Path) -> None:
    (shard,) = write_split(tmp_path, "train", _examples(5), 10).shards
    with map_shard(tmp_path, shard) as view:
        index = index_shard(view, shard, 3)
        assert {array.dtype for array in index} == {np.dtype(np.int64)}
        assert index.labels.tolist() == [0, 1, 2, 0, 1]
        spans = zip(index.offsets.tolist(), index.lengths.tolist(), strict=True)
        assert [view[start : start + length] for start, length in spans] == [_png(value) for value in range(5)]


def _foreign(folder: Path, members: list[tuple[str, bytes]], examples: int = 1) -> Shard:
    """A shard that somebody else wrote."""
    path = folder / "train-00000.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = path.read_bytes()
    return Shard(name=path.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), examples=examples)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.png", b"x"), ("0.cls", b"3")], r"0\.cls holds b'3', which is not a label from 0 to 2"),
        ([("0.png", b"x"), ("0.cls", b"-1")], r"0\.cls holds b'-1'"),
        ([("0.png", b"x"), ("0.cls", b"cat")], r"0\.cls holds b'cat'"),
        ([("0.png", b"x"), ("0.cls", b"")], r"0\.cls holds b''"),
        ([("0.png", b"x"), ("1.cls", b"0")], r"0\.png is not part of a pair"),
        ([("0.cls", b"0"), ("0.png", b"x")], r"0\.cls is not part of a pair"),
        ([("0.png", b"x")], r"0\.png is not part of a pair"),
        ([("../0.png", b"x"), ("../0.cls", b"0")], r"'\.\./0\.png' at byte 0 is not a member"),
        ([("/0.png", b"x"), ("/0.cls", b"0")], r"'/0\.png' at byte 0 is not a member"),
        ([("0.jpg", b"x"), ("0.cls", b"0")], r"'0\.jpg' at byte 0 is not a member"),
        ([("p" * 120 + "/0.png", b"x"), ("0.cls", b"0")], "at byte 0 is not a member"),
        (
            [("0.png", b"x"), ("0.cls", b"0"), ("1.png", b"x"), ("1.cls", b"0")],
            "holds 2 examples instead of the 1",
        ),
        ([], "holds 0 examples instead of the 1"),
    ],
)
def test_an_unfit_shard_is_refused_by_name(tmp_path: Path, members: list[tuple[str, bytes]], message: str) -> None:
    shard = _foreign(tmp_path, members)
    with (
        map_shard(tmp_path, shard) as view,
        pytest.raises(UserError, match=f"shard train-00000\\.tar.*{message}"),
    ):
        index_shard(view, shard, 3)


def _cut(data: bytes) -> bytes:
    return data[:2048]


def _huge(data: bytes) -> bytes:
    return data[:124] + b"77777777777\0" + data[136:]


def _link(data: bytes) -> bytes:
    return data[:156] + b"2" + data[157:]


@pytest.mark.parametrize(
    ("change", "message"), [(_cut, "cut short"), (_huge, "size of 0.png"), (_link, "is not a member")]
)
def test_a_broken_shard_is_refused_by_name(tmp_path: Path, change: Callable[[bytes], bytes], message: str) -> None:
    shard = _foreign(tmp_path, [("0.png", b"x"), ("0.cls", b"0")])
    path = tmp_path / shard.name
    path.write_bytes(change(path.read_bytes()))
    shard = shard.model_copy(update={"bytes": path.stat().st_size})
    with map_shard(tmp_path, shard) as view, pytest.raises(UserError, match=f"train-00000.*{message}"):
        index_shard(view, shard, 3)


def test_verify_accepts_what_was_written(tmp_path: Path) -> None:
    manifest = _data_set(
        tmp_path,
        write_split(tmp_path, "train", _examples(7), 3),
        write_split(tmp_path, "val", _examples(2), 3),
    )
    assert verify(tmp_path) == manifest
    assert verify(tmp_path / "manifest.json") == manifest


def test_verify_finds_a_single_changed_bit(tmp_path: Path) -> None:
    _data_set(tmp_path, write_split(tmp_path, "train", _examples(7), 3))
    path = tmp_path / "train-00001.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard train-00001\.tar .* was altered: its sha256"):
        verify(tmp_path)


def test_verify_refuses_a_label_without_a_class(tmp_path: Path) -> None:
    _data_set(tmp_path, write_split(tmp_path, "train", [("0", _png(0), 3)], 3))
    with pytest.raises(UserError, match="not a label from 0 to 2"):
        verify(tmp_path)


def test_verify_refuses_a_shard_that_is_not_listed(tmp_path: Path) -> None:
    split = write_split(tmp_path, "train", _examples(2), 3)
    _data_set(tmp_path, split)
    (tmp_path / "train-00001.tar").write_bytes((tmp_path / "train-00000.tar").read_bytes())
    with pytest.raises(UserError, match=r"shard train-00001\.tar .* is not listed"):
        verify(tmp_path)


def test_a_missing_shard_is_refused_by_name(tmp_path: Path) -> None:
    split = write_split(tmp_path, "train", _examples(2), 3)
    (tmp_path / "train-00000.tar").unlink()
    with pytest.raises(UserError, match=r"shard train-00000\.tar .* is missing"):
        map_shard(tmp_path, split.shards[0])


def test_a_shard_size_below_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 1 example"):
        write_split(tmp_path, "train", _examples(2), 0)


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "k" * 91, "ä"])
def test_keys_that_webdataset_would_misread_are_a_fault_of_ours(tmp_path: Path, key: str) -> None:
    with pytest.raises(AssertionError, match="not a fit key"):
        write_split(tmp_path, "train", [(key, b"x", 0)], 3)
