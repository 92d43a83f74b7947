"""What a forecast takes from measurements: files that ``stages.benchmark`` and ``pipeline.benchmark training`` wrote.

The share of a peak that training reaches is F / ((t / B - o / B) p) for a measured step of B images in t seconds, F
FLOPs per image and o the optimizer as ``forecast`` reckons it at the measured rate of memory: a forecast for that batch
on that one device is the measured time again. The peak p is the data sheet's where the device is a GPU of
``machines.GPUS``, as it is the peak that a forecast multiplies the share with; else it is the peak of the same run.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, first_line
from pipeline.forecast import BACKWARD_SHARE, BUCKET_BYTES, NUMBER_BYTES, Load, optimizer_bytes
from pipeline.machines import GPUS
from stages.compilers import Asked

# The variants of ``pipeline.benchmark training``.
ONE, TWO, BOTH, BARE = "one worker on Ray", "two workers of one", "two trainings at once", "bare loop"
WRITERS = "python -m stages.benchmark --json FILE or python -m pipeline.benchmark training --json FILE"


@dataclass(frozen=True)
class MeasuredStep:
    """One training step of one net, as ``stages.benchmark`` measured it."""

    kind: str  # of net
    precision: str
    compiled: Asked
    flops: float  # of training, per image
    share: float  # of the peak, in (0, 1]
    gpu: str | None  # of GPUS; None for a CPU, or a GPU that is not in it
    where: str  # what was measured on what, for people


@dataclass(frozen=True)
class MeasuredLoop:
    """What training under Ray adds to the step, as ``pipeline.benchmark training`` measured it."""

    loop: float  # time of a step over that of the bare one, at least 1
    hidden: float | None  # share of the exchange that ran beside the backward pass; None: one bucket tells nothing
    where: str


@dataclass(frozen=True)
class Measured:
    """All that was given; empty without a file."""

    steps: tuple[MeasuredStep, ...] = ()
    loop: MeasuredLoop | None = None

    def step_for(
        self, kind: str, precision: str, flops: float, gpu: str, *, compiled: Asked = False
    ) -> MeasuredStep | None:
        """The figure that says most of training such a net on ``gpu``; None where none says anything.

        Of those in its precision, ``compiled`` or not as it is: on this GPU before another before anything else, of
        this kind of net before others, then of the nearest FLOPs per image (as a ratio). A share of a peak in float32
        that is not a data sheet's says nothing: the peaks of ``GPUS`` are those of bf16.
        """
        alike = [one for one in self.steps if (one.precision, one.compiled) == (precision, compiled)]
        fit = [one for one in alike if one.gpu or precision == "bf16"]
        return min(
            fit,
            key=lambda one: (one.gpu != gpu, one.gpu is None, one.kind != kind, abs(math.log(one.flops / flops))),
            default=None,
        )


def read_measured(files: Iterable[Path]) -> Measured:
    """Read files of either benchmark, in any order. Raises UserError for what is not one, or lacks a figure."""
    steps: list[MeasuredStep] = []
    loops: list[MeasuredLoop] = []
    for file in files:
        try:
            figures = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            why = first_line(error)
            raise UserError(f"--measured {file} cannot be read ({why}); give what {WRITERS} wrote") from None
        try:
            if ONE in figures["rates"]:
                loops.append(_loop(figures))
            else:
                steps += _steps(figures, file)
        except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
            lacks = f"has no usable {error}" if isinstance(error, KeyError) else "is of another form"
            raise UserError(f"--measured {file} {lacks}; give what {WRITERS} of this version wrote") from None
    if len(loops) > 1:
        raise UserError(f"--measured names {len(loops)} files of the loop around a step, and a forecast takes one")
    return Measured(tuple(steps), loops[0] if loops else None)


def known_gpu(name: str) -> str | None:
    """The GPU of ``GPUS`` that a driver's ``name`` means, such as h100 for NVIDIA H100 80GB HBM3."""
    words = name.lower().replace("-", " ").split()
    return next((gpu for gpu in GPUS if gpu in words), None)


def _steps(figures: Mapping[str, Any], file: Path) -> Sequence[MeasuredStep]:
    """Of our own steps."""
    return [_step(figures, name, file) for name in figures["own"]]


def _step(figures: Mapping[str, Any], name: str, file: Path) -> MeasuredStep:
    rates, device, batch = figures["rates"], figures["device"], figures["batch"]
    own, flops = figures["own"][name], figures["flops"][name]["training"]
    precision, compiled = own["precision"], own["compiled"]
    gpu = known_gpu(device["name"]) if device["type"] == "cuda" else None
    peak = GPUS[gpu].tflops * 1e12 if gpu else figures["peaks"][precision]
    memory = GPUS[gpu].memory * 1e9 if gpu else rates["memory"]
    load = Load(flops, figures["parameters"][name], batch)
    seconds = batch / rates[f"{name} train"] - optimizer_bytes(load) / memory
    if seconds <= 0:
        raise UserError(
            f"--measured {file}: {name} takes no longer than its optimizer is reckoned to; measure a larger --batch"
        )
    share = batch * flops / (seconds * peak)
    if share > 1:
        raise UserError(f"--measured {file}: {name} reached {share:.0%} of its peak, which cannot be; measure it again")
    of = f"{GPUS[gpu].tflops:g} TFLOP/s, the data sheet's" if gpu else f"{peak / 1e12:.3g} TFLOP/s, measured beside it"
    what = f"net {figures['net']} ({figures['kind']}, {flops / 1e9:.4g} GFLOP an image), {batch} images a step"
    how = ", as CUDA graphs" if compiled == "graphs" else ", compiled" if compiled else ""
    where = f"{what}, {precision}{how}, on {_device(device)}: {share:.0%} of {of}"
    return MeasuredStep(figures["kind"], precision, compiled, flops, share, gpu, where)


def _device(device: Mapping[str, Any]) -> str:
    return f"{device['name']}, no GPU" if device["type"] == "cpu" else str(device["name"])


def _loop(figures: Mapping[str, Any]) -> MeasuredLoop:
    """Of the loop, and of two workers: what they take longer than two trainings is the exchange that is not hidden."""
    rates, batch = figures["rates"], figures["batch"]
    loop = max(1.0, figures["ratios"][f"{ONE} / {BARE}"][0])  # below 1 is what a difference of chance looks like
    alone = statistics.median(figures["all_reduce_seconds"])
    both, two = (2 * batch / rates[name] for name in (BOTH, TWO))  # seconds of a step, of two images a step each
    last = alone * min(1.0, BUCKET_BYTES / (NUMBER_BYTES * figures["parameters"]))
    hideable = min(alone - last, BACKWARD_SHARE * both)
    hidden = None
    if hideable > 0:
        hidden = min(max(alone - (two - both), 0.0), hideable) / hideable
    beside = "the exchange is one bucket, which tells nothing of overlap"
    if hidden is not None:
        beside = f"of what could be hidden of the exchange {hidden:.0%} is"
    what = f"net {figures['net']}, {batch} images a step of a worker, {figures['precision']}"
    where = f"{what}, on {_device(figures['device'])}: the loop takes {loop:.3f} times the bare step; {beside}"
    return MeasuredLoop(loop, hidden, where)
