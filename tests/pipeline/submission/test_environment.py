"""The versions that are compared are those of what Rayfall is made of, and a difference names both."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from pipeline.submission.environment import PACKAGES, difference, versions

ROOT = Path(__file__).parents[3]


def test_every_dependency_is_compared_and_is_the_pinned_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.match(r"[\w.-]+", one)[0] for one in project["dependencies"]} == set(PACKAGES)  # type: ignore[index]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    found = versions()
    assert found["Python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    for name in PACKAGES:
        assert found[name] == pinned[name.replace(".", "-")], name


def test_a_difference_is_one_sentence_with_both_versions() -> None:
    ours = {"Python": "3.11", "ray": "2.60.0", "torch": "2.15.0"}
    assert difference(ours, ours) is None
    assert "has torch 2.14.0 and the machine that submitted has 2.15.0:" in str(
        difference(ours, {**ours, "torch": "2.14.0"})
    )
    other = str(difference(ours, {"Python": "3.12", "ray": "2.60.0"}))
    assert "has Python 3.12 and the machine that submitted has 3.11; also torch none there and 2.15.0 here:" in other


def test_the_first_checks_of_a_job_need_nothing_that_is_installed() -> None:
    program = (
        "import sys, jobs.on_cluster\n"
        "assert not {'ray', 'torch', 'pydantic', 'typer', 'mlflow'} & sys.modules.keys(), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
