"""What is measured is the step of training, and FLOPs are counted by what ran."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from stages.accounting import cost_of
from stages.benchmarks.memory import peak_bytes
from stages.benchmarks.nets import CASES, Case
from stages.benchmarks.peaks import peak_variants
from stages.benchmarks.peers import NoSuchPeer, peer
from stages.benchmarks.subjects import Work, batch_of, count_flops, rayfall
from stages.net_specs import UNetSpec
from stages.specs import TrainingSpec
from stages.stage import Stage
from stages.training import TrainState, train_step

CPU = torch.device("cpu")


def work_of(case: Case, batch: int) -> Work:
    return Work(case.stage.size, case.stage.low_res_size, case.stage.classes, batch, CPU)


@pytest.mark.parametrize("name", ["demo", "small_sr"])
def test_what_is_measured_is_the_step_of_training(name: str) -> None:
    case = CASES[name]
    work = work_of(case, 2)
    stage = Stage.build(case.stage)
    training = TrainingSpec(steps=10, batch_size=2)
    state = TrainState.start(stage, training, 0)
    expected = [float(train_step(stage, state, batch_of(work), training=training, seed=0).loss) for _ in range(3)]
    subject = rayfall(work, case.stage, "f32")
    assert [float(subject.train()) for _ in range(3)] == expected
    assert subject.sample().shape == (2, 3, work.size, work.size)


def test_flops_that_ran_are_those_that_are_reckoned() -> None:
    case = CASES["demo"]
    counted = count_flops(rayfall(work_of(case, 3), case.stage, "f32"), 3)
    cost = cost_of(Stage.build(case.stage), TrainingSpec(steps=10, batch_size=3))
    assert counted.forward == pytest.approx(cost.forward_flops, rel=1e-9)
    assert counted.training == pytest.approx(cost.training_flops, rel=0.02)  # how attention goes back may differ


def test_the_net_of_adm_at_64_px_has_the_parameters_that_were_published() -> None:
    """295.9 million, with a label for "none" and without a learned variance beside it."""
    stage = Stage.build(CASES["adm64"].stage)
    assert cost_of(stage, TrainingSpec(steps=1)).parameters == pytest.approx(295.9e6, rel=2e-3)


def test_diffusers_has_as_many_flops_at_equal_width_and_depth() -> None:
    pytest.importorskip("diffusers")
    case = CASES["small"]
    work = work_of(case, 2)
    ours = count_flops(rayfall(work, case.stage, "f32"), 2)
    subject = peer("diffusers", work, case.stage.net, "f32")
    theirs = count_flops(subject, 2)
    assert theirs.forward == pytest.approx(ours.forward, rel=0.01)
    assert theirs.training == pytest.approx(ours.training, rel=0.01)
    before = [parameter.clone() for parameter in subject.net.parameters()]
    assert float(subject.train()) > 0.0
    assert any(not torch.equal(one, other) for one, other in zip(before, subject.net.parameters(), strict=True))


@pytest.mark.parametrize("name", ["imagen-pytorch", "denoising-diffusion-pytorch"])
def test_other_peers_take_a_step(name: str) -> None:
    pytest.importorskip(name.replace("-", "_"))
    case = CASES["small_sr"]
    work = work_of(case, 2)
    subject = peer(name, work, case.stage.net, "f32")
    assert float(subject.train()) > 0.0
    assert subject.sample().shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("name", "net", "sentence"),
    [
        ("keras", UNetSpec(), "known are diffusers, imagen-pytorch"),
        ("diffusers", UNetSpec(patch=2), "no net like a unet with a patch of 2"),
        ("diffusers", UNetSpec(blocks=(1, 2)), r"as many blocks on every level, not \[1, 2\]"),
        ("denoising-diffusion-pytorch", UNetSpec(blocks=1), "denoising.diffusion.pytorch"),
    ],
)
def test_a_peer_that_cannot_be_had_is_one_sentence(name: str, net: Any, sentence: str) -> None:
    with pytest.raises(NoSuchPeer, match=sentence):
        peer(name, work_of(CASES["small"], 1), net, "f32")


def test_peaks_count_two_flops_for_a_multiply_add() -> None:
    matrix, convolution = peak_variants(CPU, "f32")
    assert (matrix.name, convolution.name) == ("matrix f32", "convolution f32")
    assert matrix.run() == 2 * 1536**3
    assert convolution.run() == 4 * 2 * 9 * 128 * 128 * 16 * 16 * 16


def test_memory_that_a_call_needs_is_seen() -> None:
    found = peak_bytes(lambda: torch.ones(64 << 20, dtype=torch.uint8), CPU)
    assert found is None or 60e6 < found < 200e6
