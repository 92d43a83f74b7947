"""How a command ends: its exit code, one sentence on standard error, one JSON object on standard output.

0 done, 1 failed (a log holds the traceback), 2 the user's input is wrong, 130 interrupted.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.console import Console

from pipeline.addresses import without_secret
from pipeline.errors import UserError
from pipeline.objects import StoreError

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 130


@dataclass
class Ending:
    """What a command leaves: filled in while it runs, told when it ends."""

    command: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    store: str | None = None  # where a log of a failure belongs, once it is known
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def say(self, sentence: str, style: str) -> None:
        """Print one line on standard error, in a style of rich's."""
        self.console.print(without_secret(sentence), style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def ending(command: str, *, as_json: bool, debug: bool) -> Iterator[Ending]:
    """Run a command's body; every exception becomes a sentence and an exit code.

    With ``as_json`` whatever the body prints goes to standard error, and standard output gets ``figures`` alone.
    """
    end = Ending(command)
    try:
        if as_json:
            with redirect_stdout(sys.stderr):
                yield end
            print(json.dumps(plain(end.figures)), flush=True)
        else:
            yield end
    except UserError as error:
        if debug:
            print(without_secret(trace_of(error)), file=sys.stderr)
        end.say(str(error), "red")
        raise typer.Exit(WRONG_INPUT) from None
    except KeyboardInterrupt:
        end.say("Interrupted; the same command goes on from what is stored.", "yellow")
        raise typer.Exit(INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:
        trace = trace_of(error)
        if debug:
            print(without_secret(trace), file=sys.stderr)
        log = write_log(end, trace, to_store=not isinstance(error, StoreError))
        end.say(f"{sentence_of(error)}; the traceback is in {log}", "red")
        raise typer.Exit(FAILED) from None


def sentence_of(error: Exception) -> str:
    """The first line of what an error says, with its type where the text alone would not tell."""
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return first if hasattr(error, "trace") and first else f"{type(error).__name__}: {first}".rstrip(": ")


def trace_of(error: Exception) -> str:
    """The traceback here, and below it the one of the process where it happened, if that was another."""
    elsewhere = getattr(error, "trace", "")
    return "".join(traceback.format_exception(error)) + (f"\nWhere it happened:\n{elsewhere}" if elsewhere else "")


def write_log(end: Ending, trace: str, *, to_store: bool = True) -> str:
    """Keep a traceback in the store (``failures/``), or in the system's temporary folder when there is no store."""
    header = f"rayfall {' '.join(sys.argv[1:])}\n{time.strftime('%Y-%m-%d %H:%M:%S')}\n\n"
    told = without_secret(header + trace)
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{end.command}.log"
    if end.store is not None and to_store:
        from pipeline.storage import open_storage

        with suppress(OSError, UserError):  # a full or read-only store may be what failed
            storage = open_storage(end.store)
            storage.put(f"failures/{name}", told.encode())
            return f"{storage.address}/failures/{name}"
    with tempfile.NamedTemporaryFile("w", prefix="rayfall-", suffix=f"-{name}", delete=False) as file:
        file.write(told)
    return file.name


def plain(value: Any) -> Any:
    """``value`` as strict JSON can say it: NaN and infinities become null, paths and the like text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
