"""The time of one training step on N GPUs that share a global batch (strong scaling): a model, no measurement.

With S the images of the largest share, P parameters, F training FLOPs per image and b = 4 P bytes of gradients:

- compute = l (S F / f + o), where f is the FLOP/s that training reaches, l what the loop around the step adds, and
  o = 2 (5 + averages) 4 P / m the optimizer: weights, gradients, two moments and averages in float32, each read and
  written once at the m bytes/s of the GPU's memory. Nothing is added for launching kernels.
- all-reduce of b bytes in k = ceil(b / 25 MiB) buckets, each way over links of w bytes/s, w being that of the slower of
  a GPU's link and a node's network where there are several nodes (all rings of a node share its network). The faster of
  ring: 2 (N - 1) / N b / w + k (2 (N - 1 - n) link + 2 n network), n of the N - 1 hops being between nodes;
  tree: 2 b / w + 2 k ((G - 1) link + log2(nodes) network), G GPUs of a node: what NCCL turns to among many.
- exposed = r - h min(r, backward) + last: the last bucket waits for the end of the backward pass, of the rest r the
  share h (1: as DistributedDataParallel means to) runs beside it. backward = 2/3 of the FLOPs of the last micro-batch:
  those before it exchange nothing.
- data = max(bytes that a node reads / its rate, images of a share / what its worker's processes decode in a second). It
  is read ahead, so step = max(compute + exposed, data); where the worker itself decodes, they add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

BUCKET_BYTES = 25 * 2**20  # torch's DistributedDataParallel
NUMBER_BYTES = 4  # float32
BACKWARD_SHARE = 2 / 3  # of a step's FLOPs


@dataclass(frozen=True)
class Rates:
    """What machines give. Bytes per second and seconds; bandwidths one way."""

    flops: float  # FLOP/s that training reaches on one GPU
    memory: float  # of one GPU
    link: float  # between GPUs of a node
    network: float  # of a node
    read: float  # of the data set, by a node
    gpus_per_node: int
    link_seconds: float  # of a message, beside its bytes
    network_seconds: float
    loop: float = 1.0  # time of a step in the loop over that of the bare step, at least 1
    hidden: float = 1.0  # share of what could run beside the backward pass that does, in [0, 1]


@dataclass(frozen=True)
class Load:
    """What one stage's training asks of them."""

    flops: float  # per image, forward and backward
    parameters: int
    batch: int  # the global one
    micro_batch: int | None = None
    averages: int = 0  # beside the EMA
    image_bytes: float = 0.0  # as read
    decoded: float = math.inf  # images per second, by the processes of one worker
    ahead: bool = True  # whether there are such processes; without, a step waits for what its worker decodes

    @property
    def gradient_bytes(self) -> int:
        return NUMBER_BYTES * self.parameters

    @property
    def most_gpus(self) -> int:
        """How many can share a batch: a GPU works on whole micro-batches, without them on whole images."""
        return -(-self.batch // (self.micro_batch or 1))


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step on ``gpus`` GPUs, and what follows."""

    gpus: int
    share: int  # images of a GPU, the largest share
    compute: float  # with the optimizer and the loop
    optimizer: float
    all_reduce: float  # if it were alone
    exposed: float  # what of it the step waits for
    data: float
    step: float
    bound: Literal["compute", "all-reduce", "data"]  # the greatest part of what the step waits for


def step_time(load: Load, rates: Rates, gpus: int) -> StepTime:
    """The forecast for ``gpus`` in 1 to ``load.most_gpus``."""
    assert 1 <= gpus <= load.most_gpus, f"{gpus} of at most {load.most_gpus}"
    share = largest_share(load, gpus)
    optimizer = optimizer_bytes(load) / rates.memory
    compute = rates.loop * (share * load.flops / rates.flops + optimizer)
    exposed, data = exposed_seconds(load, rates, gpus), data_seconds(load, rates, gpus)
    busy = compute + exposed
    most = busy if load.ahead else max(compute, exposed)  # data beyond this is what bounds the step
    return StepTime(
        gpus=gpus,
        share=share,
        compute=compute,
        optimizer=optimizer,
        all_reduce=all_reduce_seconds(load.gradient_bytes, rates, gpus),
        exposed=exposed,
        data=data,
        step=max(busy, data) if load.ahead else busy + data,
        bound="data" if data > most else "all-reduce" if exposed > compute else "compute",
    )


def efficiency(load: Load, rates: Rates, gpus: int) -> float:
    """Images per second over ``gpus`` times those of one GPU, in (0, 1], whether or not one could hold the batch."""
    return step_time(load, rates, 1).step / (gpus * step_time(load, rates, gpus).step)


def largest_share(load: Load, gpus: int) -> int:
    """Images of a step on the GPU that has most: whole micro-batches, evenly dealt."""
    return min(load.batch, -(-load.most_gpus // gpus) * (load.micro_batch or 1))


def optimizer_bytes(load: Load) -> int:
    """Read and written after the backward pass: weights, gradients, two moments, the EMA and other averages."""
    return 2 * NUMBER_BYTES * (5 + load.averages) * load.parameters


def bytes_sent(gradient_bytes: float, gpus: int) -> float:
    """By each GPU in a ring: every number twice around it but for the own part."""
    return 2 * (gpus - 1) / gpus * gradient_bytes


def all_reduce_seconds(gradient_bytes: float, rates: Rates, gpus: int) -> float:
    """Of all buckets, one after another; nothing for one GPU."""
    if gpus == 1:
        return 0.0
    nodes, local = -(-gpus // rates.gpus_per_node), min(gpus, rates.gpus_per_node)
    crossings = min(nodes, gpus - 1) if nodes > 1 else 0
    bandwidth = min(rates.link, rates.network) if nodes > 1 else rates.link
    buckets = math.ceil(gradient_bytes / BUCKET_BYTES)
    around = 2 * (gpus - 1 - crossings) * rates.link_seconds + 2 * crossings * rates.network_seconds
    down = 2 * (local - 1) * rates.link_seconds + 2 * math.log2(nodes) * rates.network_seconds
    ring = bytes_sent(gradient_bytes, gpus) / bandwidth + buckets * around
    tree = 2 * gradient_bytes / bandwidth + buckets * down
    return min(ring, tree)


def exposed_seconds(load: Load, rates: Rates, gpus: int) -> float:
    """What a step waits for the exchange of gradients."""
    last = all_reduce_seconds(min(load.gradient_bytes, BUCKET_BYTES), rates, gpus)
    rest = all_reduce_seconds(load.gradient_bytes, rates, gpus) - last
    piece = min(load.micro_batch or load.batch, largest_share(load, gpus))
    backward = BACKWARD_SHARE * piece * load.flops / rates.flops
    return rest - rates.hidden * min(rest, backward) + last


def data_seconds(load: Load, rates: Rates, gpus: int) -> float:
    """To read and to decode the images of a step, which happen side by side."""
    share = largest_share(load, gpus)
    on_a_node = min(share * min(gpus, rates.gpus_per_node), load.batch)
    return max(on_a_node * load.image_bytes / rates.read, share / load.decoded)
