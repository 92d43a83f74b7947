"""What a compiler writes appears whole or not at all, and torch's compilers write so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages.compilers import CannotCompile, check_compiler, whole_or_nothing

ROOT = Path(__file__).parents[2]
# Notes what it was asked for; where "slow" lies beside it, it stops half way through writing.
COMPILER = """#!/bin/sh
echo "$@" >> "{folder}/asked"
case "$(test -e "{folder}/slow" && echo slow) $* " in
slow*" -o "*)
    while [ "$1" != -o ]; do shift; done
    echo half > "$2"
    sleep 600 ;;
esac
exec g++ "$@"
"""
# A net that torch compiles for the CPU.
COMPILES = """
import torch
from torch import nn
from stages.compiling import compiled
plain = nn.Sequential(nn.Linear(4, 4), nn.SiLU())
net = compiled(plain)
with torch.no_grad():
    print(float(net(torch.ones(2, 4)).sum()), float(plain(torch.ones(2, 4)).sum()))
"""


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "a folder" / "compiler"
    path.parent.mkdir()
    path.write_text(COMPILER.format(folder=path.parent))
    path.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{path}'")
    return check_compiler()


def _command(compiler: str, *arguments: object) -> str:
    return f"exec {whole_or_nothing(compiler)} {' '.join(map(str, arguments))}"


def test_a_compiler_is_what_cxx_names_or_the_first_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ -pipe")
    assert check_compiler() == "g++ -pipe"
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(CannotCompile, match="has not the no-such-compiler that CXX names; install one"):
        check_compiler()
    monkeypatch.delenv("CXX")
    assert check_compiler() == "g++"


def test_output_appears_and_failure_is_handed_on(compiler: str, tmp_path: Path) -> None:
    source, output = tmp_path / "a.cpp", tmp_path / "a.so"
    source.write_text("int one() { return 1; }\n")
    subprocess.run(_command(compiler, source, "-shared", "-fPIC", "-o", output), shell=True, check=True)
    assert output.read_bytes()[:4] == b"\x7fELF"
    broken = tmp_path / "b.cpp"
    broken.write_text("int one( {\n")
    told = subprocess.run(
        _command(compiler, broken, "-c", "-o", tmp_path / "b.o"), shell=True, check=False, capture_output=True
    )
    assert told.returncode == 1
    assert b"error" in told.stderr
    version = subprocess.run(_command(compiler, "--version"), shell=True, check=True, capture_output=True)
    assert version.stdout == subprocess.run(["g++", "--version"], check=True, capture_output=True).stdout
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["a.cpp", "a.so", "b.cpp"]


def _killed_half_way(command: list[str], folder: Path, environment: dict[str, str], found: str) -> None:
    """Begin ``command`` with a compiler that stops half way, and kill all of it when there is a file like ``found``."""
    (folder / "slow").touch()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            assert process.poll() is None
            if any(path.stat().st_size for path in Path(environment["TORCHINDUCTOR_CACHE_DIR"]).rglob(found)):
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"no {found} within a minute")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    (folder / "slow").unlink()


@pytest.mark.slow
def test_a_killed_compilation_leaves_nothing_that_looks_compiled(
    compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch compiles again in the same place, and not around what lies there: every output was made whole."""
    folder = tmp_path / "a folder"
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir()
    _killed_half_way([sys.executable, "-c", COMPILES], folder, environment, "*.part")
    half = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.read_bytes() == b"half\n"]
    assert [path.suffix for path in half] == [".part"]
    answer = subprocess.run([sys.executable, "-c", COMPILES], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    found, expected = map(float, answer.stdout.split())
    assert found == pytest.approx(expected)
    asked = [line for line in (folder / "asked").read_text().splitlines() if " -o " in line]
    assert len(asked) >= 2
    assert all(line.split(" -o ")[1].split()[0].endswith(".part") for line in asked), asked
