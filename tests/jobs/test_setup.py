"""The set-up files agree with each other: pins, the two commands, the checks before a commit."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pre_commit.clientlib import load_config

ROOT = Path(__file__).parents[2]


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): pinned for name, _, pinned in (line.partition("==") for line in lines)}


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert line.startswith("# ") or re.fullmatch(r"[a-z0-9-]+==[0-9][A-Za-z0-9.]*", line), line
    assert "rayfall" not in pins()


def test_every_dependency_is_pinned_within_its_bounds_and_that_is_what_runs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"], "uv"]:
        requirement = Requirement(text)
        pinned = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), text
        assert version(requirement.name) == pinned


def test_make_refuses_an_old_python_in_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3.9"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.1" || exit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    answer = subprocess.run(
        ["make", "-s", "test", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert answer.returncode != 0
    assert "Rayfall needs Python 3.11 or newer, and Python 3.9.1 is what" in answer.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_calls_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text().rstrip().endswith("\nmake test")
    readme = (ROOT / "README.md").read_text()
    assert "make demo" in readme
    assert "make test" in readme


def test_the_pre_commit_set_up_is_valid() -> None:
    hooks = [hook["id"] for repo in load_config(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert {"ruff-check", "ruff-format", "mypy"} <= set(hooks)
