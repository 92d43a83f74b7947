"""Versions are compared with pins and between machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.doctor.findings import Trouble
from pipeline.doctor.versions import check_versions, compare_versions, pinned, versions_here


def test_what_is_installed_here_is_what_is_pinned() -> None:
    found = versions_here()
    assert {"python", "rayfall", "ray", "torch", "mlflow", "ruamel.yaml"} <= found.keys()
    assert "ray 2." in check_versions(found, pinned())


def test_what_differs_from_its_pin_is_named(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("# pins\nray==2.60.0\nruamel-yaml==1.0\ntorch==2.15.0\n")
    wanted = pinned(tmp_path / "constraints.txt")
    assert check_versions({"ray": "2.60.0", "torch": "2.15.0+cu130"}, wanted)
    with pytest.raises(
        Trouble, match=r"ray 2.59.0 instead of 2.60.0, ruamel.yaml none instead of 1.0; install with -c"
    ):
        check_versions({"ray": "2.59.0", "ruamel.yaml": "none"}, wanted)
    assert "no constraints.txt" in check_versions({"ray": "1"}, pinned(tmp_path / "absent"))


def test_machines_may_differ_in_builds_and_patches_of_python_alone() -> None:
    here = {"python": "3.11.7", "torch": "2.15.0"}
    compare_versions({"python": "3.11.9", "torch": "2.15.0+cu130"}, here)
    with pytest.raises(Trouble, match=r"python 3.12.1 instead of 3.11.7, torch none instead of 2.15.0"):
        compare_versions({"python": "3.12.1"}, here)
