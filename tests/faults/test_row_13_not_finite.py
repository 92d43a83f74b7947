"""Row 13: a loss or a gradient that is not finite stops training before it reaches weights that anybody keeps."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import stages.training
from pipeline.step_window import StepWindow
from stages.averages import average_decay, gamma_of
from stages.specs import TrainingSpec, ema_decay, learning_rate_at
from stages.training import Batch, TrainState, accumulate_gradients, train_step

pytestmark = pytest.mark.faults

STEPS, LOG_EVERY, AVERAGES = 12, 3, 2


def spoil(run: Any, step: int, value: float) -> None:
    """Let one image of the batch of ``step`` (from 1) hold one ``value`` that is no colour."""
    whole = run._on_device

    def on_device(images: torch.Tensor, labels: torch.Tensor) -> Batch:
        batch = whole(images, labels)
        if run.state.step == step - 1:
            batch.images[-1, 0, 0, 0] = value
        return batch

    run._on_device = on_device


def settings_of(tiny: Any, store: Path, **changes: Any) -> Any:
    """A run that keeps averages between its looks at the loss, and sets some aside to be scored."""
    training = {"averages": {"every": AVERAGES}}
    return tiny.settings(store, steps=STEPS, training=training, log_every=LOG_EVERY, watch_every=4, **changes)


def kept_after(tiny: Any, store: Path, step: int) -> tuple[int, int]:
    """Commits of ``step`` and later, and committed tensors that are not finite."""
    log = tiny.log(store)
    commits = [entry for entry in log.entries() if entry.kind == "commit"]
    steps = [
        max(value for key, value in entry.info.items() if key in ("step", "averages", "watched")) for entry in commits
    ]
    files = list(store.rglob("*.safetensors"))
    wrong = sum(not tensor.isfinite().all() for path in files for tensor in load_file(path).values())
    return sum(one >= step for one in steps), wrong


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_training_stops_before_a_commit_and_names_the_images(
    tiny: Any, tmp_path: Path, value: float, record_figure: Any
) -> None:
    bad_steps, late, wrong = range(1, STEPS + 1), 0, 0
    for step in bad_steps:
        store = tmp_path / f"{step}"
        run = tiny.run(settings_of(tiny, store))
        spoil(run, step, value)
        with pytest.raises(
            FloatingPointError, match=rf"^sr: the loss is \S+ at step {step}, with a gradient norm of nan; no"
        ):
            run.train(lambda entry, metrics: None)
        assert all(tensor.isfinite().all() for tensor in run.state.net.state_dict().values())
        after, not_finite = kept_after(tiny, store, step)
        late, wrong = late + after, wrong + not_finite
        (file,) = (store / "failures").iterdir()
        told = json.loads(file.read_text())
        asked = run.batches.order.of_step(step - 1, tiny.batch_size)
        assert [one["example"] for one in told["examples"]] == asked.tolist()
        # Drawn images have their number for a key, and 32 of them are a shard.
        named = [(f"8-png/train-{number // 32:05d}.tar", f"{number:08d}") for number in asked]
        assert [(one["shard"], one["key"]) for one in told["examples"]] == named
        assert (told["step"], told["seed"], told["gradient_norm"]) == (step, 0, "nan")
        assert all(row[0] < step and np.isfinite(row[1:]).all() for row in told["steps_before"])
        assert len(told["history"]) == (step - 1) // LOG_EVERY
    assert (late, wrong) == (0, 0)
    record_figure(
        13,
        f"{value} in one pixel, at each of {len(bad_steps)} steps",
        f"stopped {len(bad_steps)} of {len(bad_steps)} with a sentence and the keys of the batch; commits of the bad "
        f"step or later {late}, tensors in the store that are not finite {wrong}",
    )


def test_without_the_protection_weights_that_are_not_finite_are_kept(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_figure: Any
) -> None:
    monkeypatch.setattr(stages.training, "soundness", torch.ones_like)
    monkeypatch.setattr(StepWindow, "gradients_are_finite", lambda self: True)
    monkeypatch.setattr(StepWindow, "first_unsound", lambda self, last: None)
    run = tiny.run(settings_of(tiny, tmp_path))
    spoil(run, 4, float("nan"))
    run.train(lambda entry, metrics: None)
    late, wrong = kept_after(tiny, tmp_path, 4)
    assert late > 0
    assert wrong > 0
    record_figure(
        13, "the same at step 4", f"{late} commits from there on, {wrong} tensors that are not finite", protected=False
    )


def reference_step(stage: Any, state: TrainState, batch: Batch, *, training: TrainingSpec, seed: int) -> torch.Tensor:
    """The step without any protection, in torch's own words."""
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate_at(training, state.step)
    state.optimizer.zero_grad(set_to_none=True)
    loss = accumulate_gradients(stage, state, batch, training=training, seed=seed)
    nn.utils.clip_grad_norm_(state.net.parameters(), training.clip)
    state.optimizer.step()
    weights = list(state.net.parameters())
    with torch.no_grad():
        torch._foreach_lerp_(list(state.ema.parameters()), weights, 1.0 - ema_decay(training.ema, state.step))
        state.step += 1
        for width, average in state.averages.items():
            torch._foreach_lerp_(list(average.values()), weights, 1.0 - average_decay(gamma_of(width), state.step))
    return loss


def tensors_of(state: TrainState) -> list[torch.Tensor]:
    """Everything that a step may change, copied."""
    found = [*state.net.parameters(), *state.ema.parameters()]
    found += [value for average in state.averages.values() for value in average.values()]
    found += [value for one in state.optimizer.state.values() for value in one.values()]
    return [tensor.detach().clone() for tensor in found]


def same_bits(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("changes", [{}, {"precision": "bf16"}, {"micro_batch": 3}, {"weight_decay": 0.1, "ema": 0.4}])
def test_finite_steps_keep_their_bits_and_a_bad_one_changes_nothing(tiny: Any, tmp_path: Path, changes: Any) -> None:
    settings = tiny.settings(tmp_path, steps=STEPS, training={"averages": {"every": 2}, **changes})
    run, other = tiny.run(settings), tiny.run(settings)
    told: dict[str, Any] = {"training": run.training, "seed": 0}
    for step in range(6):
        batch = run.batch(step)
        seen = train_step(run.stage, run.state, batch, **told)
        assert torch.equal(seen.loss, reference_step(other.stage, other.state, batch, **told))
        assert same_bits(tensors_of(run.state), tensors_of(other.state))
    before, batch = tensors_of(run.state), run.batch(6)
    batch.images[0] = float("inf")
    assert not train_step(run.stage, run.state, batch, **told).gradient_norm.isfinite()
    assert same_bits(tensors_of(run.state), before)
    assert run.state.step == 7


class Waits(TorchDispatchMode):
    """Counts the operations by which a host waits for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select"):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_no_step_waits_for_its_device(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tiny.settings(tmp_path, training={"averages": {"every": 2}}))
    told: dict[str, Any] = {"training": run.training, "seed": 0}
    batch = run.batch(0)
    with Waits() as waits:
        accumulate_gradients(run.stage, run.state, batch, **told)
    before = len(waits.found)  # of keyed draws, which are made on the CPU here
    run.state.optimizer.zero_grad(set_to_none=True)
    with Waits() as waits:
        train_step(run.stage, run.state, batch, **told)
    assert len(waits.found) == before
    with Waits() as waits:
        assert run.window.seen == []
        run.advance(run.batch(1))
        bool(torch.ones(()).isfinite())
    assert len(waits.found) > before, "the count counts"


def test_a_step_takes_no_longer(tiny: Any, tmp_path: Path, repeats: int, record_figure: Any) -> None:
    """Alternating with the step without protection, on copies of one state."""
    run = tiny.run(tiny.settings(tmp_path))
    told: dict[str, Any] = {"training": run.training, "seed": 0}
    batch, states = run.batch(0), [run.state, copy.deepcopy(run.state)]
    seconds: list[list[float]] = [[], []]
    for number in range(10 + 4 * repeats):
        for which in (number % 2, 1 - number % 2):
            began = time.perf_counter()
            (train_step, reference_step)[which](run.stage, states[which], batch, **told)
            seconds[which].append(time.perf_counter() - began)
    ratio = float(np.median(seconds[0][5:]) / np.median(seconds[1][5:]))
    record_figure(
        13, "the time of a step, with and without the protection", f"ratio of medians {ratio:.3f}, on the CPU"
    )
    assert ratio < 1.5


RANK = """
import json, sys, torch, torch.distributed as dist
from pipeline.stage_run import StageRun
from pipeline.worker_settings import LoopSettings
torch.set_num_threads(1)
rank = int(sys.argv[2])
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
run = StageRun(LoopSettings(**json.load(open(sys.argv[1]))), rank=rank, world=2, device="cpu")
run.resume()
whole = run._on_device
def on_device(images, labels):
    batch = whole(images, labels)
    if rank == 1 and run.state.step == 4:
        batch.images[0, 0, 0, 0] = float("nan")
    return batch
run._on_device = on_device
try:
    run.train(lambda entry, metrics: None)
except FloatingPointError as error:
    finite = all(bool(one.isfinite().all()) for one in run.state.net.parameters())
    print(json.dumps({"told": str(error), "finite": finite, "step": run.state.step}))
dist.destroy_process_group()
"""


def test_all_workers_stop_at_the_same_step(tiny: Any, tmp_path: Path, record_figure: Any) -> None:
    """One of two has the bad image; both have its gradient."""
    settings = settings_of(tiny, tmp_path / "store")
    (tmp_path / "rank.py").write_text(RANK)
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings)))
    arguments = [sys.executable, str(tmp_path / "rank.py"), str(tmp_path / "settings.json")]
    ranks = [
        subprocess.Popen([*arguments, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    told = [json.loads(rank.communicate(timeout=240)[0]) for rank in ranks]
    assert [one["finite"] for one in told] == [True, True]
    assert told[0]["step"] == told[1]["step"] == 6, "at the next look, where averages are kept or metrics logged"
    assert all("at step 5, with a gradient norm of nan" in one["told"] for one in told)
    assert kept_after(tiny, tmp_path / "store", 5) == (0, 0)
    record_figure(13, "nan in the slice of one of two workers", "2 of 2 stop at the same step, commits after it 0")
