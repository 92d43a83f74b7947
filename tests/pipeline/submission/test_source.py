"""What is said of code that travels without git."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline import revision
from pipeline.submission.source import source_state


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments], cwd=folder, check=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    git(tmp_path, "init", "-q")
    (tmp_path / "a.py").write_text("one\n")
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-qm", "one")
    return tmp_path


def test_changes_are_counted_and_sealed(checkout: Path) -> None:
    clean = source_state(checkout)
    assert (clean.changes, clean.digest) == ("", "")
    (checkout / "a.py").write_text("two\n")
    changed = source_state(checkout)
    assert "1 file changed" in changed.changes
    (checkout / "b.py").write_text("new\n")
    grown = source_state(checkout)
    assert grown.changes.endswith("; 1 new file")
    (checkout / "b.py").write_text("newer\n")
    assert len({clean.digest, changed.digest, grown.digest, source_state(checkout).digest}) == 4
    assert "two" not in str(grown), "what changed is not told, for it may hold secrets"


def test_a_copy_without_git_is_told_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    here = revision.git_revision()
    revision.git_revision.cache_clear()
    monkeypatch.setenv(revision.TOLD, "abc+changes")
    assert revision.git_revision() == "abc+changes"
    revision.git_revision.cache_clear()
    monkeypatch.delenv(revision.TOLD)
    assert revision.git_revision() == here
