"""The seed of anything random, as the YAML says it. No torch here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

# numpy takes no negative seed, and torch none that does not fit into 64 bits.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
