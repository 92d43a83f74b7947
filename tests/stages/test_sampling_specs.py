"""Descriptions of sampling: what cannot go together is refused in one sentence, without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stages.sampling_specs import StageSamplingSpec


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sampler": "ancestral", "eta": 0.5}, "eta belongs to the sampler ddim, not to ancestral"),
        ({"sampler": "heun", "eta": 1.0}, "eta belongs to the sampler ddim, not to heun"),
        (
            {"sampler": "ddim", "variance": "learned"},
            "variance: learned belongs to the ancestral sampler, and ddim has",
        ),
        ({"sampler": "dpmpp_2m", "variance": "beta"}, "set sampler: ancestral"),
        ({"guidance_interval": [2.0, 2.0]}, r"guidance_interval \[2.0, 2.0\] must be given as \[low, high\]"),
        ({"guidance_interval": [2.0, -1.0]}, "must be given as"),
        ({"percentile": 0.9}, "percentile belongs to dynamic thresholding, not to static"),
        ({"schedule": {"kind": "linear_beta", "steps": 100, "beta_end": 0.2}, "steps": 101}, "lower it to 100"),
        ({"eta": 1.5}, "less than or equal to 1"),
        ({"thresholding": "dynamic", "percentile": 0.0}, "greater than 0"),
        ({"guidance": -1.0}, "greater than or equal to 0"),
        ({"steps": 0}, "greater than 0"),
        ({"samplr": "ddim"}, "did you mean 'sampler'"),
    ],
)
def test_what_cannot_go_together_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says) as refusal:
        StageSamplingSpec.model_validate(given)
    assert len(refusal.value.errors()) == 1


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sampler": "ddim", "eta": 0.5},
        {"sampler": "ancestral", "variance": "learned"},
        {"guidance": 3.0, "guidance_interval": [-3.0, 4.0], "thresholding": "dynamic", "percentile": 0.9},
        {"schedule": {"kind": "linear_beta", "steps": 100, "beta_end": 0.2}, "steps": 100},
        {"schedule": {"kind": "piecewise", "logsnr": [9.0, 0.0, -9.0]}, "steps": 7},
    ],
)
def test_a_description_survives_being_written_down(given: dict[str, Any]) -> None:
    spec = StageSamplingSpec.model_validate(given)
    assert StageSamplingSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_net_calls() -> None:
    assert StageSamplingSpec(steps=10).net_calls == 10
    assert StageSamplingSpec(steps=10, sampler="heun").net_calls == 19
    assert StageSamplingSpec(steps=10, sampler="heun", guidance=1.5).net_calls == 38


def test_reading_one_imports_no_torch() -> None:
    code = "import sys, stages.sampling_specs; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert found.stdout.strip() == "False"
