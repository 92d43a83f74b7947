"""Which revision of this source tree is at work."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from pathlib import Path

TOLD = "RAYFALL_REVISION"  # environment of a submitted job: a copy without git is told what it is a copy of


@cache
def git_revision() -> str:
    """Revision of this source tree, with "+changes" when it differs from it; "unknown" outside a checkout."""
    if told := os.environ.get(TOLD):
        return told
    here = Path(__file__).parent
    try:
        revision = _git(here, "rev-parse", "HEAD")
        changed = _git(here, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return revision + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return found.stdout.strip()
