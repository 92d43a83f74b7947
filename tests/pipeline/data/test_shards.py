"""Shards: read by stock webdataset and tar in every form, the same bytes every time, headers read strictly."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data.encoding import decode_image, encode_image
from pipeline.data.indices import ROW, ShardIndex, checksum_of
from pipeline.data.manifest import Encoding, Form, Undecodable
from pipeline.data.shards import Member, ShardWriter, members
from pipeline.errors import UserError

FORMS = {
    "png": Form(size=8, encoding="png"),
    "webp": Form(size=8, encoding="webp"),
    "jpg": Form(size=8, encoding="jpeg", quality=90),
    "npy": Form(size=8, encoding="raw"),
}


def _image(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def _write(path: Path, form: Form, count: int = 5) -> ShardIndex:
    with ShardWriter(path, f"{form.name}/train-00000.tar", form.encoding) as writer:
        for number in range(count):
            writer.add(f"{number:08d}", encode_image(_image(number), form), number % 3)
        return writer.finish()


@pytest.mark.parametrize("suffix", FORMS)
def test_stock_webdataset_reads_the_shards(tmp_path: Path, suffix: str) -> None:
    wds = pytest.importorskip("webdataset")
    form = FORMS[suffix]
    index = _write(tmp_path / "train-00000.tar", form)
    data = (tmp_path / "train-00000.tar").read_bytes()
    stock = wds.WebDataset(str(tmp_path / "train-00000.tar"), shardshuffle=False).decode("rgb8")
    found = list(stock.to_tuple("__key__", suffix, "cls"))
    assert [(key, label) for key, _, label in found] == [(f"{number:08d}", number % 3) for number in range(5)]
    for (_, pixels, _), (begin, length, _, _) in zip(found, index.rows.tolist(), strict=True):
        assert (pixels.dtype, pixels.shape) == (np.uint8, (8, 8, 3))
        ours = decode_image(data[begin : begin + length], form, 8)
        # Two decoders of JPEG may differ in the last digit; everything else is exact.
        assert np.abs(pixels.astype(int) - ours.astype(int)).max() <= (2 if suffix == "jpg" else 0)


def test_stock_tar_reads_the_shards_and_finds_nothing_of_this_machine(tmp_path: Path) -> None:
    _write(tmp_path / "shard.tar", FORMS["npy"], 2)
    with tarfile.open(tmp_path / "shard.tar") as archive:
        found = archive.getmembers()
        assert archive.pax_headers == {}
        contents = [archive.extractfile(member).read() for member in found]  # type: ignore[union-attr]
    assert [member.name for member in found] == [f"0000000{i}.{kind}" for i in (0, 1) for kind in ("npy", "cls")]
    assert np.array_equal(np.load(io.BytesIO(contents[0]), allow_pickle=False), np.asarray(_image(0)))
    assert (contents[1], contents[3]) == (b"0", b"1")
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in found} == {(0, 0, 0, "", "", 0o644)}


@pytest.mark.parametrize("form", FORMS.values())
def test_the_index_leads_to_the_bytes_and_describes_the_file(tmp_path: Path, form: Form) -> None:
    index = _write(tmp_path / "shard.tar", form)
    data = (tmp_path / "shard.tar").read_bytes()
    assert (index.head.bytes, index.head.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert (index.head.examples, index.head.shard) == (5, f"{form.name}/train-00000.tar")
    assert index.rows["label"].tolist() == [0, 1, 2, 0, 1]
    for number, (begin, length, _, checksum) in enumerate(index.rows.tolist()):
        stored = data[begin : begin + length]
        assert stored == encode_image(_image(number), form)
        assert checksum_of(stored) == checksum


def test_the_same_examples_give_the_same_bytes(tmp_path: Path) -> None:
    indices = [_write(tmp_path / name, FORMS["png"]) for name in ("one", "two")]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert indices[0].head == indices[1].head


def test_a_shard_may_be_empty_and_says_what_was_left_out(tmp_path: Path) -> None:
    gone = Undecodable(name="a/1.png", reason="no image")
    with ShardWriter(tmp_path / "shard.tar", "8-png/val-00000.tar", "png") as writer:
        index = writer.finish(lossy=True, undecodable=[gone])
    assert (index.head.examples, index.head.undecodable, index.head.lossy) == (0, (gone,), True)
    assert index.rows.dtype == ROW
    with tarfile.open(tmp_path / "shard.tar") as archive:
        assert archive.getmembers() == []


def test_members_are_what_was_written(tmp_path: Path) -> None:
    index = _write(tmp_path / "shard.tar", FORMS["png"], 2)
    view = memoryview((tmp_path / "shard.tar").read_bytes())
    spans = [(int(row["offset"]), int(row["length"])) for row in index.rows]
    found = list(members(view, "shard"))
    assert found[::2] == [Member("00000000", "png", *spans[0]), Member("00000001", "png", *spans[1])]
    assert [bytes(view[at : at + length]) for _, _, at, length in found[1::2]] == [b"0", b"1"]


@pytest.mark.parametrize("key", ["a.b", "a/b", "", "k" * 91, "ä"])
def test_keys_that_webdataset_would_misread_are_a_fault_of_ours(tmp_path: Path, key: str) -> None:
    with ShardWriter(tmp_path / "shard.tar", "x", "png") as writer, pytest.raises(AssertionError, match="not a fit"):
        writer.add(key, b"png", 0)


@pytest.mark.parametrize(("key", "data", "label"), [("0", b"png", 1), ("1", b"png", -1), ("1", b"12345", 0)])
def test_what_would_make_no_example_is_a_fault_of_ours(tmp_path: Path, key: str, data: bytes, label: int) -> None:
    encoding: Encoding = "raw"
    with ShardWriter(tmp_path / "shard.tar", "x", encoding) as writer:
        writer.add("0", bytes(12), 0)
        with pytest.raises(AssertionError):
            writer.add(key, data, label)


def _foreign(*names: str) -> bytes:
    """An archive that somebody else wrote."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
    return file.getvalue()


@pytest.mark.parametrize("name", ["../0.png", "/0.png", "0.gif", "0.png.cls", "p" * 120 + "/0.png", "é.png"])
def test_a_member_of_another_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"shard s\.tar: .* at byte 1024 is not a member"):
        list(members(memoryview(_foreign("0.png", name)), "s.tar"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:2048], "is cut short: it has no end mark"),
        (lambda data: data[:700], "the size of 0.png at byte 0 cannot be right|cut short"),
        (lambda data: b"", "is cut short"),
        (lambda data: data[:124] + b"77777777777\0" + data[136:], "the size of 0.png at byte 0 cannot be right"),
        (lambda data: data[:124] + b"\x80" + data[125:], "the size of 0.png at byte 0 cannot be right"),
        (lambda data: data[:156] + b"2" + data[157:], "at byte 0 is not a member"),
        (lambda data: data[:345] + b"x" + data[346:], "at byte 0 is not a member"),
        (lambda data: data[:257] + b"x" + data[258:], "at byte 0 is not a member"),
    ],
)
def test_a_broken_shard_is_refused_by_name(change: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(UserError, match=rf"shard s\.tar.*({message})"):
        list(members(memoryview(change(_foreign("0.png", "0.cls"))), "s.tar"))
