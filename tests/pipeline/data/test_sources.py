"""Folders and archives read alike: every file handed on once, with its bytes or with a reason."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.data import sources
from pipeline.data.sources import identify, read_source
from pipeline.errors import UserError

FILES = {
    "top/a/1.png": b"one",
    "top/a/2.png": b"two" * 1000,
    "top/b/.hidden": b"x",
    "top/b/3.png": b"",
    "top/n": b"n",
}


def _tree(folder: Path, files: dict[str, bytes] | None = None) -> Path:
    for name, data in (FILES if files is None else files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def _archive(path: Path, members: Sequence[tuple[str, bytes] | tarfile.TarInfo], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                archive.addfile(info, io.BytesIO(member[1]))
    return path


def _link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_folder_and_archive_give_the_same_files(tmp_path: Path, mode: str) -> None:
    folder = _tree(tmp_path / "tree")
    archive = _archive(tmp_path / "archive", [(f"./{name}", data) for name, data in FILES.items()], mode)
    from_folder, from_archive = list(read_source(folder)), list(read_source(archive))
    assert sorted(from_folder) == sorted(from_archive)
    assert {file.name for file in from_folder} == set(FILES)
    for file in from_folder:
        assert (file.data, file.reason) == ((b"", "hidden file") if "hidden" in file.name else (FILES[file.name], ""))


def test_archives_made_by_other_tools_keep_long_and_odd_names(tmp_path: Path) -> None:
    names = ["a/" + "x" * 300 + ".png", "a/größe.png", "a/\udcff.png"]
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tmp_path / f"{style}.tar"
        with tarfile.open(path, "w", format=style) as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        assert [file.name for file in read_source(path)] == [*names[:2], "a/\\udcff.png"]


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "a/..", "..\\x.png"])
def test_a_member_that_leads_outside_is_refused_by_name(tmp_path: Path, name: str) -> None:
    archive = _archive(tmp_path / "bad.tar", [("a/1.png", b"1"), (name, b"2")])
    with pytest.raises(UserError, match="leads outside") as refused:
        list(read_source(archive))
    assert repr(name) in str(refused.value)
    assert "bad.tar" in str(refused.value)


def test_members_that_are_no_files_are_recorded(tmp_path: Path) -> None:
    kinds = {
        "sym": tarfile.SYMTYPE,
        "hard": tarfile.LNKTYPE,
        "pipe": tarfile.FIFOTYPE,
        "device": tarfile.CHRTYPE,
    }
    members = [_link(f"a/{name}", "/etc/passwd", kind) for name, kind in kinds.items()]
    found = list(read_source(_archive(tmp_path / "links.tar", [("a/1", b"1"), *members, ("a/2", b"2")])))
    assert [(file.name, file.data) for file in found if not file.reason] == [("a/1", b"1"), ("a/2", b"2")]
    assert {file.name.removeprefix("a/") for file in found if "not a regular file" in file.reason} == set(kinds)


def test_links_and_pipes_of_a_folder(tmp_path: Path) -> None:
    folder = _tree(tmp_path / "tree", {"a/1.png": b"1"})
    (folder / "a/2.png").symlink_to(folder / "a/1.png")
    (folder / "a/broken.png").symlink_to("nowhere")
    (folder / "a/loop").symlink_to(folder)
    os.mkfifo(folder / "a/pipe")
    found = {file.name: file for file in read_source(folder)}
    assert found["a/2.png"].data == b"1"
    assert found["a/loop"].reason == "symbolic link to a folder, not followed"
    assert found["a/broken.png"].reason == found["a/pipe"].reason == "not a regular file"
    assert identify(folder).files == len(found) == 5


def test_files_too_large_for_an_image_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGEST_FILE", 2999)
    folder = _tree(tmp_path / "tree")
    archive = _archive(tmp_path / "t.tar", list(FILES.items()))
    for source in (folder, archive):
        assert [file.name for file in read_source(source) if "larger" in file.reason] == ["top/a/2.png"]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.99])
def test_a_cut_archive_is_refused(tmp_path: Path, mode: str, share: float) -> None:
    members = [(f"a/{index}.png", os.urandom(700)) for index in range(40)]
    whole = _archive(tmp_path / "whole", members, mode).read_bytes()
    kept = int((40 * 1536 if mode == "w" else len(whole)) * share)
    cut = tmp_path / "cut.tar"
    for length in (kept, kept - kept % 1536):  # within a member, and between two
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.tar is (damaged|cut short)"):
            list(read_source(cut))


def test_a_flipped_byte_of_a_zipped_archive_is_refused(tmp_path: Path) -> None:
    plain = _archive(tmp_path / "plain.tar", [("a/1.png", bytes(5000))]).read_bytes()
    zipped = bytearray(gzip.compress(plain))
    zipped[-6] ^= 1  # in the checksum at the very end
    (tmp_path / "flipped.tar.gz").write_bytes(zipped)
    with pytest.raises(UserError, match=r"flipped\.tar\.gz is damaged"):
        list(read_source(tmp_path / "flipped.tar.gz"))


@pytest.mark.parametrize("data", [b"", b"some text", b"\x1f\x8b", b"PK\x03\x04"])
def test_what_is_no_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "odd").write_bytes(data)
    with pytest.raises(UserError, match=r"odd is damaged or no \.tar or \.tar\.gz"):
        list(read_source(tmp_path / "odd"))


def test_a_missing_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no folder and no archive at .*nothing"):
        identify(tmp_path / "nothing")


def test_the_fingerprint_follows_the_content(tmp_path: Path) -> None:
    folder = _tree(tmp_path / "tree")
    before = identify(folder)
    assert (before.kind, before.name, before.files) == ("folder", "tree", len(FILES))
    os.utime(folder / "top/n", (0, 0))
    assert identify(folder) == before
    (folder / "top/n").write_bytes(b"longer")
    assert identify(folder).fingerprint != before.fingerprint
    archive = _archive(tmp_path / "a.tar", [("a/1", b"1")])
    first = identify(archive)
    assert (first.kind, first.name, first.files) == ("tar", "a.tar", None)
    assert identify(_archive(archive, [("a/1", b"2")])).fingerprint != first.fingerprint
