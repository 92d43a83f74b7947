"""Fanning out: the results in the order of the jobs wherever they ran, errors as they were, nothing left running."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.fan_out import FanOut, in_threads, in_turn, on_ray

# Functions are made inside of others here: a worker of Ray gets those by value, and cannot import this file.


@pytest.fixture(params=["in_turn", "in_threads", pytest.param("on_ray", marks=pytest.mark.ray)])
def fan_out(request: pytest.FixtureRequest) -> FanOut:
    if request.param == "on_ray":
        request.getfixturevalue("ray_cluster")
    return {"in_turn": in_turn, "in_threads": in_threads(3), "on_ray": on_ray()}[request.param]


def test_results_come_in_the_order_of_the_jobs(fan_out: FanOut) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.2 if number == 0 else 0.0)
        return number * number

    assert list(fan_out(slow_first, range(20))) == [number * number for number in range(20)]
    assert list(fan_out(slow_first, [])) == []


def _refusing() -> Callable[[int], int]:
    def refuse(number: int) -> int:
        if number == 2:
            raise UserError("two is too much")
        if number == 5:
            raise ZeroDivisionError("five")
        return number

    return refuse


def test_what_a_job_raises_is_raised_here_as_it_was_after_the_results_before_it(fan_out: FanOut) -> None:
    with closing(fan_out(_refusing(), range(8))) as results:
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(UserError, match=r"^two is too much$"):
            next(results)
    with pytest.raises(ZeroDivisionError, match="five"):
        list(fan_out(_refusing(), range(5, 8)))


def test_jobs_are_taken_as_results_are_and_not_all_at_once(fan_out: FanOut) -> None:
    taken = 0

    def jobs() -> Iterator[int]:
        nonlocal taken
        for number in range(6, 1000):
            taken += 1
            yield number

    with closing(fan_out(_refusing(), jobs())) as results:
        next(results)
        assert taken <= 8


def test_closing_calls_off_what_has_not_begun() -> None:
    begun, go = list[int](), threading.Event()

    def wait(number: int) -> None:
        begun.append(number)
        assert number == 0 or go.wait(10)

    results = in_threads(2)(wait, range(100))
    next(results)
    threading.Timer(0.1, go.set).start()
    results.close()
    assert len(begun) <= 3


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_closing_ends_what_runs_on_ray(tmp_path: Path) -> None:
    def touch_and_sleep(path: Path) -> None:
        path.with_suffix(".begun").touch()
        time.sleep(1.0)
        path.with_suffix(".done").touch()

    with closing(on_ray()(touch_and_sleep, [tmp_path / str(number) for number in range(8)])) as results:
        next(results)
    done = {path.name for path in tmp_path.glob("*.done")}
    time.sleep(1.5)
    assert {path.name for path in tmp_path.glob("*.done")} == done
    assert "0.done" in done
    assert len(done) < 4
