"""A pool of reused Ray actors that call plain functions: the hands of a search, which knows nothing of trials.

An actor keeps what a process keeps, so libraries, weights and judges load once in it. One that dies is replaced, and
the call that it had is made again. What a call computes it stores; only small values come back.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from stages.processor import prepare_processor

TRIES = 4  # of a call whose actor dies: it may be lost with its node as often as a trial that trains
STILLBORN = 3  # actors that may die before they are ready, after one another


class Worker:
    """What each actor is. One thread of torch each unless told otherwise: actors share the cores."""

    def __init__(self, threads: int) -> None:

        prepare_processor(threads)

    def ready(self) -> None:
        """Returns when the actor lives."""

    def call(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float, float]:
        """What ``function`` returns, and the seconds it took by the clock and of CPU. Raises what it raises."""
        clock, cpu = time.perf_counter(), time.process_time()
        value = function(*arguments)
        return value, time.perf_counter() - clock, time.process_time() - cpu


class Call(NamedTuple):
    """One thing to do; ``tag`` is the caller's own."""

    tag: Any
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    tries: int = 0


class Finished(NamedTuple):
    """A call that is done: its value, or the exception that it ended with."""

    call: Call
    value: Any
    error: Exception | None


@dataclass
class ActorPool:
    """Up to ``size`` actors, each with ``resources`` ({"CPU": ..., "GPU": ...}) set aside. Ray must be initialised.

    Actors start with the first call, as many as there are calls for, and are used as soon as they live: one that the
    cluster has no room for is waited for by nobody. ``close`` ends them.
    """

    size: int
    resources: Mapping[str, float]
    threads: int = 1
    busy: float = 0.0  # seconds inside calls, of all actors together, also of those that failed or died
    cpu: float = 0.0  # CPU seconds inside calls that returned
    lost: int = 0  # actors that died
    _waiting: deque[Call] = field(default_factory=deque)
    _idle: list[Any] = field(default_factory=list)
    _starting: dict[Any, Any] = field(default_factory=dict)  # reference -> actor
    _running: dict[Any, tuple[Any, Call, float]] = field(default_factory=dict)  # with the time of handing it out
    _begun: dict[Any, float] = field(default_factory=dict)  # actor -> when it was asked for
    _lifetime: float = 0.0  # of actors that are gone
    _stillborn: int = 0

    @property
    def actors(self) -> int:
        """How many there are, those that start among them."""
        return len(self._begun)

    @property
    def open_calls(self) -> int:
        """Calls that wait or run."""
        return len(self._waiting) + len(self._running)

    @property
    def spent(self) -> float:
        """``busy``, and what calls that run have taken so far; asked by other threads too."""
        now = time.perf_counter()
        return self.busy + sum(now - begun for _, _, begun in list(self._running.values()))

    @property
    def lifetime(self) -> float:
        """Seconds that actors have existed, start-up included, of all together; not of those that had no room."""
        now, unborn = time.perf_counter(), set(self._starting.values())
        return self._lifetime + sum(now - begun for actor, begun in self._begun.items() if actor not in unborn)

    def submit(self, tag: Any, function: Callable[..., Any], *arguments: Any) -> None:
        """Have ``function(*arguments)`` called; it is sent by reference, so it stands in a module."""
        self._waiting.append(Call(tag, function, arguments))
        self._hand_out()

    def wait(self, timeout: float | None = None) -> list[Finished]:
        """What is finished, waiting for the first; [] after ``timeout`` seconds, or when nothing is open."""
        import ray

        deadline = None if timeout is None else time.perf_counter() + timeout
        while self.open_calls:
            self._hand_out()
            left = None if deadline is None else max(0.0, deadline - time.perf_counter())
            references = [*self._running, *self._starting]
            ready, _ = ray.wait(references, timeout=left)
            found = [done for reference in ready if (done := self._taken(reference)) is not None]
            self._hand_out()
            if found or (deadline is not None and time.perf_counter() >= deadline):
                return found
        return []

    def close(self) -> None:
        """End all actors and forget all calls; the pool can be used again."""
        import ray

        self._lifetime = self.lifetime
        for actor in self._begun:
            ray.kill(actor)
        self._begun.clear()
        self._waiting.clear()
        self._idle.clear()
        self._starting.clear()
        self._running.clear()

    def _hand_out(self) -> None:
        while self._waiting and self._idle:
            actor, call = self._idle.pop(), self._waiting.popleft()
            self._running[actor.call.remote(call.function, call.arguments)] = (actor, call, time.perf_counter())
        for _ in range(min(len(self._waiting) - len(self._starting), self.size - self.actors)):
            self._start()

    def _start(self) -> None:
        import ray

        needs = {"num_cpus": self.resources.get("CPU", 0.0), "num_gpus": self.resources.get("GPU", 0.0)}
        made: Any = ray.remote(Worker)
        actor = made.options(**needs, max_restarts=0).remote(self.threads)
        self._begun[actor] = time.perf_counter()
        self._starting[actor.ready.remote()] = actor

    def _forget(self, actor: Any) -> None:
        self._lifetime += time.perf_counter() - self._begun.pop(actor)

    def _taken(self, reference: Any) -> Finished | None:
        """What ``reference`` came to: None where an actor came to life, or died over a call that is made again."""
        import ray

        if reference in self._starting:
            self._born(self._starting.pop(reference), reference)
            return None
        actor, call, begun = self._running.pop(reference)
        try:
            value, seconds, cpu = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._forget(actor)
            self.lost += 1
            self.busy += time.perf_counter() - begun
            if call.tries + 1 < TRIES:
                self._waiting.appendleft(call._replace(tries=call.tries + 1))
                return None
            return Finished(call, None, RuntimeError(f"{TRIES} workers died of it, one after the other: {error}"))
        except ray.exceptions.RayTaskError as error:
            self._idle.append(actor)
            self.busy += time.perf_counter() - begun
            cause = error.cause
            return Finished(call, None, cause if isinstance(cause, Exception) else error)
        self._idle.append(actor)
        self.busy += seconds
        self.cpu += cpu
        return Finished(call, value, None)

    def _born(self, actor: Any, reference: Any) -> None:
        import ray

        try:
            ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._forget(actor)
            self.lost += 1
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                raise RuntimeError(f"{STILLBORN} workers of the search died as they started: {error}") from error
            return
        self._stillborn = 0
        self._idle.append(actor)
