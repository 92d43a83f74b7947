"""Which code is carried, in words: git itself never travels, so a job is told its revision."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.revision import git_revision


@dataclass(frozen=True)
class SourceState:
    """The revision as results record it, and what is not committed: a short count, and a digest of all of it."""

    revision: str
    changes: str = ""  # "3 files changed, 10 insertions(+), 2 deletions(-); 1 new file"
    digest: str = ""  # sha256 (hex) of the difference and of the new files; the difference itself is not carried


def source_state(root: Path) -> SourceState:
    """State of the checkout at ``root``; without changes outside a checkout, where the revision is unknown."""
    revision = git_revision()
    try:
        difference = _git(root, "diff", "--no-ext-diff", "--binary", "HEAD")
        counted = _git(root, "diff", "--shortstat", "HEAD").decode().strip()
        new = [name for name in _git(root, "ls-files", "-z", "--others", "--exclude-standard").split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):
        return SourceState(revision)
    if not difference and not new:
        return SourceState(revision)
    seal = hashlib.sha256(difference)
    for name in sorted(new):
        path = root / name.decode(errors="surrogateescape")
        seal.update(name + b"\0" + (hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""))
    told = [part for part in (counted, f"{len(new)} new file{'s' if len(new) > 1 else ''}" if new else "") if part]
    return SourceState(revision, "; ".join(told), seal.hexdigest())


def _git(folder: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True).stdout
