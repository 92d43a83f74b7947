"""What plans know of GPUs and of the machines around them: figures of data sheets, with their sources and units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.errors import UserError

# Microseconds that a message takes from one GPU to the next, beside its bytes: what NCCL itself reckons with where it
# chooses an algorithm (`hwLat` in its src/graph/tuning.cc, rings, protocol Simple).
NVLINK_MICROSECONDS, PCIE_MICROSECONDS, NETWORK_MICROSECONDS = 3.4, 5.7, 14.0
PCIE_4 = 32.0  # GB/s each way, 16 lanes


@dataclass(frozen=True)
class Gpu:
    """What one GPU of a kind gives at most; GB are 10^9 bytes, links count one way (data sheets add up both)."""

    tflops: float  # dense bf16 matrix products, TFLOP/s
    memory: float  # GB/s of its own memory
    link: float  # GB/s to the other GPUs of its node: NVLink, else PCIe
    network: float  # Gbit/s of a whole node of eight, as AWS rents them

    @property
    def link_microseconds(self) -> float:
        """Of a message between two GPUs of a node."""
        return PCIE_MICROSECONDS if self.link == PCIE_4 else NVLINK_MICROSECONDS


# From NVIDIA's data sheets (SXM or the largest board of each name) and AWS's list of accelerated instances.
GPUS: Mapping[str, Gpu] = {
    "a100": Gpu(312.0, 2039.0, 300.0, 400.0),  # 80 GB; p4d.24xlarge
    "a10g": Gpu(70.0, 600.0, PCIE_4, 100.0),  # g5.48xlarge
    "b200": Gpu(2250.0, 8000.0, 900.0, 3200.0),  # p6-b200.48xlarge
    "h100": Gpu(989.0, 3350.0, 450.0, 3200.0),  # p5.48xlarge
    "h200": Gpu(989.0, 4800.0, 450.0, 3200.0),  # p5en.48xlarge
    "l4": Gpu(121.0, 300.0, PCIE_4, 100.0),  # g6.48xlarge
    "l40s": Gpu(362.0, 864.0, PCIE_4, 400.0),  # g6e.48xlarge
    "v100": Gpu(125.0, 900.0, 150.0, 100.0),  # fp16: it has no bf16; p3dn.24xlarge
}


@dataclass(frozen=True)
class Machine:
    """What the hours are reckoned for."""

    gpu: str
    utilisation: float  # share of the peak that training reaches, in (0, 1]

    def __post_init__(self) -> None:
        if self.gpu not in GPUS:
            raise UserError(f"--gpu {self.gpu}: known are {', '.join(GPUS)}")
        if not 0.0 < self.utilisation <= 1.0:
            raise UserError(f"--utilisation {self.utilisation:g} must be above 0 and at most 1, such as 0.4")

    def seconds(self, flops: float) -> float:
        """Time of one GPU for ``flops``."""
        return flops / (GPUS[self.gpu].tflops * 1e12 * self.utilisation)


@dataclass(frozen=True)
class Cluster:
    """How many GPUs a forecast is for, and what is around them."""

    gpus: tuple[int, ...]
    network_gbit: float | None = None  # of a node, each way; None: that of ``GPUS``
    gpus_per_node: int = 8
    read_mb: float = 1000.0  # MB/s of the data set that a node reads

    def __post_init__(self) -> None:
        if self.network_gbit is not None and not 0 < self.network_gbit < math.inf:
            raise UserError(f"--network-gbit {self.network_gbit:g} must be above 0: Gbit/s of a node, such as 400")
        if self.gpus_per_node < 1:
            raise UserError(f"--gpus-per-node {self.gpus_per_node} must be 1 or more, such as 8")
        if not 0 < self.read_mb < math.inf:
            raise UserError(f"--read-mb {self.read_mb:g} must be above 0: MB/s that a node reads, such as 1000")


def numbers_of_gpus(text: str) -> tuple[int, ...]:
    """What ``--gpus 8,64,512`` names, ascending, each once. Raises UserError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--gpus {text} must be numbers of GPUs from 1 with commas between them, such as 8,64,512")
    return tuple(sorted({int(part) for part in parts}))
