"""Nets compiled by torch: the same step in fewer and larger kernels, its sums in another order.

Losses agree with those of the plain net within rounding, not bit for bit; a compiled run repeats itself on the same
kind of machine under the same torch. Shapes are fixed: each batch size is compiled once, for seconds to minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stages.compilers import check_compiler

Backend = Callable[..., Any]
"""What torch.compile hands graphs to."""

# Beyond what one net needs: a piece of a batch, a shorter last one, with gradients and without. Several nets of one
# class in a process share the count.
MOST_VARIANTS = 64


class Kept(nn.Module):
    """Calls a net whose answers lie in memory that its next call writes into, and gives copies of them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: Any, **named: Any) -> Tensor:
        answer: Tensor = self.net(*given, **named)
        return answer.clone()


def compiled(net: nn.Module, *, backend: str | Backend = "inductor", graphs: bool = False) -> Any:
    """``net`` as it is to be called; its parameters stay those of ``net``. Raises NoCompiler.

    Dropout draws as torch itself does (``fallback_random``), from the generator that ``keyed_dropout`` seeds. A net
    that cannot be compiled in one piece is refused by torch when it is called. Kernels are not chosen by timing them
    (``deterministic``), or two workers would add up in two orders. With ``graphs`` all kernels of a call are launched
    as one where the net is on a GPU (a CUDA graph), for calls without gradients.
    """
    options: dict[str, Any] | None = None
    if backend == "inductor":
        check_compiler()
        on_gpu = any(parameter.is_cuda for parameter in net.parameters())
        options = {"fallback_random": True, "deterministic": True, "triton.cudagraphs": graphs and on_gpu}
    compile_net: Any = torch.compile  # whose annotations know nothing of a limit
    called = compile_net(
        net, fullgraph=True, dynamic=False, backend=backend, options=options, recompile_limit=MOST_VARIANTS
    )
    return Kept(called) if graphs else called
