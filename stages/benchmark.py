"""``python -m stages.benchmark``: training steps and calls of the denoiser, beside the machine's limits and other nets.

Needs torch alone. What is measured is the step that production runs; all variants are in one process and take turns,
ratios are medians over repetitions. On a CPU CPU time is compared, which does not mind what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch

from stages.benchmarks.memory import peak_bytes
from stages.benchmarks.nets import CASES
from stages.benchmarks.peaks import MEMORY, memory_variant, peak_variants
from stages.benchmarks.peers import PEERS, NoSuchPeer, peer
from stages.benchmarks.subjects import OURS, Flops, Subject, Work, count_flops, rayfall
from stages.benchmarks.timing import Clock, Spread, Timing, Variant, alternate
from stages.compilers import CannotCompile
from stages.processor import prepare_processor, restart_with_huge_pages

PRECISIONS = ("f32", "bf16")
Row = list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for and print the tables; 2 for a wish that cannot be met."""
    parser = argparse.ArgumentParser(prog="python -m stages.benchmark", description=__doc__)
    add_options(parser)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    chosen = parser.parse_args(arguments)
    try:
        figures = measure(chosen)
    except (CannotCompile, NoSuchPeer) as error:
        print(error, file=sys.stderr)
        return 2
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """What ``measure`` wants to know."""
    named = "; ".join(f"{name}: {case.about}" for name, case in CASES.items())
    parser.add_argument("--net", choices=list(CASES), default="small", help=named)
    parser.add_argument("--batch", type=int, help="images a step; without, what suits the net and the device")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--against", type=lambda text: text.split(","), default=[], help=",".join(PEERS))
    parser.add_argument("--peer-precision", nargs="+", choices=PRECISIONS, default=["f32"])
    compiling = "torch.compile nets, ours and theirs; graphs: as CUDA graphs too, of theirs what torch makes of them"
    parser.add_argument("--compile", nargs="?", const=True, default=False, choices=["graphs"], help=compiling)
    parser.add_argument("--peers-eager", action="store_true", help="--compile is about ours alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come. Raises NoSuchPeer and CannotCompile before anything is measured."""
    prepare_processor(chosen.threads)
    device, case = torch.device(chosen.device), CASES[chosen.net]
    batch = chosen.batch or (case.gpu_batch if device.type == "cuda" else case.batch)
    work = Work(case.stage.size, case.stage.low_res_size, case.stage.classes, batch, device)
    peers = [  # first: what is asked for may not be had
        peer(name, work, case.stage.net, precision, compiled=not chosen.peers_eager and chosen.compile)
        for name, precision in product(chosen.against, chosen.peer_precision)
    ]
    ours = [rayfall(work, case.stage, precision, compiled=chosen.compile) for precision in chosen.precision]
    subjects = [*ours, *peers]
    flops = {one.name: count_flops(one, batch) for one in subjects}
    memory = {one.name: peak_bytes(one.train, device) for one in subjects}
    precisions = {precision: peak_variants(device, precision) for precision in PRECISIONS}
    peaks = [one for precision in _precisions(subjects) for one in precisions[precision]]
    clock = clock_of(device, chosen.threads)
    variants = [Variant(f"{one.name} {kind}", _images(run, batch)) for one in subjects for kind, run in _runs(one)]
    timings = alternate([*variants, *peaks, memory_variant(device)], chosen.repeats, clock)
    print(_machine(device, chosen), f"net {chosen.net} ({case.about}), {batch} images a step")
    _print_limits(timings, peaks)
    _print_subjects(subjects, flops, memory, timings)
    ratios = _ratios(subjects, flops, timings)
    _print_ratios(ratios)
    return {
        "machine": _machine(device, chosen),
        "device": {"type": device.type, "name": _device_name(device)},
        "net": chosen.net,
        "kind": case.stage.net.kind,
        "batch": batch,
        "rates": {name: timing.rate for name, timing in timings.items()},
        "own": {one.name: {"precision": one.precision, "compiled": chosen.compile} for one in ours},
        "peaks": {precision: _limit(timings, precision) for precision in _precisions(subjects)},
        "flops": {name: vars(found) for name, found in flops.items()},
        "parameters": {one.name: one.parameters for one in subjects},
        "peak_bytes": memory,
        "ratios": ratios,
    }


def clock_of(device: torch.device, threads: int) -> Clock:
    """CPU time of this process; wall time where several threads, or a GPU, which is waited for, share the work."""
    if device.type == "cuda":

        def waited() -> float:
            torch.cuda.synchronize()
            return time.perf_counter()

        return waited
    return time.process_time if threads == 1 else time.perf_counter


def _runs(subject: Subject) -> tuple[tuple[str, Callable[[], Any]], ...]:
    return ("train", subject.train), ("sample", subject.sample)


def _images(run: Callable[[], Any], batch: int) -> Callable[[], float]:
    def timed() -> float:
        run()
        return batch

    return timed


def _precisions(subjects: Sequence[Subject]) -> list[str]:
    return sorted({one.precision for one in subjects})


def _limit(timings: Mapping[str, Timing], precision: str) -> float:
    """FLOP/s of the faster of the two peaks."""
    return max(timings[f"{kind} {precision}"].rate for kind in ("matrix", "convolution"))


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"


def _machine(device: torch.device, chosen: argparse.Namespace) -> str:
    threads = f"{chosen.threads} of {os.cpu_count()} threads"
    return f"{_device_name(device)}, {threads}, torch {torch.__version__}, {chosen.repeats} repetitions;"


def _print_limits(timings: Mapping[str, Timing], peaks: Sequence[Variant]) -> None:
    print_table(
        "Peaks, TFLOP/s", [[one.name, f"{timings[one.name].rate / 1e12:.3f}"] for one in peaks], ["of", "TFLOP/s"]
    )
    print(f"memory, read and written: {timings[MEMORY].rate / 1e9:.1f} GB/s")


def _print_subjects(
    subjects: Sequence[Subject],
    flops: Mapping[str, Flops],
    memory: Mapping[str, int | None],
    timings: Mapping[str, Timing],
) -> None:
    rows = []
    for one in subjects:
        counted, found = flops[one.name], memory[one.name]
        row = [one.name, f"{one.parameters / 1e6:.2f}", f"{counted.forward / 1e9:.3f}", f"{counted.training / 1e9:.3f}"]
        for kind, each in (("train", counted.training), ("sample", counted.forward)):
            rate = timings[f"{one.name} {kind}"].rate
            row += [f"{rate:.2f}", f"{rate * each / _limit(timings, one.precision):.0%}"]
        rows.append([*row, "" if found is None else f"{found / 1e6:,.0f}"])
    heads = ["step of", "M param.", "GFLOP/img", "trained", "train img/s", "of peak", "sample img/s", "of peak", "MB"]
    print_table("Steps; MB: most memory of a training step beyond what stands", rows, heads)


def _ratios(
    subjects: Sequence[Subject], flops: Mapping[str, Flops], timings: Mapping[str, Timing]
) -> dict[str, dict[str, Spread]]:
    """Time of ours over theirs, and over that of our own in the precision named first: for a step and for a FLOP."""
    found = {}
    ours = [one for one in subjects if one.name.startswith(OURS)]
    theirs = [one for one in subjects if one not in ours]
    for one, other in [*product(ours, theirs), *((one, ours[0]) for one in ours[1:])]:
        rows = {}
        for kind, mine, its in (
            ("train", flops[one.name].training, flops[other.name].training),
            ("sample", flops[one.name].forward, flops[other.name].forward),
        ):
            rows[kind] = timings[f"{one.name} {kind}"].share_of(timings[f"{other.name} {kind}"])
            median, least, most = rows[kind]
            rows[f"{kind} per FLOP"] = median * its / mine, least * its / mine, most * its / mine
        found[f"{one.name} / {other.name}"] = rows
    return found


def _print_ratios(ratios: Mapping[str, Mapping[str, Spread]]) -> None:
    if ratios:
        rows = [
            [name, kind, f"{median:.3f}", f"{least:.3f} to {most:.3f}"]
            for name, kinds in ratios.items()
            for kind, (median, least, most) in kinds.items()
        ]
        print_table("Time of ours over theirs; below 1 is faster", rows, ["pair", "of", "median", "least to most"])


def print_table(title: str, rows: Sequence[Row], heads: Row) -> None:
    """Columns as wide as they must be, the first to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    print(f"\n{title}")
    for row in (heads, *rows):
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


if __name__ == "__main__":
    restart_with_huge_pages()  # as a process has them that trains
    sys.exit(main())
