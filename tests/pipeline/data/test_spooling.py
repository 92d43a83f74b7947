"""What has its name in the spool is whole: through damage, kills and several at once."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.data.source_files import locate
from pipeline.data.spooling import spool_archive
from pipeline.errors import UserError
from pipeline.objects import open_objects


def _spool(archive: Path, folder: Path) -> Path:
    place = locate(archive)
    return spool_archive(open_objects(place.address), place, archive.stat().st_size, "print", folder, None)


def _archive(folder: Path, data: bytes) -> Path:
    path = folder / "a.tar.gz"
    path.write_bytes(data)
    return path


def test_it_is_decompressed_once(tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    archive = _archive(tmp_path, gzip.compress(data[:5]) + gzip.compress(data[5:]))  # as parallel gzips write it
    spooled = _spool(archive, tmp_path / "new/spool")
    assert spooled.read_bytes() == data
    before = spooled.stat()
    assert _spool(archive, tmp_path / "new/spool") == spooled
    assert spooled.stat() == before
    assert os.listdir(spooled.parent) == ["print.tar"]


def _damaged(whole: bytes) -> dict[str, bytes]:
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum at the very end
    return {
        "flipped": bytes(flipped),
        "cut": whole[:-9],
        "cut sum": whole[:-4],
        "tail": whole + b"tail",
        "head": whole[:2],
    }


@pytest.mark.parametrize("how", ["flipped", "cut", "cut sum", "tail", "head"])
def test_a_damaged_archive_is_refused_and_leaves_nothing_by_its_name(tmp_path: Path, how: str) -> None:
    archive = _archive(tmp_path, _damaged(gzip.compress(os.urandom(5000)))[how])
    with pytest.raises(UserError, match=r"a\.tar\.gz is damaged or no \.tar or \.tar\.gz"):
        _spool(archive, tmp_path / "spool")
    assert not (tmp_path / "spool/print.tar").exists()
    assert sum(path.stat().st_size for path in (tmp_path / "spool").iterdir()) == 0


def test_a_killed_one_is_begun_anew(tmp_path: Path) -> None:
    archive = _archive(tmp_path, gzip.compress(bytes(200 << 20), 1))
    code = (
        "import sys; from pathlib import Path; from pipeline.data.source_files import locate\n"
        "from pipeline.data.spooling import spool_archive; from pipeline.objects import open_objects\n"
        "archive = Path(sys.argv[1]); place = locate(archive)\n"
        "spool_archive(open_objects(place.address), place, archive.stat().st_size, 'print', Path(sys.argv[2]), None)\n"
    )
    part = tmp_path / "spool/print.part"
    child = subprocess.Popen([sys.executable, "-c", code, str(archive), str(part.parent)])
    while not part.exists() or part.stat().st_size < 1 << 20:
        assert child.poll() is None, "it was done before it could be killed"
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert os.listdir(part.parent) == ["print.part"]
    assert _spool(archive, part.parent).stat().st_size == 200 << 20
    assert os.listdir(part.parent) == ["print.tar"]


def test_several_at_once_make_one(tmp_path: Path) -> None:
    data = os.urandom(4 << 20)
    archive = _archive(tmp_path, gzip.compress(data, 1))
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(_spool(archive, tmp_path / "s").read_bytes())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [data] * 8
    assert os.listdir(tmp_path / "s") == ["print.tar"]


def test_a_spool_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    archive = _archive(tmp_path, gzip.compress(b"x"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be decompressed into .*file/spool"):
        _spool(archive, tmp_path / "file/spool")
