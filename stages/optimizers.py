"""torch's optimizers without its compiler, which theirs import when they are first called.

That import takes more than a second of every process that trains, and no step is compiled here: nets are
(``stages.compiling``), and the optimizer is called beside them.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch

AnyOptimizer = TypeVar("AnyOptimizer", bound=torch.optim.Optimizer)

# Those that torch wraps, each with a hint to the compiler.
_METHODS = ("step", "zero_grad", "add_param_group", "state_dict", "load_state_dict")


def eager(optimizer: type[AnyOptimizer]) -> type[AnyOptimizer]:
    """The class ``optimizer`` with its own methods instead of the wrapped ones; they do the same, to the last bit.

    Not for ``differentiable=True``: no step is recorded.
    """
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(optimizer, name)) for name in _METHODS}
    methods["step"] = torch.no_grad()(methods["step"])  # which the wrapper would see to
    return type(optimizer.__name__, (optimizer,), methods)


AdamW = eager(torch.optim.AdamW)
SGD = eager(torch.optim.SGD)
