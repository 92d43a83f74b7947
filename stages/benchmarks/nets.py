"""The nets that are measured, by name: what production trains, small and large, and what others can be held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.specs import StageSpec


@dataclass(frozen=True)
class Case:
    """A stage, and how many images a step takes on a CPU and on a GPU."""

    about: str
    stage: StageSpec
    batch: int
    gpu_batch: int


def _case(about: str, batch: int, gpu_batch: int, *, size: int, classes: int, **stage: Any) -> Case:
    spec = {"name": "measured", "size": size, "classes": classes, "prediction": "eps", "loss": {"space": "eps"}}
    if "low_res_size" in stage:
        stage = {"low_res_schedule": {"kind": "cosine"}, "augmentation": {"noise": {"levels": [0.0, 0.4]}}, **stage}
    return Case(about, StageSpec.model_validate({**spec, **stage}), batch, gpu_batch)


_SMALL = {"kind": "adm", "channels": 64, "multipliers": [1, 2, 2], "blocks": 2, "attention": [16, 8], "head_width": 64}
_ADM64 = {
    "kind": "adm",
    "channels": 192,
    "multipliers": [1, 2, 3, 4],
    "blocks": 3,
    "attention": [32, 16, 8],
    "head_width": 64,
    "dropout": 0.1,
}
_DEMO = {"kind": "unet", "channels": 48, "multipliers": [1, 2], "blocks": 1, "attention": [4]}
_UVIT = {
    "kind": "uvit",
    "channels": 128,
    "multipliers": [1, 2, 8],
    "blocks": 2,
    "depth": 16,
    "head_width": 128,
    "embedding": 1024,
}

CASES: Mapping[str, Case] = {
    "small": _case("ADM's U-Net, 64 channels, 32 px", 16, 256, size=32, classes=1000, net=_SMALL),
    "small_sr": _case("the same, 16 -> 32 px", 16, 256, size=32, low_res_size=16, classes=1000, net=_SMALL),
    "adm64": _case("ADM's net of 64 px", 1, 128, size=64, classes=1000, net=_ADM64),
    "demo": _case("the demo's base stage, 8 px", 64, 64, size=8, classes=10, net=_DEMO),
    "cifar10": _case("CIFAR-10's base stage, 8 px", 64, 64, size=8, classes=10, net={**_DEMO, "channels": 64}),
    "uvit": _case("a U-ViT of 16 blocks at 16 x 16, 64 px", 2, 128, size=64, classes=1000, net=_UVIT),
}
