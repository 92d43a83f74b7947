"""Many calls of one plain function: here, in threads or as Ray tasks, with the same results in the same order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

J = TypeVar("J")
R = TypeVar("R")

_CANCELLING = 10.0  # seconds; a worker that was told to end is gone in less


class FanOut(Protocol):
    """Calls a function once for each job and yields the results in the order of the jobs.

    What the function raises is raised here as it was. Close the generator (`contextlib.closing`) to call off the
    rest.
    """

    def __call__(self, function: Callable[[J], R], jobs: Iterable[J], /) -> Generator[R, None, None]: ...


def in_turn(function: Callable[[J], R], jobs: Iterable[J]) -> Generator[R, None, None]:
    """One after the other, in this process."""
    yield from map(function, jobs)


def in_threads(count: int) -> FanOut:
    """In ``count`` threads of this process, a few jobs ahead of who takes the results: for functions that wait."""

    def call(function: Callable[[J], R], jobs: Iterable[J]) -> Generator[R, None, None]:
        running: deque[Future[R]] = deque()
        with ThreadPoolExecutor(count, thread_name_prefix="fan-out") as pool:
            try:
                for job in jobs:
                    running.append(pool.submit(function, job))
                    if len(running) > 2 * count:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    return call


def on_ray(*, cpus: float = 1.0, gpus: float = 0.0, at_most: int | None = None, name: str = "") -> FanOut:
    """As Ray tasks of ``cpus`` and ``gpus`` each, on whatever nodes of the running cluster have room.

    Ray must be initialised. Few more jobs are handed out than the cluster can run, or ``at_most`` at once, so neither
    they nor their results pile up. A task whose worker or node is lost runs again, up to three times; nothing of a
    call that was called off runs on.
    """

    def call(function: Callable[[J], R], jobs: Iterable[J]) -> Generator[R, None, None]:
        import ray

        options = {"num_cpus": cpus, "num_gpus": gpus, "name": name or function.__name__, "max_retries": 3}
        remote: Any = ray.remote(function).options(**options)
        running: deque[Any] = deque()
        try:
            for job in jobs:
                running.append(remote.remote(job))
                if at_most is not None:
                    _wait_for_room(running, at_most)
                while running and (_is_done(running[0]) if at_most else len(running) >= 2 * _room(cpus)):
                    yield _result(running.popleft())
            while running:
                yield _result(running.popleft())
        finally:
            for reference in running:
                ray.cancel(reference, force=True)
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=_CANCELLING)

    return call


def _wait_for_room(running: Iterable[Any], at_most: int) -> None:
    """Until fewer than ``at_most`` of ``running`` are unfinished, whichever end first."""
    import ray

    unfinished = list(running)
    while len(unfinished) >= at_most:
        _, unfinished = ray.wait(unfinished, num_returns=len(unfinished) - at_most + 1)


def _is_done(reference: Any) -> bool:
    import ray

    return bool(ray.wait([reference], timeout=0)[0])


def _room(cpus: float) -> int:
    """How many tasks run at once; asked for anew each time, for a cluster may grow."""
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 0) / cpus))


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error  # what the function raised; Ray's own holds the traceback of the worker
