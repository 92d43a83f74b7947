"""How a process uses the CPU: its threads, and its memory, which is kept where a step frees it and wants it again.

A step allocates and frees the same hundreds of megabytes again and again. By default the C library (glibc) gets large
pieces from the system and hands them back each time, and the system clears every page of them anew. And it gets them in
pages of 4 KiB: to find a gigabyte's worth of them again and again takes a processor longer than to find a few hundred
of 2 MiB (``HUGE_PAGES``), most of all where several processes compute side by side on a virtual machine.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress

# In the environment of a process that is started: its C library asks for huge pages. Where the system gives them to all
# anyway, or to none, it changes nothing.
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}

# Options of mallopt(3). Setting any of them also ends its guessing of the others.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
_NEVER = 2**31 - 1  # bytes free at the end before they are handed back
_PAD = 64 << 20  # bytes to ask for beyond what is wanted


def prepare_processor(threads: int) -> None:
    """What a process does first that trains or draws: ``threads`` for torch, and freed memory is kept."""
    import torch  # here: who computes in other processes only hands this on

    torch.set_num_threads(threads)
    keep_freed_memory()


def restart_with_huge_pages() -> None:
    """Begin this process again with ``HUGE_PAGES`` in its environment, unless something is said there already.

    For commands that compute themselves, first of all: the C library reads it when a process begins.
    """
    if not HUGE_PAGES.keys() <= os.environ.keys():
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **HUGE_PAGES})


def keep_freed_memory() -> bool:
    """From here on this process keeps what it frees; whether there was a C library that can be told so.

    ``give_back`` hands it back. One pool serves all threads: where there are several, each would keep its own.
    """
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        options = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_TOP_PAD, _PAD))
        taken = [library.mallopt(option, value) for option, value in options]
        return all(one == 1 for one in taken)
    return False


def give_back() -> None:
    """Hand what is free back to the system, as far as the C library can."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
