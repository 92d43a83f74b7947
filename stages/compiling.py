"""Nets compiled by torch: the same step in fewer and larger kernels, its sums in another order.

Losses agree with those of the plain net within rounding, not bit for bit; a compiled run repeats itself on the same
kind of machine under the same torch. Shapes are fixed: each batch size is compiled once, for seconds to minutes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Backend = Callable[..., Any]
"""What torch.compile hands graphs to."""

# Beyond what one net needs: a piece of a batch, a shorter last one, with gradients and without. Several nets of one
# class in a process share the count.
MOST_VARIANTS = 64


class NoCompiler(ValueError):  # noqa: N818 - it states what is the matter
    """This machine has no C++ compiler; the message says what to do."""


def check_compiler() -> None:
    """Raise NoCompiler where torch.compile would find none: it writes C++, on a GPU to launch what it made."""
    names = [name for name in (os.environ.get("CXX"), "g++", "clang++") if name]
    if not any(shutil.which(name) for name in names):
        raise NoCompiler(
            "compiling a net needs a C++ compiler, and this machine has neither g++ nor clang++; install one "
            "(apt-get install g++), name it in the environment variable CXX, or compile no nets"
        )


def compiled(net: nn.Module, *, backend: str | Backend = "inductor", graphs: bool = False) -> Any:
    """``net`` as it is to be called; its parameters stay those of ``net``. Raises NoCompiler.

    Dropout draws as torch itself does (``fallback_random``), from the generator that ``keyed_dropout`` seeds. A net
    that cannot be compiled in one piece is refused by torch when it is called. With ``graphs`` all kernels of a call
    are launched as one where the net is on a GPU (a CUDA graph): for calls without gradients, whose output is used up
    before the next call, which writes into the same memory.
    """
    options: dict[str, Any] | None = None
    if backend == "inductor":
        check_compiler()
        on_gpu = any(parameter.is_cuda for parameter in net.parameters())
        options = {"fallback_random": True, "triton.cudagraphs": graphs and on_gpu}
    compile_net: Any = torch.compile  # whose annotations know nothing of a limit
    return compile_net(
        net, fullgraph=True, dynamic=False, backend=backend, options=options, recompile_limit=MOST_VARIANTS
    )
