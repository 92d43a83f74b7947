"""What ends the training of the classifier, or hastens its commits: bad steps, nodes to be taken away, no memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline.cas.run import CasRun, CasSettings
from pipeline.errors import UserError
from pipeline.preemption import Notice
from pipeline.step_window import StepWindow

LAST = 20  # of one epoch


@pytest.fixture
def short(settings: CasSettings) -> CasSettings:
    """One epoch of a tiny net, looked at every fifth step."""
    spec = {**settings.spec, "epochs": 1, "net": {"kind": "small", "channels": [8]}}
    return replace(settings, spec=spec, log_every=5)


def begun(settings: CasSettings) -> CasRun:
    run = CasRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    return run


def spoil_gradient(run: CasRun, step: int) -> None:
    """Let one gradient of ``step`` (from 1) be no number, while the loss is."""
    first = next(iter(run.net.parameters()))
    first.register_hook(lambda gradient: gradient * float("nan") if run.step == step - 1 else gradient)


def kept(run: CasRun, store: str) -> tuple[list[int], int]:
    """The steps of all commits, and committed tensors that are not finite."""
    steps = [entry.info["step"] for entry in run.commits.entries() if entry.kind == "commit"]
    files = Path(store).rglob("*.safetensors")
    return steps, sum(not tensor.isfinite().all() for file in files for tensor in load_file(file).values())


@pytest.mark.parametrize("step", [1, 7, LAST])
def test_a_bad_gradient_ends_it_before_a_commit_and_names_the_images(short: CasSettings, step: int) -> None:
    """At the last step, too, after which nobody would see it in a loss."""
    run = begun(replace(short, checkpoint_seconds=0.0))
    spoil_gradient(run, step)
    words = rf"^the classification accuracy score: the loss is [\d.]+ at step {step}, with a gradient norm of nan; no"
    with pytest.raises(FloatingPointError, match=words):
        run.train(lambda entry: None)
    assert kept(run, short.storage) == (list(range(5, step, 5)), 0)
    (file,) = (Path(short.storage) / "failures").iterdir()
    told = json.loads(file.read_text())
    assert [one["example"] for one in told["examples"]] == run.batches.order.of_step(step - 1, 32).tolist()
    assert all("key" in one for one in told["examples"])


def test_without_that_look_bad_weights_would_be_the_result(short: CasSettings, monkeypatch: Any) -> None:
    monkeypatch.setattr(StepWindow, "gradients_are_finite", lambda self: True)
    run = begun(short)
    spoil_gradient(run, LAST)
    run.train(lambda entry: None)
    steps, wrong = kept(run, short.storage)
    assert steps == [LAST]
    assert wrong > 0


def test_a_loss_that_is_not_finite_is_told_by_its_first_step(short: CasSettings) -> None:
    run = begun(short)
    with torch.no_grad():
        next(iter(run.net.parameters())).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="the loss is nan at step 1,"):
        run.train(lambda entry: None)
    assert run.commits.latest_whole() is None


def test_a_node_to_be_taken_away_is_committed_for_at_once(short: CasSettings) -> None:
    """And once: nothing but the end is committed after it."""
    run = begun(short)
    run.train(lambda entry: None, lambda: Notice(frozenset({"node"})) if run.step >= 8 else None)
    assert kept(run, short.storage)[0] == [10, LAST]


def test_no_routine_commit_is_begun_that_might_not_end_in_time(short: CasSettings) -> None:
    run = begun(replace(short, checkpoint_seconds=0.0))
    run.train(lambda entry: None, lambda: Notice(frozenset({"node"}), deadline=0.0))
    assert kept(run, short.storage)[0] == [5, LAST]


def test_want_of_memory_is_one_sentence(short: CasSettings, monkeypatch: Any) -> None:
    run = begun(short)

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory, at length")

    monkeypatch.setattr(run, "advance", full)
    with pytest.raises(UserError, match=r"^evaluation.cas: cpu has too little memory for 32 images at once; set evalu"):
        run.train(lambda entry: None)
