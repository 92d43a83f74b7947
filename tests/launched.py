"""What CUDA graphs do to memory, where there is no GPU."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def in_one_place() -> Any:
    """A backend of torch.compile whose answers and gradients lie where the next calls write, as those of CUDA graphs.

    All graphs share their memory on a GPU, whatever shapes they are of: so a forward pass spoils every gradient.
    """
    import torch
    from functorch.compile import make_boxed_func
    from torch import Tensor
    from torch._dynamo.backends.common import aot_autograd

    gradients = list[Tensor]()

    def compiler(*, backward: bool) -> Any:
        def written_over(graph: Any, _: object) -> Any:
            places = dict[int, Tensor]()

            def call(*given: Any) -> list[Any]:
                answers = list(graph(*given))
                for place in () if backward else gradients:
                    place.fill_(torch.nan)
                for number, answer in enumerate(answers):
                    if not isinstance(answer, Tensor):
                        continue
                    if number not in places:
                        places[number] = answer.detach().clone()
                        gradients.extend([places[number]] if backward else [])
                    place = places[number].copy_(answer.detach())
                    # A new tensor: autograd takes a gradient over, rather than copying it, that nobody else holds.
                    answers[number] = place.view_as(place)
                return answers

            return make_boxed_func(call)

        return written_over

    return aot_autograd(fw_compiler=compiler(backward=False), bw_compiler=compiler(backward=True))
