"""Factors of a grid are parameters of runs in MLflow, so they have names that it takes and that nothing else has."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.ablation.spec import AblationSpec

OPTIONS = {"weak": {"stages.sr.label_drop": 0.1}, "strong": {"stages.sr.label_drop": 0.2}}


def spec_of(factor: str) -> AblationSpec:
    fields: dict[str, Any] = {"baseline": "weak", "grid": {factor: OPTIONS}}
    return AblationSpec.model_validate(fields)


@pytest.mark.parametrize("factor", ["strength", "label_drop", "s0.1-kind"])
def test_a_factor_with_a_name_that_mlflow_takes_is_an_option_of_every_cell(factor: str) -> None:
    assert spec_of(factor).options_of("strong") == {factor: "strong"}


@pytest.mark.parametrize("factor", ["strength (s)", "", "-s", "s=1"])
def test_a_factor_with_another_name_is_refused(factor: str) -> None:
    with pytest.raises(ValidationError, match=r"grid\.") as caught:
        spec_of(factor)
    assert caught.value.errors()[0]["type"] == "string_pattern_mismatch"


@pytest.mark.parametrize("factor", ["cell", "seed"])
def test_a_factor_cannot_take_the_place_of_what_every_replicate_has(factor: str) -> None:
    with pytest.raises(ValidationError, match=f"no factor can be called {factor}, as every replicate has one"):
        spec_of(factor)
