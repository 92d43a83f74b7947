"""What the cluster's GPUs can do, in minutes: training and drawing, compiled or not, placement, halves, NCCL."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.doctor.findings import Findings, Trouble

if TYPE_CHECKING:
    from stages.compilers import Asked

PATIENCE = 180.0  # seconds for one of these checks
STEPS = 5  # timed, after as many that are not
ELEMENTS = 1 << 24  # float32 values that are added up over NCCL: 64 MiB


def check_gpus(gpus: float, findings: Findings) -> None:
    """All of it, on a cluster that this process has joined and that was told of so many ``gpus``."""
    if gpus < 1:
        findings.add("gpu", False, "there is no GPU in this cluster; start Ray on a machine that has one")
        return
    for name, compiled in (("eager", False), ("compiled", True), ("graphs", "graphs")):
        findings.check(f"gpu bf16 {name}", lambda compiled=compiled: check_step(compiled))  # type: ignore[misc]
    for name, dropout in (("gpu training graphs", 0.0), ("gpu dropout graphs", 0.1)):
        findings.check(name, lambda dropout=dropout: check_training(dropout))  # type: ignore[misc]
    findings.check("gpu drawing compiled", check_drawing)
    findings.check("gpu halves", check_halves)
    findings.check("gpu placement", lambda: check_placement(int(gpus)))
    findings.check("gpu nccl", lambda: check_nccl(min(2, int(gpus))))


def check_step(compiled: Asked) -> str:
    """Training steps of a small net on one GPU."""
    found = _get([_remote(step_seconds, num_gpus=1).remote(compiled)])[0]
    if not math.isfinite(found["loss"]):
        raise Trouble(f"the loss of a step in bf16 is {found['loss']}; check driver and torch of that machine")
    return f"{1e3 * found['seconds']:.0f} ms a step of {found['batch']} images, {found['peak'] / 1e9:.2f} GB at most"


def step_seconds(compiled: Asked, device: str = "cuda", batch: int = 32) -> dict[str, float]:
    """Seconds and peak bytes of the step that training runs, at 32 px in bf16."""
    import torch

    from pipeline.called_nets import graphs_named
    from stages.checks.training import Steps, Way, stage_of

    steps, started, loss = Steps.of(stage_of(), Way(device, compiled, "bf16"), batch), 0.0, math.nan
    for done in range(1, 2 * STEPS + 1):
        with graphs_named():
            loss = float(steps.take()[0])
        _wait(device)
        if done == STEPS:
            started = time.monotonic()
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    return {"seconds": (time.monotonic() - started) / STEPS, "peak": peak, "loss": loss, "batch": batch}


def check_training(dropout: float) -> str:
    """Steps of a net whose kernels are launched as one, on one GPU: they must be those of the plain net."""
    compiling = 3 * PATIENCE  # of forward and backward passes for two shapes
    return told_of_training(_get([_remote(trained_both_ways, num_gpus=1).remote(dropout)], compiling)[0], dropout)


def told_of_training(difference: float, dropout: float = 0.0) -> str:
    """A line about what ``trained_both_ways`` found. Raises Trouble where that is more than rounding."""
    from stages.checks.training import ROUNDING, STEPS

    if not difference <= ROUNDING:
        raise Trouble(
            f"losses and gradient norms of a net {f'with dropout {dropout:g} ' if dropout else ''}that is launched as "
            f"CUDA graphs are off by up to "
            f"{difference:.3g} of themselves from those of the plain net; set resources.compile to true there, not to "
            "graphs, or try another torch"
        )
    return f"losses and gradients of {STEPS} steps are those of the plain net but for {difference:.1e} of themselves"


def trained_both_ways(dropout: float = 0.0, device: str = "cuda", micro_batch: int = 4) -> float:
    """By how much losses and gradient norms of the two differ at most, as a share of the plain net's.

    There are three micro-batches, of which the last is the smaller one. Not a number where one of them is none.
    """
    from pipeline.called_nets import graphs_named
    from pipeline.parts import settle
    from stages.checks.training import Way, apart, stage_of

    settle({"threads": 1})
    plain, graphs = (Way(device, compiled, micro_batch=micro_batch) for compiled in (False, "graphs"))
    with graphs_named():
        return apart(stage_of(dropout=dropout), graphs, plain, 3 * micro_batch - 1)


def check_drawing() -> str:
    """Images of a compiled net, whose kernels are launched as one, on one GPU: they must be those of the plain net."""
    return told_of_drawing(_get([_remote(drawn_both_ways, num_gpus=1).remote()])[0])


def told_of_drawing(found: Mapping[str, float]) -> str:
    """A line about what ``drawn_both_ways`` found. Raises Trouble where that is more than rounding."""
    from stages.checks.drawing import ROUNDING, STEPS

    if not found["difference"] <= ROUNDING:
        raise Trouble(
            f"images in [-1, 1] of a compiled net are off by up to {found['difference']:.3g} from those of the plain "
            "one; leave resources.compiled_sampling false there, or try another torch"
        )
    return (
        f"{1e3 * found['compiled']:.0f} ms a block of {found['block']} images in {STEPS} steps, "
        f"{1e3 * found['plain']:.0f} ms without; off by up to {found['difference']:.1e}"
    )


def drawn_both_ways(device: str = "cuda", block: int = 32) -> dict[str, float]:
    """Seconds that a second block takes, by a plain and a compiled net, and by how much the images differ at most."""
    from pipeline.parts import settle
    from stages.checks.drawing import drawn, largest
    from stages.checks.training import stage_of

    settle({"threads": 1})
    plain, launched = (drawn(stage_of(), device, compiled=compiled, block=block) for compiled in (False, True))
    difference = largest(launched, plain)
    return {"plain": plain.seconds, "compiled": launched.seconds, "difference": difference, "block": block}


def check_halves() -> str:
    """Two actors with half a GPU each, on one machine, must be on one GPU at the same time."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    first = _remote(Hand, num_gpus=0.5, num_cpus=0).remote()
    places = _get([first.call.remote(gpu_place)])
    there = NodeAffinitySchedulingStrategy(places[0].partition("/")[0], soft=False)
    second = _remote(Hand, num_gpus=0.5, num_cpus=0, scheduling_strategy=there).remote()
    places += _get([second.call.remote(gpu_place)])
    _end([first, second])
    if places[0] != places[1]:
        raise Trouble("two halves were placed on two GPUs; look at `ray status` for what is in use")
    return "two actors shared one GPU"


def check_placement(gpus: int) -> str:
    """As many actors as GPUs: each has one of its own."""
    actors = _actors(gpus, 1)
    places = _get([actor.call.remote(gpu_place) for actor in actors])
    _end(actors)
    if len(set(places)) != gpus:
        raise Trouble(f"{gpus} actors got {len(set(places))} GPUs; start Ray once on each machine, without --num-gpus")
    return f"{gpus} actors have {gpus} GPUs"


def check_nccl(world: int) -> str:
    """Add up numbers over ``world`` GPUs; over one, only that NCCL starts."""
    actors = _actors(world, 1)
    address = _get([actors[0].call.remote(free_address)])[0]
    found = _get([actor.call.remote(all_reduce, address, rank, world, "nccl") for rank, actor in enumerate(actors)])
    _end(actors)
    if any(one["sum"] != world * (world + 1) / 2 for one in found):
        raise Trouble(f"NCCL adds up to {[one['sum'] for one in found]}; try NCCL_P2P_DISABLE=1, and see its logs")
    speed = found[0]["bytes"] / found[0]["seconds"] / 1e9
    return f"{world} GPUs: {speed:.1f} GB/s" if world > 1 else "starts; one GPU has nobody to talk to"


def all_reduce(address: str, rank: int, world: int, backend: str) -> dict[str, float]:
    """Sum of rank + 1 over all, and how long it took for so many bytes."""
    import torch
    import torch.distributed as dist

    device = "cuda" if backend == "nccl" else "cpu"
    dist.init_process_group(backend, init_method=f"tcp://{address}", rank=rank, world_size=world)
    values = torch.full((ELEMENTS,), float(rank + 1), device=device)
    dist.all_reduce(values.clone())
    _wait(device)
    started = time.monotonic()
    dist.all_reduce(values)
    _wait(device)
    seconds = time.monotonic() - started
    dist.destroy_process_group()
    return {"sum": float(values[-1]), "seconds": seconds, "bytes": 4.0 * ELEMENTS}


def free_address() -> str:
    """A port of this node as others reach it."""
    import ray

    with socket.socket() as one:
        one.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{one.getsockname()[1]}"


def gpu_place() -> str:
    """The GPU of this actor, as nobody else's is called."""
    import ray

    return f"{ray.get_runtime_context().get_node_id()}/{ray.get_gpu_ids()}"


class Hand:
    """An actor that makes calls where it is placed."""

    def call(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)


def _actors(count: int, share: float) -> list[Any]:
    return [_remote(Hand, num_gpus=share, num_cpus=0).remote() for _ in range(count)]


def _remote(what: Any, **options: Any) -> Any:
    import ray

    return ray.remote(**options)(what)


def _get(references: list[Any], patience: float | None = None) -> list[Any]:
    import ray
    from ray.exceptions import RayTaskError

    patience = patience or PATIENCE
    _, left = ray.wait(references, num_returns=len(references), timeout=patience)
    if left:
        raise Trouble(f"no answer within {patience:.0f} s; `ray status` says whether its GPUs are in use")
    try:
        found: list[Any] = ray.get(references)
    except RayTaskError as error:  # whose first line names a process, not what is wrong
        raise (error.cause or error) from None
    return found


def _end(actors: list[Any]) -> None:
    import ray

    for actor in actors:
        ray.kill(actor)


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
