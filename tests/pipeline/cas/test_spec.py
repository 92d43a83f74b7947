"""The settings of the score: the published learning rates, and what of them moves with the length of a training."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from pipeline.cas.spec import CasSpec


def test_the_defaults_are_the_published_protocol() -> None:
    spec = CasSpec()
    assert (spec.net.words, spec.epochs, spec.batch_size, spec.momentum) == ("ResNet-50", 90, 1024, 0.9)
    assert (spec.side(256), spec.images) == (224, None)
    assert spec.steps(1_281_167) == 112_603  # 90 epochs of ImageNet


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [(0, 0.0), (1, 0.08), (2.5, 0.2), (5, 0.4), (29.99, 0.4), (30, 0.04), (60, 0.004), (79.99, 0.004), (80, 4e-4)],
)
def test_learning_rate_of_the_protocol(epoch: float, rate: float) -> None:
    assert CasSpec().rate_at(epoch) == pytest.approx(rate, rel=1e-12)
    assert CasSpec(epochs=9).rate_at(epoch / 10) == pytest.approx(rate, rel=1e-12)
    assert CasSpec(batch_size=256).rate_at(epoch) == pytest.approx(rate / 4, rel=1e-12)


def test_warmup_can_be_set_and_ends_before_the_rate_falls() -> None:
    assert CasSpec(warmup_epochs=0).rate_at(0) == 0.4
    assert CasSpec(warmup_epochs=10).rate_at(5) == pytest.approx(0.2)
    with pytest.raises(ValidationError, match="warmup_epochs 4 is longer than the 3 epochs"):
        CasSpec(epochs=9, warmup_epochs=4)


def test_nets_are_named_in_words() -> None:
    def words(**net: object) -> str:
        return CasSpec.model_validate({"net": net}).net.words

    assert words(kind="resnet18", stem="small") == "ResNet-18 with a 3 x 3 stem"
    assert words(kind="small", channels=[32, 64, 64]) == "small convolutional net 32-64-64"
    assert words(kind="small", channels=[8], blocks=2) == "small convolutional net 8, 2 blocks each"


def test_reading_it_needs_no_torch() -> None:
    code = "import sys, pipeline.cas.spec; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
