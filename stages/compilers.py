"""Whether there is a compiler for what torch.compile writes. Imports no torch: one asks before anything starts."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Literal

Asked = Literal[False, True, "graphs"]
"""Whether nets are compiled for training, and whether their kernels are launched as one besides (CUDA graphs)."""


class CannotCompile(ValueError):  # noqa: N818 - it states what is the matter
    """Nets cannot be compiled, or launched, here as it was asked; the message says what to do."""


def check_compiler() -> str:
    """The compiler of the C++ that torch.compile writes, on a GPU to launch what it made: what CXX names, or the first
    that is there. Raises CannotCompile where there is none."""
    names = [named] if (named := os.environ.get("CXX")) else ["g++", "clang++"]
    for name in names:
        if shutil.which(shlex.split(name)[0]):
            return name
    missing = f"not the {named} that CXX names" if named else "neither g++ nor clang++"
    raise CannotCompile(
        f"compiling a net needs a C++ compiler, and this machine has {missing}; install one "
        "(apt-get install g++), name it in the environment variable CXX, or compile no nets"
    )


def whole_or_nothing(compiler: str) -> str:
    """A command like ``compiler`` whose output appears in its place when it is whole.

    torch keeps what was compiled for whoever compiles the same on this machine. A process that is killed while a linker
    writes would leave there what no process after it could load.
    """
    return shlex.join(["sh", str(Path(__file__).with_name("whole_outputs.sh")), *shlex.split(compiler)])
