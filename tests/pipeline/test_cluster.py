"""A cluster that could not start here is refused at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline.cluster import LONGEST_TEMPORARY

BEGINS = """
import ray
from pipeline.cluster import ray_cluster
ray.init = lambda **options: print(options)
with ray_cluster(None):
    pass
"""
# As Ray's dashboard starts its parts.
STARTS = "import multiprocessing; multiprocessing.get_context('forkserver').Process(target=print).start()"


def test_a_temporary_folder_with_too_long_a_name_is_refused_before_ray_is_started() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        answer = in_folder(short, LONGEST_TEMPORARY + 1, BEGINS)
    told = (
        rf"UserError: the temporary folder {short}/x+ has {LONGEST_TEMPORARY + 1} bytes .*; set TMPDIR to a shorter one"
    )
    assert re.search(told, answer.stderr)
    assert answer.stdout == "", "no cluster was begun"


@pytest.mark.parametrize("more", [0, 1])
def test_python_needs_names_that_are_that_short(more: int) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        answer = in_folder(short, LONGEST_TEMPORARY + more, STARTS)
    assert (answer.returncode, "AF_UNIX path too long" in answer.stderr) == ((0, False), (1, True))[more]


def in_folder(parent: str, length: int, code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` with a temporary folder in ``parent`` whose name has so many bytes."""
    folder = Path(parent) / ((length - len(parent) - 1) * "x")
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
