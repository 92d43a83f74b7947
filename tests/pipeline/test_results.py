"""What is handed on of a result, and when its files are looked at."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest

from pipeline.commits import CommitLog, Damaged
from pipeline.results import Committed, Folders, Result, folder_of, place_of
from pipeline.storage import open_storage


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """Of two files, ``one`` and ``two``, which hold their own names."""
    log = CommitLog(open_storage(tmp_path / "store"), "results/base-0123", owner="test", clock=time.time)
    name, folder = log.new_folder("files")
    for file in ("one", "two"):
        (folder / file).write_text(file)
    entry = log.commit(name, {"revision": "abc"})
    return Result(Committed(log, entry), {}, 1.0, reused=True)


def test_a_committed_result_says_where_it_lies_and_what_made_it(result: Result, tmp_path: Path) -> None:
    assert result.key == "base-0123"
    assert result.revision == "abc"
    assert (Path(result.address) / "one").read_text() == "one"
    assert Path(result.address).is_relative_to(tmp_path / "store" / "results" / "base-0123")


def test_a_folder_is_a_place_too(tmp_path: Path) -> None:
    bare = Result(tmp_path / "base-0123" / "files", {}, 1.0, reused=False)
    assert bare.folder == bare.part("any") == folder_of(str(bare.place)) == tmp_path / "base-0123" / "files"
    assert bare.key == "base-0123"
    assert bare.revision == "unknown"


def test_files_are_looked_at_when_they_are_asked_for_and_only_those(result: Result) -> None:
    folders = Folders({"base": result})
    (Path(result.address) / "two").write_text("tw")
    assert "base" in folders
    assert "upsampler" not in folders
    assert list(folders) == ["base"]
    assert len(folders) == 1
    assert place_of(folders, "base") == result.place
    assert result.file("one").read_text() == "one"
    with pytest.raises(Damaged, match="two has 2 bytes instead of 3"):
        folders["base"]
    with pytest.raises(KeyError):
        folders["upsampler"]


def test_whoever_is_handed_a_place_finds_the_files_there(result: Result) -> None:
    """As another process does, which is given no folder but what to fetch."""
    place = pickle.loads(pickle.dumps(place_of(Folders({"base": result}), "base")))
    assert sorted(path.name for path in folder_of(place).iterdir()) == ["one", "two"]
    assert place_of({"base": Path("here")}, "base") == Path("here")
