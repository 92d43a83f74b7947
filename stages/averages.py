"""Power-function averages of the weights, and any of them rebuilt from a few stored ones (Karras et al. 2024, EDM2).

    average at step t = integral over [0, t] of p(tau) weights(tau),    p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1)

p is the *profile*: how much of the average comes from which moment of training. It grows with t, so an average that
stops at t looks back over a fixed share of the training so far; that share, the standard deviation of p over t, is its
*relative width* sigma_rel, which is what "EMA length" means here. An average is linear in the weights that it saw, so
one that was never kept is rebuilt, for the whole net at once, by the combination of stored ones whose profiles add up
to nearly the profile asked for. No torch here: all of it is about profiles, which are functions of one variable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Largest error of a rebuilt profile that still deserves the name of the one asked for; well-placed lengths have 1 %.
LARGEST_ERROR = 0.2

Doubles = npt.NDArray[np.float64]


class Profile(NamedTuple):
    """The profile of the average of relative ``width`` that stops at ``step`` (finished optimizer steps, from 1)."""

    width: float
    step: int


def width_of(gamma: float) -> float:
    """Relative width of the average with exponent ``gamma`` > -1: sqrt((gamma + 1) / ((gamma + 2)^2 (gamma + 3)))."""
    return float(np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))))


@cache
def gamma_of(width: float) -> float:
    """Exponent of the average of relative ``width``: inverse of ``width_of``, the largest root of

        gamma^3 + 7 gamma^2 + (16 - width^-2) gamma + 12 - width^-2 = 0.

    gamma = 0 is the plain mean over all of training, of width 1 / sqrt(12) = 0.2887. Raises ValueError outside
    (0, 0.3): no profile is wider.
    """
    if not 0.0 < width < 0.3:
        raise ValueError(f"a relative width lies between 0 and 0.3, not at {width:g}")
    roots = np.roots([1.0, 7.0, 16.0 - width**-2, 12.0 - width**-2])
    return float(roots.real.max())  # all three are real here


def average_decay(gamma: float, step: int) -> float:
    """Decay beta = (1 - 1/step)^(gamma + 1) of ``average <- beta average + (1 - beta) weights`` after step 1, 2, ....

    The first is 0: initial weights never enter. Step s of T so gets the weight (s^(gamma + 1) - (s - 1)^(gamma + 1)) /
    T^(gamma + 1), which is the profile's integral from s - 1 to s: nothing is lost by counting in whole steps.
    """
    return float((1.0 - 1.0 / step) ** (gamma + 1.0))


def inner_products(first: Iterable[Profile], second: Iterable[Profile]) -> Doubles:
    """Matrix of the integrals of p_a p_b, a in ``first`` (rows), b in ``second`` (columns), in closed form:

        (gamma_a + 1) (gamma_b + 1) / (gamma_a + gamma_b + 1) (m / t_a)^gamma_a (m / t_b)^gamma_b / max(t_a, t_b)

    with m = min(t_a, t_b), beyond which one of the two is zero.
    """
    gamma_a, a = _columns(first)
    gamma_b, b = (row[None, :] for row in _columns(second))
    gamma_a, a = gamma_a[:, None], a[:, None]
    both, shorter = (gamma_a + 1) * (gamma_b + 1) / (gamma_a + gamma_b + 1), np.minimum(a, b)
    products: Doubles = both * (shorter / a) ** gamma_a * (shorter / b) ** gamma_b / np.maximum(a, b)
    return products


def _columns(profiles: Iterable[Profile]) -> tuple[Doubles, Doubles]:
    """Exponents and steps of ``profiles``."""
    profiles = list(profiles)
    return (
        np.array([gamma_of(profile.width) for profile in profiles]),
        np.array([profile.step for profile in profiles], dtype=np.float64),
    )


def rebuilding_weights(stored: Sequence[Profile], wanted: Profile) -> Doubles:
    """Weights w (N,) with which the ``stored`` averages add up to the ``wanted`` one, by least squares:

        minimise the integral of (sum_i w_i p_i - p)^2    subject to    sum_i w_i = 1.

    The constraint keeps what does not change in training as it is; EDM2 solves without it. w has both signs and may
    be large (sum |w_i| reaches hundreds for widths far below the stored ones), so averages are stored in float32.
    """
    if wanted in stored:
        return np.array([float(profile == wanted) for profile in stored]) / stored.count(wanted)
    products, target = inner_products(stored, stored), inner_products(stored, [wanted])[:, 0]
    scale = 1.0 / np.sqrt(np.diag(products))  # unknowns in units in which every profile has norm 1
    border = scale / scale.max()
    system = np.block([[products * np.outer(scale, scale), border[:, None]], [border[None, :], np.zeros((1, 1))]])
    right = np.append(target * scale, 1.0 / scale.max())
    # lstsq and not solve: pairs stored at many neighbouring steps are nearly dependent.
    solution: Doubles = np.linalg.lstsq(system, right, rcond=1e-13)[0]
    return solution[:-1] * scale


def rebuilding_error(stored: Sequence[Profile], wanted: Profile) -> float:
    """Distance of the rebuilt profile from the ``wanted`` one, relative to the norm of the latter; 0 is perfect."""
    weights = rebuilding_weights(stored, wanted)
    profiles = [*stored, wanted]
    difference = np.append(weights, -1.0)
    squared = difference @ inner_products(profiles, profiles) @ difference
    return float(np.sqrt(max(0.0, squared) / inner_products([wanted], [wanted])[0, 0]))


def check_rebuilding(stored: Sequence[Profile], wanted: Profile) -> None:
    """Raise ValueError when the ``stored`` averages cannot come near the ``wanted`` one."""
    if (error := rebuilding_error(stored, wanted)) > LARGEST_ERROR:
        raise ValueError(
            f"ema_length {wanted.width:g} cannot be rebuilt from averages of widths "
            f"{' and '.join(f'{width:g}' for width in sorted({profile.width for profile in stored}))} stored at "
            f"{len({profile.step for profile in stored})} steps, whose best profile is {error:.0%} off; lower "
            "training.averages.every or ask for a length nearer to those widths"
        )


def stored_steps(every: int, last: int) -> list[int]:
    """Steps whose averages a run of ``last`` steps leaves behind: the multiples of ``every``, and the last."""
    return [*range(every, last, every), last]
