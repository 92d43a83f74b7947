"""Names of what a sample node keeps for the stage above."""

from __future__ import annotations

from pipeline.sampling import kept_name


def test_two_levels_never_share_a_name() -> None:
    assert kept_name(0.1) == "kept-0.1"
    assert kept_name(1) == kept_name(1.0)
    assert kept_name(0.1) != kept_name(0.1000001)
