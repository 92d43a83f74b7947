"""``python -m stages.survey FOLDER``: is it right, and how fast is it? All that there is to ask about one device.

Checks come first (``stages.check``), then nets of all sizes beside each other's limits and beside another library
(``stages.benchmark``), each in a process of its own. The folder gets a log and the figures of every part; what was
asked in the same way before is not done again, so a survey that was ended goes on. The last thing printed is one short
table.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages.benchmark import print_table
from stages.benchmarks.nets import CASES
from stages.benchmarks.subjects import OURS

LEAST_BATCH = 8
AGAINST = ("--against", "diffusers")
NO_MEMORY = "OutOfMemoryError"  # torch's own name for it
DONE, KEPT = "done", "was done before"


@dataclass(frozen=True)
class Part:
    """A command of its own: what to give to which module."""

    name: str
    module: str
    arguments: tuple[str, ...] = ()

    @property
    def net(self) -> str | None:
        """The net that it measures, if it does."""
        return self.arguments[self.arguments.index("--net") + 1] if "--net" in self.arguments else None


def _measured(name: str, net: str, *arguments: str, beside: bool = True) -> Part:
    against = AGAINST if beside else ()
    return Part(name, "stages.benchmark", ("--net", net, *against, *arguments))


_BF16 = ("--precision", "bf16", "--peer-precision", "bf16")
PARTS: dict[str, Sequence[Part]] = {
    "cuda": (
        Part("checks", "stages.check"),
        _measured("demo-graphs", "demo", "--compile", "graphs", "--peers-eager", *_BF16),
        _measured("cifar10-graphs", "cifar10", "--compile", "graphs", "--peers-eager", *_BF16),
        _measured("adm64-compiled", "adm64", "--compile", *_BF16),
        _measured("uvit-compiled", "uvit", "--compile", "--precision", "bf16", beside=False),
        _measured("small-graphs", "small", "--compile", "graphs", *_BF16),
        _measured("small-eager", "small", *_BF16),
        _measured("adm64-graphs", "adm64", "--compile", "graphs", "--precision", "bf16", beside=False),
        _measured("adm64-eager", "adm64", *_BF16),
    ),
    "cpu": (
        Part("checks", "stages.check", ("--no-compile",)),
        _measured("small", "small"),
        _measured("demo", "demo"),
        _measured("adm64", "adm64", "--precision", "bf16", "--peer-precision", "f32"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do every part and print what came of it: 1 where a check failed or a part could not be measured."""
    parser = argparse.ArgumentParser(prog="python -m stages.survey", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", choices=list(PARTS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", metavar="PART", help="; ".join(map(_names, PARTS)))
    parser.add_argument("--minutes", type=float, default=60.0, help="begin and end within so many; the rest is left")
    parser.add_argument("--alone", action="store_true", help="ours alone, where diffusers is not installed")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args(arguments)
    parts = [part for part in PARTS[chosen.device] if chosen.only is None or part.name in chosen.only]
    unknown = set(chosen.only or ()) - {part.name for part in parts}
    if unknown:
        print(f"--only {' '.join(sorted(unknown))}: there are {_names(chosen.device)}", file=sys.stderr)
        return 2
    chosen.folder.mkdir(parents=True, exist_ok=True)
    end, came, rows = time.monotonic() + 60.0 * chosen.minutes, [], []
    for part in parts:
        ways = _ways(part, chosen)
        came.append(_do(part.name, ways, chosen.folder, end))
        print(f"{part.name}: {came[-1]}", flush=True)
        rows += _rows(part.name, _found(chosen.folder / f"{part.name}.json", ways), came[-1])
    heads = [
        "part",
        "batch",
        "train img/s",
        "of peak",
        "sample img/s",
        "of peak",
        "train/theirs",
        "sample/theirs",
        "MB",
    ]
    print_table("Of peak: FLOP/s; theirs: time of ours over theirs, below 1 is faster", rows, heads)
    return 0 if all(one in (DONE, KEPT) for one in came) else 1


def _names(device: str) -> str:
    return f"{', '.join(part.name for part in PARTS[device])} on {device}"


def _ways(part: Part, chosen: argparse.Namespace) -> list[list[str]]:
    """What to ask a part for, one after the other while memory does not suffice."""
    arguments = [one for one in part.arguments if not (chosen.alone and one in AGAINST)]
    return [[part.module, *arguments, "--device", chosen.device, *sized] for sized in _sizes(part, chosen)]


def _do(name: str, ways: Sequence[list[str]], folder: Path, end: float) -> str:
    """What came of a part: ``DONE``, ``KEPT`` or why it is neither."""
    figures, log = folder / f"{name}.json", folder / f"{name}.log"
    before = _found(figures, ways)
    if before is not None and not _failed(before):
        return KEPT
    for way in ways:
        unfinished = figures.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        if not _run([sys.executable, "-m", *way, "--json", str(unfinished)], log, end - time.monotonic()):
            return "no time was left for it"
        if unfinished.is_file():  # checks that failed are told, too
            found = json.loads(unfinished.read_text())
            unfinished.write_text(json.dumps({"asked": way, **found}, indent=1))
            unfinished.rename(figures)
            return f"failed, see {log}" if _failed(found) else DONE
        if NO_MEMORY not in log.read_text():
            return f"failed, see {log}"
    return f"did not fit with {LEAST_BATCH} images, see {log}"


def _found(figures: Path, ways: Sequence[list[str]]) -> dict[str, Any] | None:
    """What a part found that was asked in one of these ways: not on another device, nor without what is beside it."""
    if not figures.is_file():
        return None
    found: dict[str, Any] = json.loads(figures.read_text())
    return found if found.get("asked") in ways else None


def _failed(found: Mapping[str, Any]) -> bool:
    """Whether these are of checks one of which failed: to be made once more, when asked again."""
    return any(not one["ok"] for one in found.get("findings", ()))


def _sizes(part: Part, chosen: argparse.Namespace) -> list[list[str]]:
    """Options that a measurement is tried with in turns."""
    if part.net is None:
        return [[]]
    case, repeats = CASES[part.net], ["--repeats", str(chosen.repeats)]
    if chosen.device == "cpu":
        return [repeats]
    batches = [case.gpu_batch]
    while batches[-1] // 2 >= LEAST_BATCH:
        batches.append(batches[-1] // 2)
    return [[*repeats, "--batch", str(batch)] for batch in batches]


def _run(command: Sequence[str], log: Path, seconds: float) -> bool:
    """Whether a command, which writes to ``log``, came to its end within so many ``seconds``."""
    if seconds <= 0:
        return False
    with log.open("w") as file:
        file.write(f"$ {shlex.join(command)}\n")
        file.flush()
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:  # an interrupt, too: torch's compilers are processes of its own
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return True


def _rows(name: str, figures: Mapping[str, Any] | None, came: str) -> list[list[str]]:
    """Lines of the table about what a part found; one that says why there is nothing."""
    if figures is None:
        return [[name, came, *[""] * 7]]
    if "findings" in figures:
        fine = sum(one["ok"] for one in figures["findings"])
        return [[name, f"{fine} of {len(figures['findings'])} fine", *[""] * 7]]
    return [_row(name, one, figures) for one in figures["own"]]


def _row(part: str, own: str, figures: Mapping[str, Any]) -> list[str]:
    """Of one of our own ways to call a net."""
    row = [f"{part} {figures['own'][own]['precision']}", str(figures["batch"])]
    peak = figures["peaks"][figures["own"][own]["precision"]]
    for kind, counted in (("train", "training"), ("sample", "forward")):
        rate = figures["rates"][f"{own} {kind}"]
        row += [f"{rate:.1f}", f"{rate * figures['flops'][own][counted] / peak:.0%}"]
    theirs = [
        found for pair, found in figures["ratios"].items() if pair.startswith(own) and OURS not in pair[len(own) :]
    ]
    for kind in ("train", "sample"):
        row.append(f"{theirs[0][kind][0]:.3f}" if theirs else "")
    memory = figures["peak_bytes"][own]
    return [*row, "" if memory is None else f"{memory / 1e6:,.0f}"]


def command() -> int:
    """``main``, which ends what it started when this process is told to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return main()


if __name__ == "__main__":
    sys.exit(command())
