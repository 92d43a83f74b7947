"""Images drawn in two ways are told apart."""

from __future__ import annotations

import pytest
import torch

from stages.checks import training
from stages.checks.drawing import MEAN_BF16, drawn, largest, mean
from stages.checks.training import stage_of


@pytest.mark.parametrize("super_resolution", [False, True])
def test_images_in_bf16_are_others_but_near(super_resolution: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = {**training.NETS["unet"], "channels": 8, "head_width": 8}
    monkeypatch.setattr(training, "NETS", {"unet": narrow})
    stage = stage_of(super_resolution=super_resolution)
    plain, again, half = (drawn(stage, "cpu", precision=one, block=2) for one in ("f32", "f32", "bf16"))
    assert plain.images.shape == (2, 3, 32, 32)
    assert plain.seconds > 0
    assert not torch.equal(plain.images[0], plain.images[1])
    assert largest(plain, again) == mean(plain, again) == 0
    assert 0 < mean(half, plain) < MEAN_BF16
    assert largest(half, plain) == pytest.approx(float((half.images - plain.images).abs().max()))
