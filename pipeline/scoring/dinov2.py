"""DINOv2's vision transformers (Oquab et al. 2023, arXiv:2304.07193), to take features with. No training here.

torch-fidelity has this extractor, but gets the net by running code that torch.hub downloads, and takes no weights file.
So the net is written here: it reads the files that Meta publishes ("backbone only", without registers), and nothing is
downloaded. Resize and normalisation stay torch-fidelity's: ``pipeline.scoring.registered``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 14  # px
TRAINED_GRID = 37  # patches along a side of the images of the last phase of training, 518 px
HEAD_WIDTH = 64
_OFFSET = 0.1  # patches: what the positions were interpolated with ever since, so part of the features


class Geometry(NamedTuple):
    """Width of the tokens, number of blocks, and whether the second half of a block is gated (SwiGLU)."""

    width: int
    depth: int
    gated: bool = False


MODELS: Mapping[str, Geometry] = {
    "dinov2-vit-s-14": Geometry(384, 12),
    "dinov2-vit-b-14": Geometry(768, 12),
    "dinov2-vit-l-14": Geometry(1024, 24),
    "dinov2-vit-g-14": Geometry(1536, 40, gated=True),
}


class DinoV2(nn.Module):
    """Normalised images (N, 3, h, w), multiples of 14 px -> the class token after the last norm, (N, width).

    The names of its parameters are those of the published files. ``mask_token`` is read and never used.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        width = geometry.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_GRID**2, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList([_Block(width, gated=geometry.gated) for _ in range(geometry.depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels)  # (N, D, h / 14, w / 14)
        patches = (patches + self._positions(patches.shape[2], patches.shape[3])).flatten(2).transpose(1, 2)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(pixels), -1, -1)
        h = torch.cat((first, patches), dim=1)
        for block in self.blocks:
            h = block(h)
        return self.norm(h[:, 0])

    def _positions(self, rows: int, columns: int) -> Tensor:
        """(1, D, rows, columns): the trained positions, bicubically resized unless the grid is the trained one."""
        trained = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (TRAINED_GRID, TRAINED_GRID))
        if (rows, columns) == (TRAINED_GRID, TRAINED_GRID):
            return trained
        scale = ((rows + _OFFSET) / TRAINED_GRID, (columns + _OFFSET) / TRAINED_GRID)
        return F.interpolate(trained, scale_factor=scale, mode="bicubic")


class _Block(nn.Module):
    """Attention, then two layers on each token; both are normalised before, scaled after and added."""

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = _Gated(width) if gated else _Plain(width)
        self.ls1, self.ls2 = (nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))}) for _ in range(2))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.ls1["gamma"] * self._attention(self.norm1(h))
        return h + self.ls2["gamma"] * self.mlp(self.norm2(h))

    def _attention(self, h: Tensor) -> Tensor:
        split = self.attn["qkv"](h).unflatten(2, (3, -1, HEAD_WIDTH))  # (N, T, 3, heads, 64)
        query, key, value = split.permute(2, 0, 3, 1, 4)  # each (N, heads, T, 64)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.attn["proj"](seen.transpose(1, 2).flatten(2))


class _Plain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(h)))


class _Gated(nn.Module):
    """w3(silu(a) b) with a, b from w12; two thirds as wide as the plain one, rounded up to a multiple of 8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = (4 * width * 2 // 3 + 7) // 8 * 8
        self.w12, self.w3 = nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, h: Tensor) -> Tensor:
        gate, value = self.w12(h).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


def state_shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of the weights file of ``model``, one of ``MODELS``."""
    with torch.device("meta"):
        net = DinoV2(MODELS[model])
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def load_dino(model: str, state: Mapping[str, Tensor]) -> DinoV2:
    """The net ``model`` with the tensors of its weights file, for use alone: no gradients."""
    with torch.device("meta"):
        net = DinoV2(MODELS[model])
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


def random_weights(model: str, seed: int) -> dict[str, Tensor]:
    """Tensors in the format of the weights file, drawn so that activations keep their scale; they recognise nothing."""
    dice = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in state_shapes(model).items():
        noise = torch.randn(shape, generator=dice)
        if name.endswith("gamma") or ("norm" in name and name.endswith("weight")):
            state[name] = torch.exp(0.2 * noise)
        elif name.endswith("weight"):
            state[name] = noise / (noise[0].numel()) ** 0.5
        else:
            state[name] = 0.1 * noise
    return state
