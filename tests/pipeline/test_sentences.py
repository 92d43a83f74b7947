"""Every check that pydantic makes by itself is told in our words: what is wrong, where, what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from pipeline.sentences import first_message, located


class Inner(BaseModel):
    kind: Literal["inner"] = "inner"


class Other(BaseModel):
    kind: Literal["other"]


class Outer(BaseModel):
    pair: tuple[float, float] = (0.0, 1.0)
    many: tuple[int, ...] = Field((1,), min_length=1)
    few: Annotated[list[int], Field(max_length=2)] = []
    inner: Inner = Inner()
    either: Annotated[Inner | Other, Field(discriminator="kind")] = Inner()
    names: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], int] = {}
    mode: Literal["one", "two"] = "one"
    count: Annotated[int, Field(gt=0, le=9)] = 1
    share: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.5
    flag: bool = False
    text: str = ""
    path: Path = Path()
    several: tuple[int | bool | None, ...] = ()


def refused(data: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(data)
    return caught.value


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"pair": [1]}, "has 1 value and needs 2"),
        ({"pair": []}, "has no values and needs 2"),
        ({"pair": [1, 2, 3]}, "has 3 values, of which there may be at most 2"),
        ({"many": []}, "has no values and needs 1 or more"),
        ({"few": [1, 2, 3]}, "has 3 values, of which there may be at most 2"),
        ({"pair": 3}, "must be a list, such as [1, 2]"),
        ({"few": 3}, "must be a list, such as [1, 2]"),
        ({"inner": 3}, "must be a mapping, such as {kind: ...}"),
        ({"either": 3}, "must be a mapping, such as {kind: ...}"),
        ({"either": {}}, "there are several kinds of this; say which, as in `kind: ...`"),
        ({"either": {"kind": "othr"}}, "there is no kind 'othr'; did you mean 'other'?"),
        ({"names": 3}, "must be a mapping, such as {name: ...}"),
        ({"names": {"A": 1}}, "must be a name of lower-case letters, digits and _ that begins with a letter"),
        ({"mode": "three"}, "must be one of 'one' or 'two'"),
        ({"count": 0}, "must be above 0"),
        ({"count": 10}, "must be at most 9"),
        ({"share": -1}, "must be at least 0.0"),
        ({"share": 1}, "must be below 1.0"),
        ({"share": float("inf")}, "must be a finite number"),
        ({"share": "x"}, "must be a number"),
        ({"share": None}, "must be a number"),
        ({"count": "x"}, "must be a whole number"),
        ({"count": 1.5}, "must be a whole number"),
        ({"count": None}, "must be a whole number"),
        ({"flag": "maybe"}, "must be true or false"),
        ({"text": 3}, "must be text; put a number in quotes"),
        ({"path": 3}, "must be a path, such as data/photos"),
    ],
)
def test_a_check_of_pydantic_is_told_in_our_words(data: Any, says: str) -> None:
    assert first_message(refused(data)) == says


def told(data: Any) -> str:
    return located(Path("x.yaml"), None, data, refused(data))


def test_the_place_is_in_the_data_and_every_place_counts_once() -> None:
    assert told({"pair": [], "mode": "one"}) == "x.yaml: pair: has no values and needs 2"
    assert told({"several": ["x"]}).startswith("x.yaml: several.0: must be")
    assert "more" not in told({"several": ["x"]})  # of three types in turn
    assert told({"many": ["x"], "few": [1, "y"], "count": 0}).endswith("(and 2 more)")
