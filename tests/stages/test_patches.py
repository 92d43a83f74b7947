"""Entry and exit of a net: what is shrunk on the way in has its full size on the way out, and nothing is lost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages import wavelets
from stages.patches import Patching, way_in, way_out


@pytest.mark.parametrize(
    ("patch", "patching"), [(1, "conv"), (2, "conv"), (3, "conv"), (2, "haar"), (4, "haar"), (2, "cdf53"), (4, "cdf53")]
)
def test_shapes(patch: int, patching: Patching) -> None:
    images = torch.randn(2, 6, 12, 24)
    h = way_in(6, 8, patch=patch, patching=patching)(images)
    assert h.shape == (2, 8, 12 // patch, 24 // patch)
    leave = way_out(8, 3, patch=patch, patching=patching)
    assert leave(h).shape == (2, 3, 12, 24)
    assert torch.all(leave(h) == 0), "the last convolution starts at zero"


def pass_on(convolution: nn.Conv2d) -> None:
    """Make a 3x3 convolution of as many channels in as out the identity."""
    nn.init.dirac_(convolution.weight)
    nn.init.zeros_(convolution.bias)


@pytest.mark.parametrize("patching", ["haar", "cdf53"])
def test_wavelets_lose_nothing(patching: Patching) -> None:
    images = torch.randn(2, 3, 8, 8)
    enter, leave = way_in(3, 48, patch=4, patching=patching), way_out(48, 3, patch=4, patching=patching)
    pass_on(enter[1])
    pass_on(leave[2])
    bands = enter(images)
    torch.testing.assert_close(bands, wavelets.forward(images, patching, 2))
    torch.testing.assert_close(leave[2:](bands), images)
