"""Descriptions of schedules: their ends are those of the schedule itself, and what cannot work is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from stages.schedule_specs import LARGEST, NOISY_ENOUGH, ScheduleSpec
from stages.schedules import build_schedule
from stages.specs import StageSamplingSpec, StageSpec

ADAPTER: TypeAdapter[Any] = TypeAdapter(ScheduleSpec)
NET = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
GOOD: list[dict[str, Any]] = [
    {},
    {"kind": "shifted_cosine", "reference": 64},
    {"kind": "interpolated_cosine", "references": [32, 256]},
    {"kind": "linear_beta"},
    {"kind": "linear_beta", "steps": 2000, "beta_start": 1e-6, "beta_end": 0.01},
    {"kind": "cosine_beta", "steps": 4000},
    {"kind": "piecewise", "logsnr": [9.0, 1.0, -9.0]},
]


@pytest.mark.parametrize("given", GOOD, ids=lambda given: str(given.get("kind", "cosine")))
def test_ends_are_those_of_the_schedule(given: dict[str, Any]) -> None:
    spec = ADAPTER.validate_python(given)
    clean, noisy = build_schedule(spec, 128)(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    assert spec.ends == pytest.approx((noisy, clean), abs=1e-6)
    assert noisy <= NOISY_ENOUGH
    assert max(abs(noisy), abs(clean)) <= LARGEST


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "linear_beta", "steps": 100}, "raise beta_end"),
        ({"kind": "linear_beta", "beta_end": 0.5}, "float32 ends.*lower beta_end"),
        ({"kind": "linear_beta", "steps": 20000}, "lower beta_end"),
        ({"kind": "cosine_beta", "beta_max": 1e-3}, "leave beta_max at 0.999"),
        ({"logsnr_min": 5.0}, "sampling begins with noise alone; lower logsnr_min"),
        ({"logsnr_max": 2000.0}, "float32 ends"),
        ({"shift": 100.0}, "less than or equal to 15"),
        ({"kind": "piecewise", "logsnr": [15.0, 5.0]}, "let the last value be lower"),
        ({"kind": "piecewise", "logsnr": [60.0, -60.0]}, "float32 ends"),
    ],
)
def test_what_does_not_reach_noise_or_leaves_float32_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ADAPTER.validate_python(given)


def test_an_inference_schedule_stays_near_that_of_training() -> None:
    spec = StageSpec.model_validate(
        {"name": "base", "size": 8, "classes": 3, "net": NET, "schedule": {"kind": "linear_beta"}}
    )
    spec.check_sampling(StageSamplingSpec.model_validate({"schedule": {"kind": "cosine"}}))
    far = StageSamplingSpec.model_validate({"schedule": {"kind": "piecewise", "logsnr": [30.0, -30.0]}})
    with pytest.raises(ValueError, match="far beyond"):
        spec.check_sampling(far)
