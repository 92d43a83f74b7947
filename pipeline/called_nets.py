"""How a worker calls its net: as it is, compiled, or compiled and launched as CUDA graphs (``resources.compile``)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from pipeline.errors import UserError
from stages.compilers import Asked, CannotCompile
from stages.compiling import compiled, why_no_graphs


def called_net(net: nn.Module, how: Asked) -> Any:
    """``net`` as training calls it. Raises UserError where it cannot be compiled."""
    try:
        return compiled(net, graphs=how == "graphs", or_error=True) if how else net
    except CannotCompile as error:
        raise UserError(f"resources.compile: {error}") from error


@contextmanager
def graphs_named() -> Iterator[None]:
    """That torch cannot make graphs of a net becomes a UserError: no other attempt would be any different."""
    try:
        yield
    except Exception as error:  # torch wraps it, in ways of its own in a forward and in a backward pass
        if (why := why_no_graphs(error)) is None:
            raise
        raise UserError(
            f"resources.compile: torch makes no CUDA graphs of this net ({why}); set it to true instead of graphs"
        ) from error


@contextmanager
def forgotten_afterwards(how: Asked) -> Iterator[None]:
    """What was compiled is given up in the end: a process that trains one net after the other would keep the graphs of
    all of them, and their memory on the GPU."""
    try:
        yield
    finally:
        if how:
            torch.compiler.reset()
