"""Freed memory that is wanted again costs no page of the system's; asked in processes of their own, it lasts."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = """
import resource, sys, torch
from stages.processor import give_back, prepare_processor
if sys.argv[1] == "kept":
    prepare_processor(1)
    assert torch.get_num_threads() == 1
for _ in range(20):  # until the heap has a place for it
    torch.ones(8 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(8 << 20)  # 32 MiB, freed at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
resident = lambda: int(open("/proc/self/statm").read().split()[1])
held = resident()
give_back()
print(held - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    def found(how: str) -> list[int]:
        told = subprocess.run(
            [sys.executable, "-c", PAGES, how], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout
        return [int(line) for line in told.split()]

    (plain, _), (kept, given_back) = found("plain"), found("kept")
    pages = (32 << 20) // 4096
    assert kept < pages / 4, "the system clears no pages that were cleared before"
    assert plain > 5 * pages, "without it, it does each time"
    assert given_back > pages / 2
