"""A folder turns into a data set at once or not at all, and nothing of another's is touched."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.data.manifest import Manifest
from pipeline.data.publishing import MARKER, Request, Written, publish
from pipeline.data.shards import verify, write_split
from pipeline.errors import UserError

REQUEST = Request("folder", "tree", "0" * 64, 8, "some way", {"shard_size": 3, "val_fraction": 0.1})


def _write(dest: Path, count: int = 7) -> Written:
    train = write_split(dest, "train", [(f"{index}", b"png", 0) for index in range(count)], 3)
    return Written(("a",), {"train": train, "val": write_split(dest, "val", [], 3)})


def _never() -> Written:
    raise AssertionError("written again")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_becomes_a_data_set(tmp_path: Path) -> None:
    dest = tmp_path / "some" / "where"
    manifest = publish(dest, REQUEST, lambda: _write(dest))
    assert verify(dest) == manifest
    assert manifest.request == REQUEST.numbers
    assert _names(dest) == ["manifest.json", "train-00000.tar", "train-00001.tar", "train-00002.tar"]


def test_an_equal_request_is_answered_by_what_is_there(tmp_path: Path) -> None:
    first = publish(tmp_path, REQUEST, lambda: _write(tmp_path))
    assert publish(tmp_path, REQUEST, _never) == first


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "tar"}, "kind of source 'folder' instead of 'tar'"),
        ({"name": "other"}, "source 'tree' instead of 'other'"),
        ({"image_size": 16}, "image size 8 instead of 16"),
        ({"resize": "another way"}, "way of resizing 'some way' instead of 'another way'"),
        ({"numbers": {"shard_size": 4, "val_fraction": 0.1}}, "shard_size 3 instead of 4"),
        ({"numbers": {"seed": 1}}, "seed None instead of 1, shard_size 3 instead of None"),
        ({"fingerprint": "1" * 64}, "an earlier content of 'tree'"),
    ],
)
def test_a_different_request_is_refused_naming_what_differs(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    publish(tmp_path, REQUEST, lambda: _write(tmp_path))
    before = _names(tmp_path)
    with pytest.raises(UserError, match=message):
        publish(tmp_path, REQUEST._replace(**change), _never)  # type: ignore[arg-type]
    assert _names(tmp_path) == before


def test_an_interrupted_writing_is_written_anew(tmp_path: Path) -> None:
    def interrupted() -> Written:
        _write(tmp_path, 20)
        (tmp_path / "val-00000.tar.tmp").write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, REQUEST, interrupted)
    assert MARKER in _names(tmp_path)
    assert len(_names(tmp_path)) == 9
    # Even another request may have it: there is no data set yet.
    manifest = publish(tmp_path, REQUEST._replace(image_size=16), lambda: _write(tmp_path))
    assert verify(tmp_path) == manifest
    assert _names(tmp_path) == ["manifest.json", "train-00000.tar", "train-00001.tar", "train-00002.tar"]


def test_stopping_between_manifest_and_end_leaves_a_data_set(tmp_path: Path) -> None:
    first = publish(tmp_path, REQUEST, lambda: _write(tmp_path))
    (tmp_path / MARKER).touch()
    assert publish(tmp_path, REQUEST, _never) == first
    assert MARKER not in _names(tmp_path)


@pytest.mark.parametrize("name", ["holiday.jpg", "train-00000.tar", ".hidden"])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(UserError, match=f"holds '{name}', which is not ours"):
        publish(tmp_path, REQUEST, _never)
    assert (tmp_path / name).read_bytes() == b"precious"
    assert _names(tmp_path) == [name]


def test_files_of_others_are_left_alone_beside_our_own(tmp_path: Path) -> None:
    for name in (MARKER, "train-00000.tar", "holiday.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"holds 'holiday\.jpg'"):
        publish(tmp_path, REQUEST, _never)
    assert len(_names(tmp_path)) == 3


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for dest in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="cannot be made"):
            publish(dest, REQUEST, _never)


def test_two_at_once_write_once(tmp_path: Path) -> None:
    begun, go, results = threading.Event(), threading.Event(), []
    writes = 0

    def write() -> Written:
        nonlocal writes
        writes += 1
        begun.set()
        assert go.wait(10)
        return _write(tmp_path)

    def run() -> None:
        results.append(publish(tmp_path, REQUEST, write))

    threads = [threading.Thread(target=run) for _ in range(2)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(10)
    assert writes == 1
    assert isinstance(results[0], Manifest)
    assert results[0] == results[1]
