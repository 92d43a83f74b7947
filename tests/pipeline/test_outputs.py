"""What a person names for a file or a folder is looked at first, and a file appears whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.outputs import check_file, check_folder, users_choice, write_whole


def test_a_file_that_can_be_made_is_fine_and_checking_makes_nothing(tmp_path: Path) -> None:
    there = tmp_path / "there.html"
    there.write_text("old")
    for path in (None, there, tmp_path / "new.html", tmp_path / "new" / "folder" / "page.html"):
        check_file(path)
    for path in (tmp_path, tmp_path / "new" / "folder"):
        check_folder(path)
    assert list(tmp_path.iterdir()) == [there]


def test_what_cannot_be_a_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(UserError, match=f"{tmp_path} is a folder; name a file to write"):
        check_file(tmp_path)
    with pytest.raises(UserError, match=f"{file} is a file; name a folder"):
        check_folder(file)
    for check in (check_file, check_folder):
        with pytest.raises(UserError, match=rf"file/in/it cannot be written: {file} is a file"):
            check(file / "in" / "it")
        with pytest.raises(UserError, match="cannot be written: File name too long"):
            check(tmp_path / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        for check in (check_file, check_folder):
            with pytest.raises(UserError, match="is read-only; name another place"):
                check(tmp_path / "new" / "page")
    finally:
        tmp_path.chmod(stat.S_IRWXU)


def test_a_file_is_written_whole_with_the_folders_above_it(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "page.html"
    assert write_whole(path, "one") == path
    write_whole(path, "two ‡")
    assert path.read_text(encoding="utf-8") == "two ‡"
    assert [one.name for one in path.parent.iterdir()] == ["page.html"]


def test_a_link_stays_a_link_and_a_device_a_device(tmp_path: Path) -> None:
    page, link, lost = tmp_path / "pages" / "page.html", tmp_path / "latest.html", tmp_path / "lost.html"
    link.symlink_to(page)  # to what is still to be made
    lost.symlink_to("/dev/null")
    for text in ("one", "two"):
        for path in (link, lost):
            check_file(path)
            assert write_whole(path, text) == path
    assert link.readlink() == page
    assert page.read_text() == "two"
    assert lost.readlink() == Path("/dev/null")
    assert lost.is_char_device()
    assert {one.name for one in tmp_path.rglob("*")} == {"pages", "page.html", "latest.html", "lost.html"}


def test_what_reads_a_pipe_is_given_the_text(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_file(pipe)
        write_whole(pipe, "page")
        assert os.read(reader, 10) == b"page"
    finally:
        os.close(reader)
    assert pipe.is_fifo()


def test_only_a_place_that_somebody_named_is_somebodys_mistake(small_disk: Path) -> None:
    path = small_disk / "page.html"
    write_whole(path, "short")
    with pytest.raises(UserError, match=f"{path} cannot be written: No space left on device"), users_choice(path):
        write_whole(path, "x" * (2 << 20))
    assert path.read_text() == "short"
    assert [one.name for one in small_disk.iterdir()] == ["page.html"], "nothing half written takes room"
    with pytest.raises(OSError, match="No space left"), users_choice(None):
        write_whole(path, "x" * (2 << 20))
