"""Versions of Python and of what Rayfall needs: against constraints.txt, and between machines."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from pipeline.doctor.findings import Trouble

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"  # of a checkout; an installed wheel has none


def versions_here() -> dict[str, str]:
    """Python's, Rayfall's and those of its direct dependencies; "none" where one is not installed."""
    names = [
        re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in requires("rayfall") or () if "extra" not in line
    ]
    found = {"python": platform.python_version(), "rayfall": version("rayfall")}
    for name in names:
        try:
            found[name.lower()] = version(name)
        except PackageNotFoundError:
            found[name.lower()] = "none"
    return found


def pinned(constraints: Path = CONSTRAINTS) -> dict[str, str]:
    """Exact versions by package; nothing where there is no such file."""
    if not constraints.is_file():
        return {}
    lines = (line for line in constraints.read_text().splitlines() if "==" in line and not line.startswith("#"))
    return {_plain(name): number for name, _, number in (line.partition("==") for line in lines)}


def check_versions(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """Compare with pins. Raises Trouble that names what differs."""
    wrong = [
        f"{name} {number} instead of {wanted[_plain(name)]}"
        for name, number in found.items()
        if _plain(name) in wanted and _base(number) != _base(wanted[_plain(name)])
    ]
    if wrong:
        raise Trouble(f"{', '.join(wrong)}; install with -c constraints.txt")
    told = ", ".join(f"{name} {found[name]}" for name in ("python", "rayfall", "ray", "torch") if name in found)
    return told if wanted else f"{told}; there is no constraints.txt to compare with"


def compare_versions(there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise Trouble where another machine differs from this one. Of Python, its minor version counts."""
    wrong = [
        f"{name} {there.get(name, 'none')} instead of {number}"
        for name, number in here.items()
        if _compared(name, there.get(name, "none")) != _compared(name, number)
    ]
    if wrong:
        raise Trouble(f"{', '.join(wrong)} as here; install the same on every node")


def _compared(name: str, number: str) -> str:
    return ".".join(number.split(".")[:2]) if name == "python" else _base(number)


def _base(number: str) -> str:
    """Without what a build adds: 2.15.0+cu130."""
    return number.partition("+")[0]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
