"""Row 14: a device without enough memory is said with the setting that helps, and not tried again for ever.

Simulated: the error is raised where the loss is computed, no device was filled.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

import pipeline.stage_run
from pipeline.errors import UserError
from pipeline.shortages import memory_of_stage
from pipeline.train_workers import while_it_advances
from stages.specs import TrainingSpec
from stages.stage import Stage

pytestmark = pytest.mark.faults

STEPS = 12


def fill_memory(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Every process has room for ``after`` steps, as where memory is in pieces."""

    def loss(self: Stage, *arguments: Any) -> Any:
        self.__dict__["seen"] = self.__dict__.get("seen", 0) + 1
        if self.__dict__["seen"] > after:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return whole(self, *arguments)

    whole = Stage.loss
    monkeypatch.setattr(Stage, "loss", loss)


def attempts(tiny: Any, store: Path, **training: Any) -> int:
    """Train as `pipeline.train_workers` does in place; the number of times it was begun."""
    count = 0

    def attempt() -> None:
        nonlocal count
        count += 1
        tiny.train(tiny.settings(store, steps=STEPS, training=training))

    def reached() -> int:
        return max((step for step, _ in tiny.commits(store)), default=0)

    with contextlib.suppress(UserError):
        while_it_advances(attempt, reached, Exception)
    return count


@pytest.mark.parametrize(
    ("training", "advice"),
    [
        ({}, r"cpu has too little memory for 8 examples at once; set stages\.sr\.training\.micro_batch to 4 or less"),
        ({"micro_batch": 4}, r"for 4 examples at once; set stages\.sr\.training\.micro_batch to 2 or less"),
        ({"micro_batch": 1}, r"for 1 examples at once; set stages\.sr\.training\.precision to bf16"),
        ({"micro_batch": 1, "precision": "bf16"}, r"for 1 examples at once; take a smaller net"),
    ],
)
def test_the_sentence_names_the_setting(
    tiny: Any, tmp_path: Path, training: Any, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_memory(monkeypatch, after=2)
    with pytest.raises(UserError, match=advice):
        tiny.train(tiny.settings(tmp_path, training=training))


def test_graphs_are_what_goes_first() -> None:
    training = TrainingSpec(steps=1, batch_size=8)
    told = memory_of_stage("sr", training, workers=1, device="cuda:0", graphs=True)
    assert told.endswith("beside CUDA graphs; set resources.compile to true instead of graphs, which holds none")


def test_it_is_tried_once(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_figure: Any) -> None:
    fill_memory(monkeypatch, after=2)
    found = attempts(tiny, tmp_path / "with")
    assert found == 1
    record_figure(
        14, "torch.OutOfMemoryError at the third step, simulated", f"attempts {found}, advice names the setting"
    )
    monkeypatch.setattr(pipeline.stage_run, "shortages_named", lambda *_, **__: contextlib.nullcontext())
    without = attempts(tiny, tmp_path / "without")
    assert without == STEPS // 2
    record_figure(14, "the same, as any failure", f"attempts {without}, no advice", protected=False)
