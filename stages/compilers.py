"""Whether there is a compiler for what torch.compile writes. Imports no torch: one asks before anything starts."""

from __future__ import annotations

import os
import shutil
from typing import Literal

Asked = Literal[False, True, "graphs"]
"""Whether nets are compiled for training, and whether their kernels are launched as one besides (CUDA graphs)."""


class CannotCompile(ValueError):  # noqa: N818 - it states what is the matter
    """Nets cannot be compiled, or launched, here as it was asked; the message says what to do."""


def check_compiler() -> None:
    """Raise CannotCompile where torch.compile would find none: it writes C++, on a GPU to launch what it made."""
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    if not any(shutil.which(name) for name in names):
        raise CannotCompile(
            "compiling a net needs a C++ compiler, and this machine has neither g++ nor clang++; install one "
            "(apt-get install g++), name it in the environment variable CXX, or compile no nets"
        )
