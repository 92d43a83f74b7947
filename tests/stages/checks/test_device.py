"""What a training relies on a device for; each check fails where that is taken away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stages.checkpoints import load_state
from stages.checks import device, training
from stages.checks.device import changed_by_no_number, exact_float32, lost_on_the_way, normals_apart, other_words
from stages.checks.training import Way
from stages.randomness import KeyedDraws
from stages.training import TrainState

HERE = Way("cpu")


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "NETS", {"unet": {**training.NETS["unet"], "channels": 8, "head_width": 8}})


def test_products_are_exact_for_a_while() -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    with exact_float32():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic) == before


def test_draws_that_are_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert other_words("cpu", fused=False) == 0
    assert normals_apart("cpu", fused=False) == 0
    words, calls = KeyedDraws.words, [0]

    def one_off(self: KeyedDraws, purpose: str, step: int, positions: torch.Tensor, count: int) -> torch.Tensor:
        calls[0] += 1
        drawn = words(self, purpose, step, positions, count)
        drawn[5, 0] ^= (calls[0] % 2) << 20  # the device's, and not the CPU's
        return drawn

    monkeypatch.setattr(KeyedDraws, "words", one_off)
    assert other_words("cpu", fused=False) == 1
    assert normals_apart("cpu", fused=False) > 0


def test_a_step_without_a_number_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert changed_by_no_number(HERE) == 0
    monkeypatch.setattr("stages.training.soundness", lambda norm: torch.ones(()))
    assert changed_by_no_number(HERE) > 100, "weights, averages and moments"


def test_a_checkpoint_loses_nothing_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lost_on_the_way(HERE) == 0

    def forgetful(folder: Path, state: TrainState) -> None:
        kept = {name: tensor.clone() for name, tensor in state.ema.state_dict().items()}
        load_state(folder, state)
        state.ema.load_state_dict(kept)

    monkeypatch.setattr(device, "load_state", forgetful)
    assert lost_on_the_way(HERE) > 10
