"""What is carried: what git and Ray ignore stays, as do secrets and data; and what is too big is named."""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import ZipFile

import pytest

from pipeline.errors import UserError
from pipeline.submission.order import ROOT
from pipeline.submission.package import LIMIT, Cargo, cargo_of, pack, require_small

KEPT = {"pyproject.toml", ".gitignore", ".rayignore", "stages/a.py", "pipeline/data/b.py", "jobs/run.sh"}
LEFT = {
    ".git/config", ".venv/bin/python", ".mypy_cache/x", "stages/__pycache__/a.pyc", "data/shard.tar", "outputs/x.png",
    "rayfall-store/mlflow.db", ".env", "keys/id.pem", "notes.txt", "stages/big.bin", "x.egg-info/PKG-INFO",
}  # fmt: skip


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in KEPT | LEFT:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / ".gitignore").write_text("/notes.txt\n")
    (tmp_path / ".rayignore").write_text("*.bin\n")
    (tmp_path / "jobs/run.sh").chmod(0o755)
    return tmp_path


def test_code_is_carried_and_all_else_stays(tree: Path) -> None:
    cargo = cargo_of(tree)
    assert set(cargo.files) == KEPT
    assert {".git", ".venv", "data", "outputs", "rayfall-store", ".env", "notes.txt"} <= set(cargo.left_out)
    assert ".git, " in cargo.told()
    assert set(cargo_of(tree, ("/pipeline/data",)).files) == KEPT - {"pipeline/data/b.py"}


def test_without_a_checkout_our_packages_alone_are_carried(tree: Path) -> None:
    (tree / "pyproject.toml").unlink()
    assert set(cargo_of(tree).files) == {"stages/a.py", "stages/big.bin", "pipeline/data/b.py", "jobs/run.sh"}


def test_the_same_content_is_the_same_package(tree: Path, tmp_path: Path) -> None:
    cargo, added = cargo_of(tree), {"rayfall-job.json": b"{}"}
    first, second = tmp_path / "first.zip", tmp_path / "second.zip"
    pack(cargo, added, first)
    for file in tree.rglob("*.py"):
        file.touch()
    pack(cargo, added, second)
    assert first.read_bytes() == second.read_bytes()
    with ZipFile(first) as archive:
        assert set(archive.namelist()) == KEPT | added.keys()
        assert archive.read("stages/a.py") == b"stages/a.py"
        assert archive.getinfo("jobs/run.sh").external_attr >> 16 & 0o100


def test_what_is_too_big_is_refused_with_what_is_biggest() -> None:
    cargo = Cargo(Path("/tree"), {"a/x/1": 60 << 20, "a/x/2": 50 << 20, "b/y": 3 << 20, "c": 1}, ())
    with pytest.raises(UserError, match=re.escape("a/x (110.0 MiB), b/y (3.0 MiB)")):
        require_small(cargo)
    require_small(Cargo(Path("/tree"), {"a": LIMIT - 1}, ()))


def test_this_tree_is_small() -> None:
    cargo = cargo_of(ROOT)
    assert cargo.size < 20 << 20
    assert {"jobs/on_cluster.py", "pipeline/report/templates/report.html", "constraints.txt"} <= set(cargo.files)
    assert not [name for name in cargo.files if name.startswith((".git/", ".venv"))]
