"""Ray's client of its Jobs interface, with time limits, and our jobs among those of a cluster."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.job_submission import JobDetails, JobSubmissionClient

from pipeline.errors import UserError
from pipeline.submission.reaching import Head

MARK = "rayfall."  # how the names in the metadata of our jobs begin
DONE, FAILED, STOPPED = "SUCCEEDED", "FAILED", "STOPPED"
ENDED = (DONE, FAILED, STOPPED)
_STARTING = 60.0  # seconds after which a head should be able to take jobs
_LIMITS = (5.0, 60.0)  # seconds to connect and for an answer; Ray's client has none


@dataclass(frozen=True)
class Job:
    """One submission of ours, as the cluster knows it."""

    id: str
    state: str  # PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED
    began: float  # seconds since 1970
    ended: float | None
    exit_code: int | None
    message: str
    metadata: Mapping[str, str]

    @property
    def over(self) -> bool:
        return self.state in ENDED

    @property
    def experiment(self) -> str:
        return self.metadata.get(f"{MARK}experiment", "")

    @property
    def command(self) -> str:
        return self.metadata.get(f"{MARK}command", "")

    @property
    def digest(self) -> str:
        return self.metadata.get(f"{MARK}digest", "")

    @property
    def attempt(self) -> int:
        return int(self.metadata.get(f"{MARK}attempt", "0"))

    def figures(self) -> dict[str, Any]:
        """What a person or a program is told of it."""
        told = {key.removeprefix(MARK): value for key, value in self.metadata.items() if key.startswith(MARK)}
        return {**told, "attempt": self.attempt, "id": self.id, "state": self.state, "began": self.began,
                "ended": self.ended, "exit_code": self.exit_code}  # fmt: skip


class Client(JobSubmissionClient):
    """The jobs of one cluster. Requests end in time; a cluster that went away is a ConnectionError."""

    def __init__(self, head: Head) -> None:
        for module in ("dashboard_sdk", "job.sdk"):  # they tell of every upload and every connection
            logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)
        with _address_alone():
            super().__init__(head.address, headers=dict(head.headers))
        self.head = head

    def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
        import requests

        try:
            return super()._do_request(method, endpoint, **{"timeout": _LIMITS, **options})
        except requests.RequestException as error:
            raise ConnectionError(f"{self.head.told} does not answer ({type(error).__name__})") from None

    def submit_job(self, **options: Any) -> str:
        """As Ray's, but a head that has just started is waited for."""
        deadline = time.monotonic() + _STARTING
        while True:
            try:
                return super().submit_job(**options)
            except RuntimeError as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def jobs(self) -> list[Job]:
        """Our jobs, oldest first."""
        found = [_job(details) for details in self.list_jobs() if details.submission_id]
        return sorted((job for job in found if job.digest), key=lambda job: job.began)

    def job(self, name: str) -> Job:
        """The job ``name``, in full."""
        return _job(self.get_job_info(name))

    def find(self, prefix: str) -> Job:
        """The one job of ours whose id begins with ``prefix``. UserError where there is none, or are several."""
        jobs = self.jobs()
        found = [job for job in jobs if job.id == prefix] or [job for job in jobs if job.id.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if not found:
            known = f"; there are {_listed(jobs)}" if jobs else ", nor any other of Rayfall"
            raise UserError(f"there is no job {prefix} on {self.head.told}{known}")
        raise UserError(f"{prefix} could be {_listed(found)}; give more of it")


def attempts(jobs: Sequence[Job], digest: str) -> list[Job]:
    """The attempts at one experiment and command, first to last."""
    return sorted((job for job in jobs if job.digest == digest), key=lambda job: job.attempt)


def _listed(jobs: Sequence[Job]) -> str:
    names = [job.id for job in jobs][-4:]
    return f"{'..., ' if len(jobs) > len(names) else ''}{', '.join(names)}"


def _job(details: JobDetails) -> Job:
    return Job(
        id=details.submission_id or "",
        state=str(getattr(details.status, "value", details.status)),
        began=(details.start_time or 0) / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        exit_code=details.driver_exit_code,
        message=details.message or "",
        metadata=details.metadata or {},
    )


@contextmanager
def _address_alone() -> Iterator[None]:
    """Without the variables that Ray's client would prefer to the address it is given."""
    kept = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)
