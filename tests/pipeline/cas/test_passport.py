"""The passport of a classification accuracy score: what it may say, its digest, and how a report tells it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.cas.passport import CasPassport
from pipeline.cas.passport_words import cas_told
from pipeline.scoring.passport import StageMark

STAGE = StageMark(
    name="base",
    size=16,
    weights="ab" * 32,
    sampler="ddpm",
    steps=8,
    guidance=1.5,
    guidance_interval=None,
    augmentation=None,
    level=None,
    ema_length=0.1,
)


def passport(**changes: Any) -> CasPassport:
    fields: dict[str, Any] = {"source": "chained", "stages": (STAGE,), "data": "cd" * 32, "train_digest": "ef" * 32}
    fields |= {"net": "ResNet-50", "protocol": "12" * 32, "images": 1_281_167, "size": 64, "seed": 0, "workers": 8}
    return CasPassport(**{**fields, "precision": "bf16", "device": "cuda", "revision": "unknown", **changes})


@pytest.mark.parametrize(
    "changes",
    [{"workers": 4}, {"seed": 1}, {"train_digest": "00" * 32}, {"protocol": ""}, {"stages": (STAGE,) * 2}],
)
def test_every_field_is_digested(changes: dict[str, Any]) -> None:
    assert passport(**changes).digest != passport().digest


def test_it_survives_json_and_keeps_its_digest() -> None:
    assert CasPassport.model_validate_json(passport().model_dump_json()).digest == passport().digest


@pytest.mark.parametrize("changes", [{"source": "real"}, {"stages": ()}, {"steps": 4}, {"source": "oracle"}])
def test_what_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        passport(**changes)


def test_it_is_told_in_words() -> None:
    told = dict(cas_told(passport()))
    assert told["trained on"] == "1,281,167 chained images, digest efefefefefef"
    assert told["computed in"] == "bf16 by 8 workers on cuda"
    assert told["stage base"] == "16 px, ddpm 8 steps, guidance 1.5, EMA 0.1, weights abababababab"
    assert dict(cas_told(passport(workers=1)))["computed in"] == "bf16 by 1 worker on cuda"


def test_no_torch_is_needed() -> None:
    code = "import sys, pipeline.cas.passport_words; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
