"""Amounts of a metric are written in its units, with digits that mean something."""

from __future__ import annotations

import pytest

from pipeline.ablation import words


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_a_share_is_per_cent_and_a_difference_of_shares_is_in_points() -> None:
    assert plain(words.value("accuracy", 0.873)) == "87.3 %"
    assert words.difference("accuracy", 0.0213) == "2.13 points"
    assert words.interval("accuracy", -0.012, 0.055) == "[-1.2, 5.5] points"
    assert (words.value("chained_fid", 12.34), words.difference("gap", 1.2)) == ("12.3", "1.2")
    assert words.difference("chained_fid", 12345.6) == "12,346"


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (-0.05, 0.08, "[-0.05, 0.08]"),
        (-0.0004, 0.5, "[0.00, 0.50]"),  # no -0.00
        (1.25, 1.375, "[1.25, 1.38]"),
        (-1234.5, 2345.6, "[-1,234, 2,346]"),
        (2.0, 2.0, "[2.00, 2.00]"),
        (0.0, 1e-12, "[0.00000000, 0.00000000]"),
    ],
)
def test_an_interval_is_written_to_the_second_digit_of_its_width(low: float, high: float, told: str) -> None:
    assert words.interval("chained_fid", low, high) == told


def test_levels_counts_names_and_probabilities() -> None:
    assert plain(words.per_cent(2 * 0.95 - 1)) == "90 %"
    assert plain(words.per_cent(1 - 0.05 / 2)) == "97.5 %"
    assert [words.seeds(count) for count in (0, 1, 3)] == ["no seeds", "1 seed", "3 seeds"]
    assert [words.listed(list(names)) for names in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]
    assert [words.probability(p) for p in (0.0, 0.0123, 1.0)] == ["p < 0.001", "p = 0.012", "p = 1"]
