"""The front holds exactly the points that no other beats in every goal at once."""

from __future__ import annotations

import math
import random

import pytest

from pipeline.search.pareto import front


def test_of_fid_and_accuracy_the_lower_and_the_higher_win() -> None:
    points = [(10.0, 0.5), (12.0, 0.7), (11.0, 0.4), (9.0, 0.3), (12.0, 0.6)]
    assert front(points) == [3, 0, 1]  # by ascending FID; (11, 0.4) loses to (10, 0.5), (12, 0.6) to (12, 0.7)


def test_each_goal_may_point_either_way() -> None:
    points = [(1.0, 1.0), (2.0, 2.0)]
    assert front(points, minimise=(True, True)) == [0]
    assert front(points, minimise=(False, False)) == [1]
    assert front(points, minimise=(True, False)) == front(points, minimise=(False, True)) == [0, 1]


def test_equal_points_stand_or_fall_together() -> None:
    assert front([(1.0, 0.5), (1.0, 0.5), (2.0, 0.4), (2.0, 0.4)]) == [0, 1]
    assert front([(1.0, 0.5)] * 3) == [0, 1, 2]


def test_a_tie_in_one_goal_is_settled_by_the_other() -> None:
    assert front([(1.0, 0.5), (1.0, 0.6)]) == [1]
    assert front([(2.0, 0.6), (1.0, 0.6)]) == [1]


def test_of_one_goal_only_the_best_and_its_equals_are_left() -> None:
    assert front([(3.0,), (1.0,), (2.0,), (1.0,)], minimise=(True,)) == [1, 3]


def test_no_points_have_no_front() -> None:
    assert front([]) == []


def test_an_infinite_point_is_beaten_by_any_finite_one_that_is_as_good_otherwise() -> None:
    assert front([(math.inf, 0.5), (3.0, 0.5)]) == [1]
    assert front([(math.inf, 0.9), (3.0, 0.5)]) == [1, 0]


@pytest.mark.parametrize(
    ("point", "says"),
    [
        ((1.0, math.nan), "has a coordinate that is no number"),
        ((1.0,), "has 1 coordinates where there are 2 goals"),
        ((1.0, 2.0, 3.0), "has 3 coordinates where there are 2 goals"),
    ],
)
def test_a_point_that_cannot_be_compared_is_refused(point: tuple[float, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        front([(1.0, 0.5), point])


def test_of_many_points_all_off_the_front_lose_to_one_on_it_and_none_on_it_to_any() -> None:
    draw = random.Random(0)
    points = [(float(draw.randint(0, 9)), float(draw.randint(0, 9)), float(draw.randint(0, 9))) for _ in range(200)]
    signs = (1, -1, 1)  # the middle goal is the higher the better
    costs = [tuple(sign * x for sign, x in zip(signs, point, strict=True)) for point in points]
    kept = front(points, minimise=(True, False, True))

    def beats(a: int, b: int) -> bool:
        pairs = list(zip(costs[a], costs[b], strict=True))
        return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)

    assert [points[index][0] for index in kept] == sorted(points[index][0] for index in kept)
    assert not any(beats(other, index) for index in kept for other in range(len(points)))
    assert all(any(beats(index, other) for index in kept) for other in set(range(len(points))) - set(kept))


def test_the_order_of_the_points_does_not_matter() -> None:
    draw = random.Random(1)
    points = [(draw.random(), draw.random()) for _ in range(50)]
    shuffled = points.copy()
    draw.shuffle(shuffled)
    assert [points[i] for i in front(points)] == [shuffled[i] for i in front(shuffled)]
