"""What is told of a job that ended at once."""

from __future__ import annotations

import pytest

from jobs.submitting import last_words

RAYS = "Running entrypoint for job tiny-train-1: exec python -m jobs.on_cluster"
SENTENCE = "the cluster has torch 2.15.0 and the machine that submitted has 2.0.0"


@pytest.mark.parametrize("lines", [[RAYS, SENTENCE], [SENTENCE, RAYS], [RAYS, "a warning", f"  {SENTENCE}", "", " "]])
def test_the_last_words_of_a_job_are_its_own_wherever_ray_put_its_line(lines: list[str]) -> None:
    assert last_words("\n".join([*lines, ""])) == SENTENCE


def test_a_job_that_said_nothing_has_no_last_words() -> None:
    assert last_words("") == last_words(f"{RAYS}\n") == ""
