"""An augmentation level s as a person reads it: a time, a log-SNR of the stage below, a step of the paper."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipeline.experiment_spec import Experiment

DDPM_STEPS = 1000


class LevelFacts(NamedTuple):
    """The log-SNR of a level, and the step ``of_steps`` that has it: 0 is the clean image."""

    logsnr: float
    step: float
    of_steps: int


def facts_of_level(experiment: Experiment, stage: str, level: float) -> LevelFacts:
    """Level s of ``stage``, in terms of the schedule of the stage below.

    The step is that schedule's own where it has T of them (counted from 1, as the papers do); else the one that the
    cosine schedule of 1,000 steps has at this log-SNR.
    """
    from stages.schedules import Knots, build_schedule, logsnr_of_level

    below = experiment.below(stage)
    assert below is not None, "only a super-resolution stage has an augmentation level"
    spec = experiment.stages[below]
    schedule = build_schedule(spec.schedule, spec.size)
    logsnr = logsnr_of_level(schedule, level)
    if isinstance(schedule, Knots):
        return LevelFacts(logsnr, 1.0 + level * (schedule.steps - 1) if level else 0.0, schedule.steps)
    return LevelFacts(logsnr, ddpm_step(logsnr), DDPM_STEPS)


def ddpm_step(logsnr: float) -> float:
    """The step, out of 1000, at which the cosine schedule of Improved DDPM (offset 0.008) has this log-SNR."""
    angle = math.atan(math.exp(-0.5 * logsnr))  # tan(angle) = sigma / alpha
    start = 0.008 / 1.008 * math.pi / 2
    # alpha-bar = cos^2(angle_t) / cos^2(start): solve for angle_t.
    cosine = min(1.0, math.cos(angle) * math.cos(start))
    return max(0.0, DDPM_STEPS * (1.008 * math.acos(cosine) / (math.pi / 2) - 0.008))
