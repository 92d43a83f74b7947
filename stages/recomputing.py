"""Memory for time: parts of a net that keep only their input for the backward pass, and are computed again there.

What autograd keeps grows with the area of a feature map, so the blocks at the highest resolutions hold nearly all of
it and only some of the FLOPs. Computed again they give the same bits, with the same dropout masks and the same
autocast: neither the loss nor a gradient changes.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A part of a net that may be computed again: ``compute(h, ...)`` is what it does to a feature map ``h``."""

    compute: Callable[..., Tensor]
    recompute_from: int | None = None  # px: on maps of this side or a larger one; None: never
    draws: bool = False  # whether it has dropout, whose masks are to be drawn once more as they were

    def side(self, h: Tensor) -> int:
        """Of the largest map that it works on, px."""
        return h.shape[-1]

    def forward(self, h: Tensor, *told: Tensor) -> Tensor:
        if self.recompute_from is None or self.side(h) < self.recompute_from or not is_grad_enabled():
            return self.compute(h, *told)
        again: Tensor = checkpoint(
            self.compute, h, *told, use_reentrant=False, preserve_rng_state=self.draws and self.training
        )
        return again


def recompute_from(net: nn.Module, side: int | None) -> None:
    """From here on the parts of ``net`` that work on maps of ``side`` px or more are computed again; None: no part."""
    for part in net.modules():
        if isinstance(part, Recomputable):
            part.recompute_from = side
            part.draws = any(isinstance(module, nn.Dropout) and module.p > 0.0 for module in part.modules())
