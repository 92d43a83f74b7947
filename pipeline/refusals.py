"""What a worker meets again however often it is tried ends a Ray Train run at once; all else is Ray's to retry.

That is a UserError, and a loss that is not finite: every draw of a step follows from its number. The only user of the
hook.

Ray retries whatever a worker raises, and starts a group of workers for each try only to hear the same sentence again.
It has no setting for that, but it calls its callbacks with what the workers raised before it decides, and what a
callback raises there it does not retry: it ends all workers, also those that wait for the gradients of the one that
refused, and hands the exception to the driver. So the sentence travels as the exception that it is, and nothing of an
earlier attempt is left behind that could be taken for it.
"""

from __future__ import annotations

from typing import Any

from ray.train import ControllerError, TrainingFailedError, UserCallback

from pipeline.errors import REFUSALS, Refusal


class EndOnRefusal(UserCallback):
    """Among the callbacks of a run's ``RunConfig``: no retries where a worker raised one of ``REFUSALS``."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise the refusal of the lowest rank that has one, if any; called in Ray's controller."""
        for _, error in sorted(worker_exceptions.items()):
            if isinstance(error, REFUSALS):
                raise error


def refusal_behind(failure: TrainingFailedError) -> Refusal | None:
    """The refusal that a run with ``EndOnRefusal`` ended with, None where it failed otherwise."""
    cause = failure.controller_failure if isinstance(failure, ControllerError) else None
    return cause if isinstance(cause, REFUSALS) else None
