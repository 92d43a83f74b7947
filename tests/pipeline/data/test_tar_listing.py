"""Tars of every make listed with their bytes found, and none that is damaged or cut taken for whole."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.data import listings
from pipeline.data.listings import Listing
from pipeline.data.tar_listing import Archive, ReadAhead, list_tar, walk_members
from pipeline.errors import UserError


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _write(path: Path, members: Sequence[tuple[str, bytes] | tarfile.TarInfo], style: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=style) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                _add(archive, *member)
    return path


def _special(name: str, kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _archive(path: Path, block: int = 1 << 20) -> Archive:
    return Archive(str(path.parent), path.name, 0, path.stat().st_size, path.name, block=block)


def _refusal(path: Path) -> str:
    """Why an archive is refused; empty when it is not."""
    try:
        list_tar(_archive(path))
    except UserError as error:
        return str(error)
    return ""


def _bytes(listing: Listing) -> dict[str, bytes]:
    found = {}
    for file in listing.files:
        data = Path(listing.address, file.where).read_bytes()
        found[file.name] = data[file.offset : file.offset + file.length]
    return found


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("block", [512, 5000, 1 << 20])
def test_bytes_are_where_the_listing_says(tmp_path: Path, style: int, block: int) -> None:
    draw = random.Random(1)
    files = {
        f"{'c' * draw.randrange(1, 90)}/{number}.png": draw.randbytes(draw.randrange(9000)) for number in range(60)
    }
    path = _write(tmp_path / "a.tar", list(files.items()), style)
    listing = list_tar(_archive(path, block))
    assert _bytes(listing) == files
    assert [file.name for file in listing.files] == sorted(files)
    assert listing.left_out == []


@pytest.mark.parametrize("style", ["v7", "oldgnu", "gnu", "ustar", "pax"])
def test_archives_of_gnu_tar(tmp_path: Path, style: str) -> None:
    files = {"./top/a/1.png": b"one", "./top/b/" + "x" * 60 + ".png": bytes(70000), "./top/b/2.png": b""}
    if style in ("oldgnu", "gnu", "pax"):
        files["./top/" + "y" * 120 + "/" + "z" * 200 + ".png"] = b"long"
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    path = tmp_path / "made.tar"
    subprocess.run(["tar", f"--format={style}", "-cf", path, "-C", tmp_path, "./top"], check=True)
    assert _bytes(list_tar(_archive(path))) == {name.removeprefix("./"): data for name, data in files.items()}


@pytest.mark.parametrize("style", ["gnu", "posix"])
def test_a_sparse_file_is_left_out_and_what_follows_is_found(tmp_path: Path, style: str) -> None:
    with open(tmp_path / "1.png", "wb") as file:
        for number in range(40):  # more holes than the first header can list
            file.seek(number << 16)
            file.write(b"data")
    (tmp_path / "2.png").write_bytes(b"after")
    path = tmp_path / "sparse.tar"
    subprocess.run(["tar", f"--format={style}", "-S", "-cf", path, "-C", tmp_path, "1.png", "2.png"], check=True)
    listing = list_tar(_archive(path))
    assert _bytes(listing) == {"2.png": b"after"}
    assert listing.left_out == [("1.png", "sparse file, whose bytes do not lie in one piece")]


def test_long_and_odd_names(tmp_path: Path) -> None:
    names = ["a/" + "x" * 300 + ".png", "a/größe.png", "a/\udcff.png"]
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = _write(
            tmp_path / f"{style}.tar", [(name, name[:3].encode()) for name in names[:2]] + [(names[2], b"odd")], style
        )
        assert sorted(_bytes(list_tar(_archive(path)))) == sorted([*names[:2], "a/\\udcff.png"])


def test_a_size_beyond_the_octal_field_is_read_from_pax(tmp_path: Path) -> None:
    """Members of 8 GiB and more: the size stands in a record, not in the header. Here a small one does."""
    info = tarfile.TarInfo("a/1.png")
    info.pax_headers = {"size": "5", "comment": "two\nlines"}
    data = info.tobuf(tarfile.PAX_FORMAT) + b"image".ljust(512, b"\0") + bytes(1024)
    (tmp_path / "a.tar").write_bytes(data)
    assert _bytes(list_tar(_archive(tmp_path / "a.tar"))) == {"a/1.png": b"image"}


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "a/..", "..\\x.png", "\\x.png"])
@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_member_that_leads_outside_is_refused_by_name(tmp_path: Path, name: str, style: int) -> None:
    path = _write(tmp_path / "bad.tar", [("a/1.png", b"1"), (name, b"2")], style)
    with pytest.raises(UserError, match="leads outside") as refused:
        list_tar(_archive(path))
    assert repr(name) in str(refused.value)
    assert "bad.tar" in str(refused.value)


def test_dots_that_lead_nowhere_are_names(tmp_path: Path) -> None:
    files = {"a/1..png": b"1", "a/x...y/2.png": b"2"}
    assert _bytes(list_tar(_archive(_write(tmp_path / "a.tar", list(files.items()))))) == files


def test_members_that_are_no_files_are_named(tmp_path: Path) -> None:
    kinds = {"sym": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE, "device": tarfile.CHRTYPE}
    members = [_special(f"a/{name}", kind) for name, kind in kinds.items()]
    odd = tarfile.TarInfo("a/odd")
    odd.type = b"Z"  # unknown kinds are skipped with their data, if any
    path = _write(tmp_path / "links.tar", [("a/1", b"1"), *members, odd, (".git/x", b""), ("b/.y", b""), ("a/2", b"2")])
    listing = list_tar(_archive(path))
    assert _bytes(listing) == {"a/1": b"1", "a/2": b"2"}
    assert dict(listing.left_out) == {
        "a/sym": "symbolic link, not a regular file",
        "a/hard": "hard link, not a regular file",
        "a/pipe": "pipe, not a regular file",
        "a/device": "device, not a regular file",
        "a/odd": "special file, not a regular file",
        ".git/x": "hidden file",
        "b/.y": "hidden file",
    }


def test_of_several_members_of_a_path_the_last_is_the_file(tmp_path: Path) -> None:
    members = [("a/1", b"old"), ("a/2", b"two"), ("a/1", b"new"), ("./a/1", b"newest"), ("a/3", b"three")]
    listing = list_tar(_archive(_write(tmp_path / "a.tar", [*members, _special("a/3", tarfile.SYMTYPE)])))
    assert _bytes(listing) == {"a/1": b"newest", "a/2": b"two"}
    assert listing.left_out == [
        ("a/1", listings.REPLACED),
        ("a/1", listings.REPLACED),
        ("a/3", listings.REPLACED),
        ("a/3", "symbolic link, not a regular file"),
    ]


def test_files_too_large_for_an_image_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings, "LARGEST_FILE", 2999)
    path = _write(tmp_path / "t.tar", [("a/1.png", bytes(2999)), ("a/2.png", bytes(3000)), ("b.tar", bytes(10240))])
    listing = list_tar(_archive(path))
    assert [file.name for file in listing.files] == ["a/1.png", "b.tar"]  # an archive may be as large as it likes
    assert listing.left_out == [("a/2.png", "larger than 0 MiB")]


def test_an_archive_of_nothing_is_empty(tmp_path: Path) -> None:
    assert list_tar(_archive(_write(tmp_path / "a.tar", []))).files == []


@pytest.mark.parametrize("style", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_cut_archive_is_refused_wherever_it_is_cut(tmp_path: Path, style: int) -> None:
    """At every 256 bytes, also between two members: refused, or nothing was lost (a cut within the end mark)."""
    members = [(f"a/{'n' * 150 * (number == 3)}{number}.png", os.urandom(700)) for number in range(8)]
    whole = _write(tmp_path / "whole.tar", members, style).read_bytes()
    end = len(whole.rstrip(b"\0")) + -len(whole.rstrip(b"\0")) % 512
    cut = tmp_path / "cut.tar"
    taken = []
    for length in range(0, len(whole), 256):
        cut.write_bytes(whole[:length])
        refusal = _refusal(cut)
        if refusal:
            assert "cut.tar is cut short" in refusal or (length < 512 and "cut.tar is damaged" in refusal)
        else:
            assert len(list_tar(_archive(cut)).files) == len(members)
            taken.append(length)
    assert taken == list(range(end + 512, len(whole), 256))


def test_a_flipped_byte_of_a_header_never_loses_a_member(tmp_path: Path) -> None:
    """The headers' own checksums find it, where tarfile would take the third header for the end."""
    members = [(f"a/{number}.png", bytes([number]) * 700) for number in range(6)]
    path = _write(tmp_path / "whole.tar", members, tarfile.USTAR_FORMAT)
    whole = bytearray(path.read_bytes())
    refused = 0
    for at in range(2 * 1536, 2 * 1536 + 512):
        whole[at] ^= 0x55
        path.write_bytes(whole)
        whole[at] ^= 0x55
        refusal = _refusal(path)
        if refusal:
            assert "whole.tar is damaged" in refusal
            refused += 1
        else:
            assert _bytes(list_tar(_archive(path))) == dict(members)
    assert refused >= 508  # not the padding of the checksum's own field


def test_data_behind_the_end_mark_is_not_passed_over(tmp_path: Path) -> None:
    first = _write(tmp_path / "1.tar", [("a/1.png", b"1")]).read_bytes()
    second = _write(tmp_path / "2.tar", [("a/2.png", b"2")]).read_bytes()
    for name, data in {"joined.tar": first + second, "hole.tar": bytes(512) + second}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name} holds data behind its end mark"):
            list_tar(_archive(tmp_path / name))
    (tmp_path / "padded.tar").write_bytes(first + bytes(3 << 20))
    assert len(list_tar(_archive(tmp_path / "padded.tar")).files) == 1


@pytest.mark.parametrize("data", [b"", b"some text", b"PK\x03\x04", b"x" * 5000])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "odd").write_bytes(data)
    with pytest.raises(UserError, match=r"odd is damaged or no \.tar or \.tar\.gz"):
        list_tar(_archive(tmp_path / "odd"))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (tarfile.XHDTYPE, b"no record"),
        (tarfile.XHDTYPE, b"99 path=too long\n"),
        (tarfile.XHDTYPE, b"1 path=x\n"),
        (tarfile.XHDTYPE, b"12 size=-10\n"),
        (tarfile.GNUTYPE_LONGNAME, b"x" * (2 << 20)),
    ],
)
def test_damaged_extensions_are_refused(tmp_path: Path, kind: bytes, data: bytes) -> None:
    info = tarfile.TarInfo("extension")
    info.type, info.size = kind, len(data)
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(info, io.BytesIO(data))
        _add(archive, "a/1.png", b"1")
    with pytest.raises(UserError, match=r"odd\.tar is damaged"):
        list_tar(_archive(path))


def test_an_extension_without_its_member_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.tar", [("a/" + "x" * 300, b"")])
    data = path.read_bytes()
    path.write_bytes(data[: 2 * 512] + bytes(2048))  # the member's own header gone
    with pytest.raises(UserError, match=r"a\.tar is damaged"):
        list_tar(_archive(path))


def test_few_requests_where_headers_lie_close_and_small_ones_where_not(tmp_path: Path) -> None:
    close = _write(tmp_path / "close.tar", [(f"{number}", bytes(600)) for number in range(2000)])
    far = _write(tmp_path / "far.tar", [(f"{number}", bytes(3 << 20)) for number in range(8)])
    for path, requests, size in ((close, 2000 * 1536 // (1 << 20) + 3, 4 << 20), (far, 12, 1 << 20)):
        reader = _Counting(_archive(path))
        assert len(list(walk_members(reader))) == (2000 if path is close else 8)
        assert len(reader.asked) <= requests
        assert sum(reader.asked) <= size


class _Counting(ReadAhead):
    """Counts what is asked of the store."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self.asked: list[int] = []
        inner = self._objects

        class Counted:
            def read_range(_, name: str, start: int, length: int) -> bytes:  # noqa: N805
                self.asked.append(length)
                return inner.read_range(name, start, length)

        self._objects = Counted()  # type: ignore[assignment]
