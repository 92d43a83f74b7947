"""A process that has imported what training needs and has one thread, from which tests fork what they kill.

A line of JSON on standard input is one child: a worker that trains a stage with the given settings (`StageRun`, which
`pipeline.training.train_loop` runs in every worker of Ray Train; Ray itself starts threads when it is imported). The
child's process id is answered at once and its end when it came, a line
each. It notes in the file ``ledger`` which examples it was given for which step, when its steps were done, and of which
steps a commit was begun.

How the child is to die, or what it is to do without, stands in the same line:

    kill_after          SIGKILL after so many seconds, at whatever it is then
    die_after_commit    SIGKILL to itself right after so many commits
    die_at_write        SIGKILL to itself before the so-many-th change of the store; half-way where it writes tensors
    count_writes        a file to note the changes of the store in, one a line
    modules             a file for the names of the modules that the child ended with, which are then imported here
    stop_after_commit   SIGSTOP to itself right after so many commits; somebody else lets it go on
    lease               beat and silence in seconds: it owns "claims/sr" in a bucket while it trains
    error               a file for the name of the exception that it ends with
    without             "order": examples are handed out anew from the first, as by a loader that nobody resumed;
                        "number": a commit takes whatever number is free
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

import stages.checkpoints
from pipeline.commits import CommitLog
from pipeline.data.batches import StepBatches
from pipeline.kept_states import KeptStates
from pipeline.leases import Lease, Owner, this_process
from pipeline.stage_run import StageRun
from pipeline.storage import open_storage
from pipeline.worker_settings import LoopSettings
from stages.training import TrainState

CHANGES = {"os.link", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def append(file: str, row: object) -> None:
    """Add a line at once; what the kernel has taken survives the process."""
    handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (json.dumps(row) + "\n").encode())
    os.close(handle)


def keep_ledger(file: str, *, without_order: bool) -> None:
    """Note each step that is read with its examples, each that is done, and each whose commit is begun."""
    whole, advance, copied = StepBatches.read, StageRun.advance, KeptStates.checkpoint
    first: list[int] = []

    def read(self: StepBatches, step: int) -> Any:
        first.append(step)
        asked = step - first[0] if without_order else step
        examples = self.order.of_step(asked, self.batch_size, self.positions).tolist()
        append(file, {"pid": os.getpid(), "step": step, "examples": examples})
        return whole(self, asked)

    def advance_and_note(self: StageRun, batch: Any) -> Any:
        seen = advance(self, batch)
        append(file, {"pid": os.getpid(), "done": self.state.step, "at": time.monotonic()})
        return seen

    def copy_and_note(self: KeptStates, state: TrainState, *about: Any) -> Any:
        write = copied(self, state, *about)
        append(file, {"pid": os.getpid(), "begun": state.step})
        return write

    StepBatches.read, StageRun.advance = read, advance_and_note  # type: ignore[method-assign]
    KeptStates.checkpoint = copy_and_note  # type: ignore[method-assign]


def halt_after_commit(number: int, halt: Callable[[], None]) -> None:
    whole, seen = KeptStates.commit, []

    def commit(self: KeptStates, *checkpoint: Any) -> Any:
        entry = whole(self, *checkpoint)
        seen.append(entry)
        if len(seen) == number:
            halt()
        return entry

    KeptStates.commit = commit  # type: ignore[method-assign]


def commit_at_any_number() -> None:
    whole = CommitLog._publish

    def publish(self: CommitLog, *kind: Any, **fields: Any) -> Any:
        self._next = None  # the log is read anew
        return whole(self, *kind, **fields)

    CommitLog._publish = publish  # type: ignore[method-assign]


def own(settings: LoopSettings, beat: float, silence: float) -> None:
    """Take the lease, as ``claimed`` does."""
    owner = Owner(owner=this_process(), since=time.time())
    lease = Lease(open_storage(settings.storage).objects(""), "claims/sr", owner, beat=beat, silence=silence)
    assert lease.take(wait=False) is None


def watch_writes(store: str, *, die_at: int | None, note: str | None) -> None:
    """Count what changes the store, and die at the chosen change."""
    count = 0

    def change(what: str, half: Callable[[], None] | None = None) -> None:
        nonlocal count
        count += 1
        if note is not None:
            append(note, what)
        if count == die_at:
            if half is not None:
                half()
            die()

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, _ = arguments
            if isinstance(path, str) and path.startswith(store) and isinstance(mode, str) and set(mode) & set("wxa+"):
                change(f"open {Path(path).name}")
        elif event in CHANGES and any(str(one).startswith(store) for one in arguments):
            change(f"{event} {Path(str(arguments[0])).name}")

    def save_file(tensors: dict[str, torch.Tensor], path: Path) -> None:
        def half() -> None:
            data = safetensors.torch.save(tensors)
            with open(path, "wb") as file:
                file.write(data[: len(data) // 2])

        change(f"before {Path(path).name}")
        change(f"within {Path(path).name}", half)
        safetensors.torch.save_file(tensors, path)

    stages.checkpoints.save_file = save_file
    sys.addaudithook(audit)


def child(line: Mapping[str, Any]) -> None:
    """Train, in the forked process."""
    settings = LoopSettings(**line["settings"])
    without = line.get("without")
    keep_ledger(line["ledger"], without_order=without == "order")
    if (number := line.get("die_after_commit")) is not None:
        halt_after_commit(number, die)
    if (number := line.get("stop_after_commit")) is not None:
        halt_after_commit(number, lambda: os.kill(os.getpid(), signal.SIGSTOP))
    if without == "number":
        commit_at_any_number()
    if line.get("die_at_write") is not None or line.get("count_writes") is not None:
        watch_writes(settings.storage, die_at=line.get("die_at_write"), note=line.get("count_writes"))
    if "lease" in line:
        own(settings, *line["lease"])
    run = StageRun(settings, rank=0, world=1, device="cpu")
    run.resume()
    run.train(lambda entry, metrics: None)
    if "modules" in line:
        Path(line["modules"]).write_text(json.dumps([name for name in sys.modules if name != "__main__"]))


def wait(pid: int, kill_after: float | None) -> int:
    """The status that a child ended with; SIGKILL to it if it has not after so many seconds."""
    deadline = time.monotonic() + (kill_after or 0.0)
    while kill_after is not None and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(min(0.001, max(0.0, deadline - time.monotonic())))
    if kill_after is not None:
        os.kill(pid, signal.SIGKILL)  # nobody else has waited for it, so the number is still its own
    return os.waitpid(pid, 0)[1]


def import_all(file: str) -> None:
    """Import what a child came to need on the way, so that no other has to."""
    for name in json.loads(Path(file).read_text()):
        with contextlib.suppress(Exception):  # what is made while running cannot be imported
            importlib.import_module(name)


def main() -> None:
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        assert len(os.listdir("/proc/self/task")) == 1, "a fork of a process with threads may hang"
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(told)
                code = 0
            except BaseException as error:
                traceback.print_exc()
                if "error" in told:
                    Path(told["error"]).write_text(type(error).__name__)
            finally:
                os._exit(code)
        print(pid, flush=True)
        status = wait(pid, told.get("kill_after"))
        if "modules" in told:
            import_all(told["modules"])
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
