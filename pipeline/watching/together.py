"""Several experiments watched at once, as those of an ablation: their scores take turns, and end together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from pipeline.dag import Node
from pipeline.nodes import Nodes
from pipeline.storage import Storage
from pipeline.watching.run import Watch


class Together:
    """While the block of a ``with`` trains them, scores the stages of each of ``nodes`` that are named with it.

    One moment at a time is scored, however many experiments there are, so that training keeps the machine. Otherwise as
    a ``Watch``; leaving the block waits for all of them at once. ``say`` is given lines that begin with the name by
    which an experiment is ``watched``.
    """

    def __init__(
        self,
        watched: Mapping[str, tuple[Nodes, Sequence[str]]],
        storage: Storage,
        say: Callable[[str], None],
    ) -> None:
        turn = threading.Lock()
        self.say = say
        self.watches = [
            Watch(nodes, stages, storage, _named(called, say), turn) for called, (nodes, stages) in watched.items()
        ]

    @property
    def targets(self) -> list[Node]:
        """What must be computed beside the trainings."""
        return list({node.digest: node for watch in self.watches for node in watch.targets}.values())

    def __enter__(self) -> Together:
        for caveat in dict.fromkeys(watch.caveat for watch in self.watches):
            if caveat is not None:
                self.say(caveat)
        for watch in self.watches:
            watch.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        for watch in self.watches:
            watch.end(failed=error[0] is not None)
        try:
            for watch in self.watches:
                watch.wait()
        except KeyboardInterrupt:
            for watch in self.watches:
                watch.broken.set()
            raise


def _named(called: str, say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: say(f"{called}: {text}")
