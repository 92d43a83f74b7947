"""MLflow that does not answer: told from other errors, asked in seconds, and put up with where results do not need it.

A command that starts needs it, to have runs. From then on training journals its metrics in the store, scores and
reports stand there anyway, and repeating the command gives MLflow all that it lacks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.addresses import without_secret
from pipeline.errors import first_line
from pipeline.tracking.addresses import absolute_uri
from pipeline.tracking.opening import opening
from pipeline.tracking.runs import Tracker

LONGEST_TOLD = 160  # characters
# For the one question whether anybody is there. SQLite waits for its lock as long as MLflow says, 20 seconds.
HURRY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def unavailable(error: BaseException) -> bool:
    """Whether ``error`` says that MLflow cannot be reached, not that something is wrong with what it was asked."""
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    if not isinstance(error, MlflowException):
        return isinstance(error, RequestException | TimeoutError)  # of artifacts, whose requests MLflow leaves as is
    # A request that was given up, or answered 5xx to the last, is told as one of MLflow's own faults.
    given_up = error.error_code == "INTERNAL_ERROR" and str(error).startswith("API request to ")
    return given_up or error.error_code == "TEMPORARILY_UNAVAILABLE"


def in_brief(error: BaseException) -> str:
    """What a log needs of an error; MLflow tells of a connection in five hundred characters."""
    told = without_secret(first_line(error))
    return told if len(told) <= LONGEST_TOLD else f"{told[:LONGEST_TOLD]}..."


@contextmanager
def hurried() -> Iterator[None]:
    """Requests of the block end within seconds, whatever the environment says of others."""
    before = {name: os.environ.get(name) for name in HURRY}
    os.environ.update(HURRY)  # MLflow reads them anew for each request, and takes them from nowhere else
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def ask_for(uri: str) -> Tracker:
    """The store at ``uri``, which answers. Raises within seconds what MLflow raises when it does not."""
    tracker = Tracker(uri)
    with hurried():
        tracker.client.search_experiments(max_results=1)
    return tracker


def connect(uri: str) -> Tracker:
    """The store at ``uri``, which answers. Raises UserError within seconds when it does not."""
    with opening(absolute_uri(uri)):
        return ask_for(uri)


class Outage:
    """What a command tells MLflow, as far as it answers; ``reason`` says why not, once it did not."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.reason: str | None = None

    @contextmanager
    def tolerated(self) -> Iterator[None]:
        """Leave the block where MLflow does not answer, and remember it. All else goes on to the caller."""
        try:
            yield
        except Exception as error:
            if not unavailable(error):
                raise
            self.reason = in_brief(error)

    def sentence(self, kept: int, store: str) -> str:
        """What a person is told at the end; ``kept`` points are in the journal of ``store``."""
        return (
            f"MLflow at {without_secret(self.uri)} does not answer; {kept} metrics are kept in {store}, with all "
            "results: repeat the command when it does, which computes nothing again and sends what is missing"
        )
