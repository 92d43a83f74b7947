"""What a running graph tells the person who waits: the port; the command line draws it."""

from __future__ import annotations

from typing import Protocol


class Events(Protocol):
    """Receives what happens, in the driver process. Node names are those of the graph, such as ``train/sr16``."""

    def started(self, node: str) -> None:
        """A node began to be computed."""

    def progress(self, node: str, done: int, total: int) -> None:
        """``done`` of ``total`` units (steps, images) of a node are finished; may repeat."""

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        """A node's result is stored; ``seconds`` is what computing it took, now or when it was made."""

    def message(self, text: str) -> None:
        """One line worth reading."""


class Silence:
    """Events that nobody watches."""

    def started(self, node: str) -> None:
        del node

    def progress(self, node: str, done: int, total: int) -> None:
        del node, done, total

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        del node, seconds, reused

    def message(self, text: str) -> None:
        del text
