"""The commit log: a commit is whole or it is not; a stale owner cannot write."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.commits import CommitLog, OwnershipLost
from pipeline.errors import UserError
from pipeline.storage import open_storage


def log_of(root: Path, owner: str) -> CommitLog:
    return CommitLog(open_storage(root), "runs/x", owner=owner, clock=lambda: 12.0)


def commit(log: CommitLog, step: int, **info: object) -> Path:
    name, folder = log.new_folder(f"step-{step}")
    (folder / "weights").write_bytes(bytes([step]) * 100)
    (folder / "deep").mkdir()
    (folder / "deep" / "more").write_text(str(step))
    log.commit(name, {"step": step, **info})
    return folder


def test_files_without_an_entry_do_not_exist(tmp_path: Path) -> None:
    log = log_of(tmp_path, "a")
    _, folder = log.new_folder("step-1")
    (folder / "weights").write_bytes(b"whole, but never committed")
    assert log.latest_whole() is None
    commit(log, 2)
    found = log.latest_whole()
    assert found is not None
    assert found[0].info == {"step": 2}
    assert sorted(found[0].files) == ["deep/more", "weights"]


@pytest.mark.parametrize("damage", ["missing", "cut", "altered"])
@pytest.mark.parametrize("name", ["weights", "deep/more"])
def test_a_damaged_commit_is_passed_over(
    damage: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = log_of(tmp_path, "a")
    commit(log, 1)
    file = commit(log, 2) / name
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[:-1] if damage == "cut" else bytes([data[0] ^ 1]) + data[1:])
    found = log.latest_whole()
    assert found is not None
    assert found[0].info["step"] == 1
    assert name in caplog.text


def test_a_stale_owner_collides_when_it_wakes_up(tmp_path: Path) -> None:
    stale, fresh = log_of(tmp_path, "stale"), log_of(tmp_path, "fresh")
    stale.take_over()
    commit(stale, 1)
    fresh.take_over()
    with pytest.raises(OwnershipLost, match="written by fresh"):
        commit(stale, 2)
    commit(fresh, 2)
    kinds = [(entry.number, entry.kind, entry.owner) for entry in fresh.entries()]
    assert kinds == [(1, "takeover", "stale"), (2, "commit", "stale"), (3, "takeover", "fresh"), (4, "commit", "fresh")]


def test_pruning_keeps_the_newest_and_the_final_ones(tmp_path: Path) -> None:
    log = log_of(tmp_path, "a")
    folders = [commit(log, 1, final=True), commit(log, 2), commit(log, 3), commit(log, 4)]
    log.new_folder("torn")
    log.prune(keep=1)
    assert [folder.exists() for folder in folders] == [True, False, False, True]
    assert len(log.storage.list("runs/x")) == 3  # two folders and the log
    assert len(log.entries()) == 4
    found = log.latest_whole(lambda entry: entry.info["step"] <= 2)
    assert found is not None
    assert found[0].info["step"] == 1


def test_pruning_keeps_the_newest_of_each_name_and_does_not_count_it(tmp_path: Path) -> None:
    log = log_of(tmp_path, "a")
    older, other, newer = (commit(log, step, kept=name) for step, name in ((1, "x"), (2, "y"), (3, "x")))
    first, second = commit(log, 4), commit(log, 5)
    last = commit(log, 6, kept="z")
    log.prune(keep=1)
    assert [folder.exists() for folder in (older, other, newer, first, second, last)] == [
        False, True, True, False, True, True
    ]  # fmt: skip


def test_whole_commits_come_newest_first(tmp_path: Path) -> None:
    log = log_of(tmp_path, "a")
    for step in (1, 2, 3):
        folder = commit(log, step)
        if step == 2:
            (folder / "weights").unlink()
    assert [entry.info["step"] for entry, _ in log.whole(lambda entry: True)] == [3, 1]


@pytest.mark.parametrize("damage", ["cut", "altered", "empty", "gone", "another's"])
def test_a_log_with_a_damaged_entry_is_refused_in_one_sentence(damage: str, tmp_path: Path) -> None:
    """It is not read past: what is not seen would be committed anew, or an older checkpoint be taken for the newest."""
    log = log_of(tmp_path, "a")
    for step in (1, 2, 3):
        commit(log, step)
    entry = tmp_path / "runs/x/log/00000002.json"
    data = entry.read_bytes()
    entry.unlink()
    damaged = {
        "cut": data[:-7],
        "altered": data.replace(b'"commit"', b'"vommit"'),
        "empty": b"",
        "another's": data.replace(b'"number":2', b'"number":7').replace(b'"number": 2', b'"number": 7'),
    }
    if damage != "gone":
        entry.write_bytes(damaged[damage])
        assert damaged[damage] != data
    for ask in (log_of(tmp_path, "b").entries, log_of(tmp_path, "b").latest_whole, log_of(tmp_path, "b").take_over):
        with pytest.raises(UserError) as caught:
            ask()
        sentence = str(caught.value)
        assert sentence.startswith(f"{entry}, an entry of a commit log, was cut or altered: ")
        assert sentence.endswith(
            f"put it back from a backup, or remove {tmp_path}/runs/x to have all of it computed again"
        )
        assert "\n" not in sentence
        assert "pydantic" not in sentence
