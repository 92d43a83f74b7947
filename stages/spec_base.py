"""The base of all descriptions, and the number types that they share. No torch here: reading one is instant."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Field, model_validator

PositiveInt = Annotated[int, Field(gt=0)]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]


class Spec(BaseModel):
    """Base of all descriptions: immutable, and a key that does not exist is an error, not a remark."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, data: Any) -> Any:
        """Name the nearest known key; pydantic alone would only say that the key is extra."""
        for key in data if isinstance(data, dict) else ():
            if key not in cls.model_fields:
                nearest = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                known = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {str(key)!r}; {known}")
        return data


def by_kind(default: str) -> Discriminator:
    """Tell the variants of a union apart by their ``kind``; a description that names none is of the ``default`` one."""

    def kind_of(value: Any) -> str:
        return str(value.get("kind", default) if isinstance(value, dict) else getattr(value, "kind", default))

    return Discriminator(kind_of)
