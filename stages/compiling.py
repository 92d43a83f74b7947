"""Nets compiled by torch: the same step in fewer and larger kernels, its sums in another order.

Losses agree with those of the plain net within rounding, not bit for bit; a compiled run repeats itself on the same
kind of machine under the same torch. Shapes are fixed: each batch size is compiled once, for seconds to minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.compilers import CannotCompile, check_compiler, whole_or_nothing

Backend = Callable[..., Any]
"""What torch.compile hands graphs to."""

# Beyond what one net needs: a piece of a batch, a shorter last one, with gradients and without. Several nets of one
# class in a process share the count.
MOST_VARIANTS = 64


class Launched(nn.Module):
    """Calls a net whose answers and gradients lie in memory that its next calls write into: a CUDA graph's.

    Where no backward pass is to follow, answers are copies. Gradients are the caller's to move in time
    (``lends_gradients``); what else a backward pass needs is read before the next call.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: Any, **named: Any) -> Tensor:
        answer: Tensor = self.net(*given, **named)
        return answer if answer.requires_grad else answer.clone()


def _own(model: Any) -> Any:
    """What DistributedDataParallel wraps, or ``model``."""
    return getattr(model, "module", model)


def lends_gradients(model: Any) -> bool:
    """Whether the gradients that a backward pass of ``model`` leaves are written over by the next one."""
    return isinstance(_own(model), Launched)


def is_compiled(model: Any) -> bool:
    """Whether ``model`` is a net as ``compiled`` gives it."""
    return lends_gradients(model) or hasattr(_own(model), "_orig_mod")  # torch's name for what it compiled


def why_no_graphs(error: BaseException) -> str | None:
    """What torch had against making CUDA graphs, where that is why ``error`` was raised."""
    links: BaseException | None = error
    while links is not None:
        if found := re.search(r"skipping cudagraphs due to (.*)", str(links)):
            return found[1].strip()
        links = links.__cause__ or links.__context__
    return None


def compiled(
    net: nn.Module, *, backend: str | Backend = "inductor", graphs: bool = False, or_error: bool = False
) -> Any:
    """``net`` as it is to be called; its parameters stay those of ``net``. Raises CannotCompile.

    Dropout draws as torch itself does (``fallback_random``), from the generator that ``keyed_dropout`` seeds. A net
    that cannot be compiled in one piece is refused by torch when it is called. Kernels are not chosen by timing them
    (``deterministic``), or two workers would add up in two orders. With ``graphs`` all kernels of a call are launched
    as one where the net is on a GPU (a CUDA graph), and those of its backward pass as another; where torch cannot do
    so it warns and launches them one by one, or only some of them as one. With ``or_error`` that raises RuntimeError in
    the call that compiles (``why_no_graphs``), and CannotCompile here where the net is on no GPU.
    """
    options: dict[str, Any] | None = None
    if backend == "inductor":
        compiler = whole_or_nothing(check_compiler())
        launched = graphs and any(parameter.is_cuda for parameter in net.parameters())
        if graphs and or_error and not launched:
            raise CannotCompile("CUDA graphs are launched on a GPU, and this net is on none; compile it without them")
        options = {"fallback_random": True, "deterministic": True, "triton.cudagraphs": launched}
        options["cpp.cxx"] = (None, compiler)
        if launched and or_error:  # a graph that is cut into parts would hide what is left out of them
            options |= {"triton.cudagraph_or_error": True, "graph_partition": False}
    compile_net: Any = torch.compile  # whose annotations know nothing of a limit
    called = compile_net(
        net, fullgraph=True, dynamic=False, backend=backend, options=options, recompile_limit=MOST_VARIANTS
    )
    return Launched(called) if graphs else called
