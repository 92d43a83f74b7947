"""``python -m stages.check``: whether a device computes what a CPU does, and compiled nets what plain ones do.

Needs torch alone, and minutes. Every line is something that differs from what it should be: by how much, and by how
much at most it may. Worth a look on a new kind of GPU, driver or torch, before anything is trained or measured there.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from stages.benchmark import print_table
from stages.checks import drawing, training
from stages.checks.device import changed_by_no_number, exact_float32, lost_on_the_way, normals_apart, other_words, waits
from stages.checks.drawing import Distance, drawn, largest, mean
from stages.checks.training import Way, apart, stage_of
from stages.compilers import Asked
from stages.processor import prepare_processor, restart_with_huge_pages
from stages.stage import Stage

NORMAL = 4e-6  # draws reach to 6.7, and numbers there are 5e-7 apart


@dataclass(frozen=True)
class Check:
    """Something that should be 0, and how far from it it may be."""

    name: str
    limit: float
    find: Callable[[], float]


@dataclass(frozen=True)
class Finding:
    """What came of a check: how far off it was, or what went wrong instead."""

    name: str
    limit: float
    found: float | None
    error: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.found is not None and self.found <= self.limit  # no number is no better than a large one


def checks(device: str, *, compiling: bool = True) -> list[Check]:
    """All that can be asked of ``device``: beside a CPU where it is none, and beside itself."""
    found = [*_state(device)]
    if device != "cpu":
        found += _beside_a_cpu(device)
    found += _beside_itself(device)
    return [*found, *_compiled(device)] if compiling else found


def _state(device: str) -> Iterator[Check]:
    way = Way(device)
    yield Check("tensors that a step without a number changes", 0.0, partial(changed_by_no_number, way))
    yield Check("tensors that a checkpoint read elsewhere loses", 0.0, partial(lost_on_the_way, way))


def _beside_a_cpu(device: str) -> Iterator[Check]:
    here, there = Way("cpu"), Way(device)
    yield Check("random words beside a CPU's", 0.0, partial(other_words, device, fused=False))
    yield Check("normal draws beside a CPU's", NORMAL, partial(normals_apart, device, fused=False))
    for kind, stage in _stages():
        yield Check(f"training {kind} beside a CPU", training.ROUNDING, partial(apart, stage, there, here))
        yield Check(f"drawing {kind} beside a CPU", drawing.ROUNDING, partial(_images, stage, device, "cpu", largest))
    for precision in ("f32", "bf16"):
        yield Check(f"waits in a step of {precision}", 0.0, partial(waits, replace(there, precision=precision)))


def _beside_itself(device: str) -> Iterator[Check]:
    plain = Way(device)
    for kind, stage in _stages():
        bf16 = replace(plain, precision="bf16")
        yield Check(f"training {kind} in bf16 beside f32", training.ROUNDING_BF16, partial(apart, stage, bf16, plain))
        half = partial(_images, stage, device, device, mean, precision="bf16")
        yield Check(f"drawing {kind} in bf16 beside f32, mean", drawing.MEAN_BF16, half)
    again = replace(plain, recompute=16)
    yield Check("training computed again beside kept", training.ROUNDING, partial(apart, _dropping(), again, plain))
    pieces = replace(plain, micro_batch=3)
    yield Check("training in micro-batches beside whole", training.ROUNDING, partial(apart, stage_of(), pieces, plain))


def _compiled(device: str) -> Iterator[Check]:
    plain = Way(device, micro_batch=3)  # of 8: the last is a smaller one
    if device != "cpu":
        yield Check("random words, compiled", 0.0, partial(other_words, device, fused=True))
        yield Check("normal draws, compiled", NORMAL, partial(normals_apart, device, fused=True))
    ways: list[tuple[str, Asked, Stage]] = [("unet, compiled", True, stage_of())]
    if device != "cpu":
        stages = (*_stages(), ("with dropout", _dropping()))
        ways += [(f"{kind}, as graphs", "graphs", stage) for kind, stage in stages]
        graphs = Way(device, "graphs", "bf16")
        yield Check("waits in a step of bf16, as graphs", 0.0, partial(waits, graphs))
    for name, compiled, stage in ways:
        way = replace(plain, compiled=compiled)
        yield Check(f"training {name} beside plain", training.ROUNDING, partial(apart, stage, way, plain))
    for kind, stage in _stages():
        both = partial(_images, stage, device, device, largest, compiled=True)
        yield Check(f"drawing {kind}, compiled beside plain", drawing.ROUNDING, both)


def _stages() -> Iterator[tuple[str, Stage]]:
    for kind in training.NETS:
        yield kind, stage_of(kind)
    yield "super-resolution", stage_of(super_resolution=True)


def _dropping() -> Stage:
    return stage_of(dropout=0.1)


def _images(stage: Stage, device: str, beside: str, distance: Distance, **way: Any) -> float:
    """Images drawn on ``device`` in this ``way`` beside those of a plain net in float32 on the device ``beside``."""
    return distance(drawn(stage, device, **way), drawn(stage, beside))


def look(asked: Iterable[Check], tell: Callable[[Finding], None] = lambda finding: None) -> list[Finding]:
    """Make the checks one after the other; ``tell`` hears of each at once."""
    findings = []
    for check in asked:
        started = time.monotonic()
        try:
            with exact_float32():
                found, error = check.find(), ""
        except Exception as trouble:  # whatever torch and a driver raise is what was to be found
            found, error = None, f"{type(trouble).__name__}: {(str(trouble).strip().splitlines() or [''])[0]}"
        torch.compiler.reset()
        findings.append(Finding(check.name, check.limit, found, error, time.monotonic() - started))
        tell(findings[-1])
    return findings


def main(arguments: Sequence[str] | None = None) -> int:
    """Make all checks and print them: 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m stages.check", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-compile", action="store_true", help="leave out what takes a compiler, and minutes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the findings here too")
    chosen = parser.parse_args(arguments)
    if chosen.device == "cuda" and not torch.cuda.is_available():
        print("--device cuda: torch sees no GPU here", file=sys.stderr)
        return 2
    prepare_processor(chosen.threads)
    name = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{platform.machine()} CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    findings = look(checks(chosen.device, compiling=not chosen.no_compile), _tell)
    if chosen.json:
        told = [{**vars(one), "ok": one.ok} for one in findings]
        chosen.json.write_text(json.dumps({"machine": name, "torch": torch.__version__, "findings": told}, indent=1))
    failed = [one for one in findings if not one.ok]
    if failed:
        rows = [[one.name, one.error or f"{one.found:.2e}", f"{one.limit:g}"] for one in failed]
        print_table(f"{len(failed)} of {len(findings)} failed", rows, ["what", "found", "at most"])
        return 1
    print(f"all {len(findings)} as they should be")
    return 0


def _tell(finding: Finding) -> None:
    found = finding.error or f"{finding.found:.2e}, at most {finding.limit:g}"
    print(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {found} ({finding.seconds:.0f} s)", flush=True)


if __name__ == "__main__":
    restart_with_huge_pages()  # as a process has them that trains
    sys.exit(main())
