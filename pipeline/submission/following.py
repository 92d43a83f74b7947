"""The log of a job as it grows, each line once, through connections that break.

Ray streams a log from its beginning through a websocket. What was shown already is counted, and skipped when the
stream begins again; where there is no websocket (a proxy that knows none), the log is asked for again and again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing

from pipeline.submission.client import Client, Job

SILENCE = 60.0  # seconds without a word after which a stream may be dead, and is begun again
PATIENCE = 60.0  # seconds for which a head may not answer before it is given up
PAUSE = 1.0


class Gone(RuntimeError):  # noqa: N818 - it states what happened
    """The cluster stopped answering while a job was followed."""


class Follower:
    """Shows the log of one job."""

    def __init__(self, client: Client, name: str, show: Callable[[str], None]) -> None:
        self.client, self.name, self.show = client, name, show
        self.shown = 0  # characters of the log

    def to_the_end(self) -> Job:
        """Show the log until the job is over; returns how it ended. Raises Gone when the cluster is."""
        silent: float | None = None  # since when nothing answers
        while True:
            try:
                job = self.client.job(self.name)
                if job.over:
                    self.catch_up()
                    return job
                silent = None
                asyncio.run(self._stream())
                self.catch_up()
            except Exception as error:  # whatever a broken connection raises, here or in three libraries
                silent = silent or time.monotonic()
                if time.monotonic() - silent > PATIENCE:
                    raise Gone(
                        f"{self.client.head.told} has not answered for {PATIENCE:.0f} s: if its head is lost the job "
                        "is, too; what is stored stays, and the same `rayfall submit` goes on from there"
                    ) from error
            time.sleep(PAUSE)

    def catch_up(self) -> None:
        """Show what the log has now beyond what was shown."""
        self._see(self.client.get_job_logs(self.name), 0)

    async def _stream(self) -> None:
        """Show what comes until the stream ends or falls silent."""
        seen = 0
        async with aclosing(self.client.tail_job_logs(self.name)) as stream:  # type: ignore[type-var]
            while True:
                try:
                    text = await asyncio.wait_for(anext(stream), SILENCE)
                except (StopAsyncIteration, TimeoutError):
                    return
                self._see(text, seen)
                seen += len(text)

    def _see(self, text: str, start: int) -> None:
        """``text`` stands at ``start`` in the log; show the part of it that is new."""
        new = text[max(0, self.shown - start) :]
        if new:
            self.shown = start + len(text)
            self.show(new)
