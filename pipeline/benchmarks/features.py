"""``python -m pipeline.benchmark features``: what Inception-v3's features cost here and in torch-fidelity.

Random weights in torch-fidelity's format, read by both from one file; random images. One thread, CPU time, variants
alternating, ratios of single repetitions and their median: those hold on a busy machine. Wall time of worker processes
does not, so the load stands beside it, and the CPU time of the slower worker, which it would be on free cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pipeline.scoring.inception import InceptionV3, random_weights
from stages.benchmarks.timing import Spread, Timing, Variant, alternate, spread

STOCK, OURS, HALF = "torch-fidelity", "ours", "ours, bf16"
LAYERS = ("features", "logits")
Net = Callable[[Tensor], tuple[Tensor, ...]]  # uint8 (N, 3, h, w) -> features, logits, ...


class Seconds(NamedTuple):
    """Of one repetition: wall time, and CPU time of the slowest worker."""

    wall: float
    cpu: float


class Workers(NamedTuple):
    """Each repetition with one worker and with two, for the same images in all."""

    one: tuple[Seconds, ...]
    two: tuple[Seconds, ...]

    def share(self, clock: Literal["wall", "cpu"]) -> Spread:
        """Two workers' time as a share of one's."""
        two, one = (np.array([getattr(seconds, clock) for seconds in some]) for some in (self.two, self.one))
        return spread(two / one)


def add_feature_options(parser: argparse.ArgumentParser) -> None:
    """What the command line may say about this part."""
    parser.add_argument("--images", type=int, default=16, help="how many random images a repetition takes")
    parser.add_argument("--size", type=int, default=64, help="px of the images")
    parser.add_argument("--repeats", type=int, default=5)


def measure_features(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come."""
    console = Console(width=140)
    console.print(
        f"Inception-v3, random weights, {chosen.images} images of {chosen.size} px, one thread, CPU time, "
        f"{chosen.repeats} repetitions, variants alternating; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    images = random_images(chosen.images, chosen.size)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "inception.pth"
        torch.save(random_weights(0), weights)
        nets = _nets(weights)
    errors = feature_errors(nets, images)
    timings = alternate([_variant(name, net, images) for name, net in nets.items()], chosen.repeats)
    _print_costs(console, timings, errors)
    before = os.getloadavg()[0]
    workers = measure_workers(images, chosen.repeats)
    _print_workers(console, workers, before)
    return {
        "milliseconds": {name: 1000 / timing.rate for name, timing in timings.items()},
        "ratios": {name: timings[name].share_of(timings[STOCK]) for name in (OURS, HALF)},
        "errors": errors,
        "workers": {"wall": workers.share("wall"), "cpu": workers.share("cpu"), "load": before},
    }


def random_images(count: int, size: int) -> Tensor:
    """uint8 (count, 3, size, size)."""
    dice = torch.Generator().manual_seed(1)
    return torch.randint(256, (count, 3, size, size), generator=dice, dtype=torch.uint8)


def _nets(weights: Path) -> dict[str, Net]:
    from torch_fidelity.utils import create_feature_extractor

    layers = ["2048", "logits_unbiased"]
    stock = create_feature_extractor(
        "inception-v3-compat", layers, cuda=False, feature_extractor_weights_path=str(weights), verbose=False
    )
    state = torch.load(weights, weights_only=True)
    return {STOCK: stock, OURS: InceptionV3(state).eval(), HALF: InceptionV3(state, torch.bfloat16).eval()}


def _variant(name: str, net: Net, images: Tensor) -> Variant:
    @torch.inference_mode()
    def run() -> int:
        net(images)
        return len(images)

    return Variant(name, run)


@torch.inference_mode()
def feature_errors(nets: dict[str, Net], images: Tensor) -> dict[str, dict[str, float]]:
    """Largest difference from torch-fidelity's, over the largest value, of each layer of each other net."""
    expected = nets[STOCK](images)
    found = {}
    for name in nets.keys() - {STOCK}:
        pairs = zip(LAYERS, nets[name](images), expected, strict=False)  # ours has spatial features too
        found[name] = {layer: float((mine - theirs).abs().max() / theirs.abs().max()) for layer, mine, theirs in pairs}
    return found


def measure_workers(images: Tensor, repeats: int) -> Workers:
    """One worker that sees all images and two that see half each, alternating, after one round."""
    halves = images.chunk(2)
    found: dict[int, list[Seconds]] = {1: [], 2: []}
    with _worker(images.numpy()) as alone, _worker(halves[0].numpy()) as first, _worker(halves[1].numpy()) as second:
        for repeat in range(repeats + 1):
            for pipes in ((alone,), (first, second)):
                began = time.perf_counter()
                for pipe in pipes:
                    pipe.send(True)
                slowest = max(pipe.recv() for pipe in pipes)
                if repeat:
                    found[len(pipes)].append(Seconds(time.perf_counter() - began, slowest))
    return Workers(tuple(found[1]), tuple(found[2]))


@contextmanager
def _worker(images: npt.NDArray[np.uint8]) -> Iterator[Connection]:
    """A process of its own that extracts features of ``images`` each time it is asked."""
    processes = get_context("spawn")
    ours, its = processes.Pipe()
    process = processes.Process(target=_extract_when_asked, args=(its, images), daemon=True)
    process.start()
    its.close()
    try:
        yield ours
        ours.send(False)
    finally:
        ours.close()
        process.join(timeout=60)


def _extract_when_asked(pipe: Connection, images: npt.NDArray[np.uint8]) -> None:
    torch.set_num_threads(1)
    net, pixels = InceptionV3(random_weights(0)), torch.from_numpy(images)
    with torch.inference_mode():
        while pipe.recv():
            began = time.process_time()
            net(pixels)
            pipe.send(time.process_time() - began)


def _print_costs(console: Console, timings: dict[str, Timing], errors: dict[str, dict[str, float]]) -> None:
    table = Table("net", "ms/image", "share of its time", "least to most", *LAYERS, title="Against torch-fidelity")
    for name, timing in timings.items():
        row = [name, f"{1000 / timing.rate:.1f}"]
        if name in errors:
            median, least, most = timing.share_of(timings[STOCK])
            row += [f"{median:.3f}", f"{least:.3f} to {most:.3f}", *(f"{errors[name][layer]:.1e}" for layer in LAYERS)]
        table.add_row(*row)
    console.print(table, "features, logits: largest difference over the largest value; bf16 is for no reported score")


def _print_workers(console: Console, workers: Workers, before: float) -> None:
    table = Table("workers", "wall s", "share", "least to most", "CPU s of the slower", "share", title="Workers")
    for count, found in enumerate(workers, start=1):
        wall, cpu = np.median(found, axis=0)
        shares = workers.share("wall"), workers.share("cpu")
        (median, least, most), (work, *_) = shares
        row = [f"{median:.3f}", f"{least:.3f} to {most:.3f}"] if count == 2 else ["", ""]
        table.add_row(str(count), f"{wall:.2f}", *row, f"{cpu:.2f}", f"{work:.3f}" if count == 2 else "")
    after = os.getloadavg()[0]
    console.print(table, f"one thread each; load before {before:.1f}, after {after:.1f} on {os.cpu_count()} cores")
