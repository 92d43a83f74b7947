"""What CUDA graphs do to memory, where there is no GPU."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def in_one_place() -> Any:
    """A backend of torch.compile whose answers and gradients are written over by the next call, as a CUDA graph's."""
    from functorch.compile import make_boxed_func
    from torch import Tensor
    from torch._dynamo.backends.common import aot_autograd

    def written_over(graph: Any, _: object) -> Any:
        places = dict[int, Tensor]()

        def call(*given: Any) -> list[Any]:
            answers = list(graph(*given))
            for number, answer in enumerate(answers):
                if isinstance(answer, Tensor):
                    place = places.setdefault(number, answer.detach().clone()).copy_(answer.detach())
                    # A new tensor: autograd takes a gradient over, rather than copying it, that nobody else holds.
                    answers[number] = place.view_as(place)
            return answers

        return make_boxed_func(call)

    return aot_autograd(fw_compiler=written_over, bw_compiler=written_over)
