"""Freed memory that is wanted again costs no page of the system's; asked in processes of their own, it lasts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from stages.processor import HUGE_PAGES

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


HUGE = """
import torch
from stages.processor import prepare_processor
prepare_processor(1)
kept = [torch.ones(8 << 20) for _ in range(4)]  # 128 MiB
print(next(line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("AnonHugePages")))
"""


def told(program: str, *arguments: str, extra: Mapping[str, str] | None = None) -> list[int]:
    """The numbers that ``program`` prints in a process of its own, with ``extra`` in its environment."""
    environment = {name: value for name, value in os.environ.items() if name not in HUGE_PAGES}
    printed = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True, text=True, cwd=ROOT, check=True, env={**environment, **(extra or {})},
    ).stdout  # fmt: skip
    return [int(line) for line in printed.split()]


def huge_pages_on_request() -> bool:
    """Whether the system gives them to who asks, and to nobody else."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return platform.libc_ver()[0] == "glibc" and setting.exists() and "[madvise]" in setting.read_text()


@pytest.mark.skipif(not huge_pages_on_request(), reason="huge pages are given to all here, or to none")
def test_memory_is_in_huge_pages_where_they_are_asked_for() -> None:
    assert told(HUGE) == [0]
    assert told(HUGE, extra=HUGE_PAGES)[0] > 100 * 1024  # KiB of 128 MiB


RESTARTED = """
import os, sys
from stages.processor import restart_with_huge_pages
restart_with_huge_pages()
print(sys.argv[1], int(os.environ["GLIBC_TUNABLES"] == sys.argv[2]))
"""


def test_a_command_begins_again_once_with_its_arguments() -> None:
    asked, other = HUGE_PAGES["GLIBC_TUNABLES"], "glibc.malloc.arena_max=1"
    assert told(RESTARTED, "7", asked) == [7, 1]
    assert told(RESTARTED, "7", other, extra={"GLIBC_TUNABLES": other}) == [7, 1], "what somebody set is left alone"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_is_freed_is_kept_until_it_is_given_back() -> None:
    (plain, _), (kept, given_back) = told(PAGES, "plain"), told(PAGES, "kept")
    pages = (32 << 20) // 4096
    assert kept < pages / 4, "the system clears no pages that were cleared before"
    assert plain > 5 * pages, "without it, it does each time"
    assert given_back > pages / 2
