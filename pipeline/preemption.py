"""When a training commits: as often as it was asked to, and at once when a node of its workers is to be taken away.

Ray knows of such a node when somebody drains it: ``ray start --block`` when its pod or machine is told to end, and
``pipeline.spot_notice`` on a spot instance of AWS. The workers then commit and go on stepping; when the node is gone,
or its time is up, Ray Train starts them again elsewhere, and they resume from that commit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

EVERY = 5.0  # seconds between two questions to Ray, as often as Ray Train's own watcher asks
CAUTION = 2.0  # a routine commit may take this many times as long as the longest before it

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Notice:
    """Nodes (Ray's ids) that will be taken away, and until when they all stand (unix time, inf: unknown)."""

    nodes: frozenset[str]
    deadline: float = math.inf


Announced = Callable[[], Notice | None]


def nothing() -> None:
    """Where nobody takes nodes away."""


@dataclass
class CommitTimes:
    """Asked at every step at which a commit is possible; decides for rank 0, which all ranks follow.

    At a notice a commit is due at once, and again only if further nodes are announced. Routine commits go on, but
    for one that might not end before the deadline: it would be cut off, and cost the group the steps it takes.
    """

    every: float  # seconds
    clock: Callable[[], float] = time.time
    _answered: frozenset[str] = field(default=frozenset(), init=False)
    _longest: float = field(default=0.0, init=False)
    _begun: float = field(default_factory=time.monotonic, init=False)

    def due(self, notice: Notice | None) -> bool:
        """Whether to commit now."""
        if notice is not None and not notice.nodes <= self._answered:
            self._answered |= notice.nodes
            log.warning("%d nodes will be taken away: committing now", len(notice.nodes))
            return True
        if time.monotonic() - self._begun <= self.every:
            return False
        return notice is None or self.clock() + CAUTION * self._longest < notice.deadline

    def begun(self) -> None:
        """A commit begins: the time until the next one counts from here."""
        self._begun = time.monotonic()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the writing of a commit, in whichever thread: how long it takes decides on the next one, too."""
        started = time.monotonic()
        yield
        self._longest = max(self._longest, time.monotonic() - started)


def announced_to(world: int) -> Announced:
    """What Ray announces to ``world`` workers. Of several, all must ask equally often: they get one answer."""
    return OwnNode().notice if world == 1 else _announced_to_all


def _announced_to_all() -> Notice | None:
    import ray.train

    info = ray.train.get_preemption_info()
    if info is None:
        return None
    return Notice(frozenset(info.preempted_node_ids), _unix(info.deadline_ms))


@dataclass
class OwnNode:
    """The node of this process, for a worker that is alone: Ray Train, which watches groups, has no part in it."""

    every: float = EVERY
    _asked: float = field(default=-math.inf, init=False)
    _known: Notice | None = field(default=None, init=False)

    def notice(self) -> Notice | None:
        """What is announced of it, at most ``every`` seconds old."""
        if time.monotonic() - self._asked >= self.every:
            self._known = self._ask()
            self._asked = time.monotonic()
        return self._known

    def _ask(self) -> Notice | None:
        import ray
        from ray._private.state import state  # there is no public way; Ray Train asks it, too

        if not ray.is_initialized():
            return None
        own = ray.get_runtime_context().get_node_id()
        try:
            draining: dict[str, int] = state.get_draining_nodes()
        except Exception as error:  # a head that does not answer now must not end a training
            log.warning("Ray cannot say which nodes are drained: %s", error)
            return self._known
        return Notice(frozenset({own}), _unix(draining[own])) if own in draining else None


def _unix(milliseconds: int | None) -> float:
    """Ray's deadlines; 0 and None: there is none."""
    return milliseconds / 1000 if milliseconds else math.inf
