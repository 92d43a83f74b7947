"""What a person sees while a graph runs: `pipeline.events.Events`, drawn on a terminal or as plain lines.

Everything goes to standard error, so that standard output holds results only. Nothing here decides anything.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

SECONDS_BETWEEN_LINES = 15.0
BETWEEN = "RAYFALL_SECONDS_BETWEEN_LINES"  # environment: another number of seconds
STANDING = 8  # lines not written while a node stands still, before it is said again where it stands


def duration(seconds: float) -> str:
    """``8.2 s``, ``1 min 20 s``, ``2 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class Pace:
    """How fast one node goes, from the first number it gave: a resumed node begins in the middle."""

    started: float
    first: tuple[float, int] | None = None  # when, and how much was done then

    def left(self, now: float, done: int, total: int | None) -> str:
        """The time left in words; empty while nothing can be said."""
        if self.first is None or done < self.first[1]:
            self.first = (now, done)
        seconds, gained = now - self.first[0], done - self.first[1]
        if total is None or gained <= 0 or seconds <= 0:
            return ""
        return f"{duration(seconds / gained * max(0, total - done))} left"


class Lines:
    """Events as plain lines, for logs and pipes: at most one progress line per node every ``every`` seconds."""

    def __init__(
        self, stream: IO[str], every: float = SECONDS_BETWEEN_LINES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.stream, self.every, self.clock = stream, every, clock
        self.paces: dict[str, Pace] = {}
        self.spoken: dict[str, tuple[float, int | None]] = {}  # when each node was last spoken of, and how far it was

    def started(self, node: str) -> None:
        """Say that a node is being computed; its time left is reckoned from here."""
        self.paces[node] = Pace(self.clock())
        self.spoken[node] = self.clock(), None
        self.message(f"{node}: started")

    def progress(self, node: str, done: int, total: int | None) -> None:
        """Say how far a node is, but not more often than every ``every`` seconds, and less often where it stands still;
        None: it is not known of how much."""
        now = self.clock()
        left = self.paces.setdefault(node, Pace(now)).left(now, done, total)
        before, at = self.spoken.setdefault(node, (now, None))
        if now - before >= self.every * (STANDING if done == at else 1):
            self.spoken[node] = now, done
            amount = f"{done} of {total}" if total else f"{done} so far"
            self.message(f"{node}: {amount}{f', {left}' if left else ''}")

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        """Say how long a node took, now or (``reused``) when it was computed."""
        self.message(f"{node}: {ending_of(seconds, reused)}")

    def message(self, text: str) -> None:
        """One line, as it is."""
        print(text, file=self.stream, flush=True)


class Bars:
    """Events as live bars, one per node that is being computed; what is finished stands above them as lines."""

    def __init__(self, bars: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self.bars, self.clock = bars, clock
        self.tasks: dict[str, TaskID] = {}
        self.paces: dict[str, Pace] = {}

    def started(self, node: str) -> None:
        """Add a bar for a node, without a length until there is progress."""
        self.paces[node] = Pace(self.clock())
        self.tasks[node] = self.bars.add_task(node, total=None, left="")

    def progress(self, node: str, done: int, total: int | None) -> None:
        """Move the bar of a node, and add it if there is none; None: it is not known of how much."""
        if node not in self.tasks:
            self.started(node)
        left = self.paces[node].left(self.clock(), done, total)
        self.bars.update(self.tasks[node], completed=done, total=total, left=left)

    def finished(self, node: str, seconds: float, reused: bool) -> None:
        """Put a line above the bars in the place of that of a node, which may have had none (``reused``)."""
        if node in self.tasks:
            self.bars.remove_task(self.tasks.pop(node))
        mark = "[cyan]=[/cyan]" if reused else "[green]✓[/green]"
        self.bars.console.print(f"{mark} {node}  [dim]{ending_of(seconds, reused)}[/dim]", highlight=False)

    def message(self, text: str) -> None:
        """One line above the bars, as it is."""
        self.bars.console.print(text, markup=False, highlight=False)


def ending_of(seconds: float, reused: bool) -> str:
    """What is said when a node has a result."""
    return f"reused, took {duration(seconds)} when it was computed" if reused else f"done in {duration(seconds)}"


@contextmanager
def display(console: Console) -> Iterator[Lines | Bars]:
    """`Events` drawn on ``console`` while the block runs: bars on a terminal, lines elsewhere."""
    if not console.is_terminal:
        yield Lines(console.file, float(os.environ.get(BETWEEN, SECONDS_BETWEEN_LINES)))
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="cyan"),
    )
    with Progress(*columns, console=console, transient=True, refresh_per_second=4) as bars:
        yield Bars(bars)
