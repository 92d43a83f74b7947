"""Inception-v3 for scores: one pass gives the features of FID, the logits of the Inception score and those of sFID.

The net is that of ``pipeline.scoring.inception_blocks`` with the weights that torch-fidelity publishes, and it computes
what torch-fidelity's does (within 1e-6 of the largest value) in 0.6 of the CPU time. Four things make it so:

- the batch norm of a convolution is an affine map of its output, hence folded into its kernel and bias;
- memory is channels-last, which the convolutions of CPUs want;
- branches of a block that begin with a 1 x 1 convolution of the same input share one, whose output is then split. A
  mean over 3 x 3 before such a convolution commutes with it (means act on pixels, the convolution on channels, and the
  bias is its own mean), so it is taken after, of fewer channels;
- the resize is two matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.scoring.inception_blocks import (
    CONV_PARTS,
    FROM_SPATIAL,
    MEAN,
    SIZE,
    TO_SPATIAL,
    Conv,
    Fork,
    Pool,
    Step,
    Steps,
    state_shapes,
)

SPATIAL_CHANNELS = 7
_EPSILON = 1e-3  # of the batch norms
State = Mapping[str, Tensor]


class Activations(NamedTuple):
    """What one pass gives, float32: ``features`` (N, 2048), ``logits`` (N, 1008), ``spatial`` (N, 2023)."""

    features: Tensor
    logits: Tensor
    spatial: Tensor


class InceptionV3(nn.Module):
    """uint8 images (N, 3, h, w) of any size -> ``Activations``. ``state``: the tensors of a weights file.

    The images are resized to 299 px as TensorFlow 1 did it. ``logits`` leave out the bias of the last layer, as the
    Inception score of Salimans et al. 2016 did and torch-fidelity's does.

    ``spatial`` is what sFID (Nash et al. 2021) reads in ADM's evaluation (Dhariwal and Nichol 2021): channels 0 to 6 at
    each of 17 x 17 places of the tensor "mixed_6/conv:0" of TensorFlow's graph, flattened in the order (row, column,
    channel). That is the 1 x 1 branch of Mixed_6d (not of Mixed_6b: TensorFlow counts from "mixed", which is Mixed_5b)
    after batch norm and ReLU, so the first channels of that block. How sure: a published table that converts these
    weights maps mixed_6/conv to Mixed_6d.branch1x1, the branch has the 192 channels; the graph lists the operations of
    a layer as conv/Conv2D, conv/batchnorm, conv/CheckNumerics, conv/control_dependency, conv, and the one without a
    suffix, which comes after the batch norm, can only be the ReLU. No run of TensorFlow was compared.

    ``dtype`` is that of the convolutions. bfloat16 is faster and off by 4e-3: for a look, not for a reported score.
    """

    def __init__(self, state: State, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype
        self.to_spatial = _sequence(TO_SPATIAL, "", state, dtype)
        self.from_spatial = _sequence(FROM_SPATIAL, "", state, dtype)
        self.classes = nn.Buffer(state["fc.weight"].float())

    def forward(self, images: Tensor) -> Activations:
        h = resized(images).to(dtype=self.dtype, memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # 10 bits of mantissa are not float32
            h = self.to_spatial(h)
            spatial = h[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
            features = self.from_spatial(h).float().mean(dim=(2, 3))
        return Activations(features, features @ self.classes.T, spatial.float())


def resized(images: Tensor) -> Tensor:
    """uint8 (N, 3, h, w) -> float32 (N, 3, 299, 299) in [-1, 1): bilinear as in TensorFlow 1, (x - 128) / 128."""
    rows, columns = (_interpolation(size, images.device) for size in images.shape[2:])
    return rows @ ((images.float() - 128) / 128) @ columns.T


def _interpolation(size: int, device: torch.device) -> Tensor:
    """(299, size), rows of which weigh the two pixels around i * size / 299: corners aligned, not centres."""
    at = torch.arange(SIZE, device=device) * torch.tensor(size / SIZE, dtype=torch.float32, device=device)
    low = at.long()
    share = at - low
    weights = torch.zeros(SIZE, size, device=device)
    weights.scatter_add_(1, low[:, None], 1 - share[:, None])
    weights.scatter_add_(1, (low + 1).clamp_max(size - 1)[:, None], share[:, None])
    return weights


def _sequence(steps: Steps, prefix: str, state: State, dtype: torch.dtype) -> nn.Sequential:
    return nn.Sequential(*(_module(step, prefix, state, dtype) for step in steps))


def _module(step: Step, prefix: str, state: State, dtype: torch.dtype) -> nn.Module:
    if isinstance(step, Conv):
        return _Convolution([step], prefix, state, dtype)
    if isinstance(step, Fork):
        return _Fork(step, prefix, state, dtype)
    return _Pooling(step)


class _Pooling(nn.Module):
    def __init__(self, pool: Pool) -> None:
        super().__init__()
        self.pool, self.padding = pool, 1 if pool.stride == 1 else 0

    def forward(self, h: Tensor) -> Tensor:
        if self.pool.kind == "max":
            return F.max_pool2d(h, 3, self.pool.stride, self.padding)
        return F.avg_pool2d(h, 3, self.pool.stride, self.padding, count_include_pad=False)


class _Convolution(nn.Module):
    """Convolutions of one shape that read the same input, as one; batch norms folded in, ReLU unless ``linear``."""

    def __init__(
        self, convs: list[Conv], prefix: str, state: State, dtype: torch.dtype, *, linear: bool = False
    ) -> None:
        super().__init__()
        folded = [_folded(state, prefix + conv.name) for conv in convs]
        kernel, bias = (torch.cat(parts) for parts in zip(*folded, strict=True))
        self.kernel = nn.Buffer(kernel.to(dtype=dtype, memory_format=torch.channels_last))
        self.bias = nn.Buffer(bias.to(dtype))
        height, width = convs[0].kernel
        self.stride, self.linear = convs[0].stride, linear
        self.padding = (height // 2, width // 2) if convs[0].padded else (0, 0)

    def forward(self, h: Tensor) -> Tensor:
        h = F.conv2d(h, self.kernel, self.bias, self.stride, self.padding)
        return h if self.linear else h.relu_()


def _folded(state: State, name: str) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution and its batch norm, (x - mean) / sqrt(variance + epsilon) scale + shift."""
    part = {word: state[f"{name}.{key}"].double() for word, key in CONV_PARTS.items()}
    slope = part["scale"] / (part["variance"] + _EPSILON).sqrt()
    kernel = state[f"{name}.conv.weight"].double() * slope[:, None, None, None]
    return kernel.float(), (part["shift"] - part["mean"] * slope).float()


class _Fork(nn.Module):
    """Branches side by side; those that begin with a 1 x 1 convolution, pooled to a mean or not, share one."""

    def __init__(self, fork: Fork, prefix: str, state: State, dtype: torch.dtype) -> None:
        super().__init__()
        within = f"{prefix}{fork.name}." if fork.name else prefix
        shared: list[Conv] = []
        self.pooled: list[bool | None] = []  # of each branch: None where it has no share
        rests = []
        for branch in fork.branches:
            pooled = branch[0] == MEAN
            first, *rest = branch[1:] if pooled else branch
            if isinstance(first, Conv) and first.kernel == (1, 1):
                shared.append(first)
                self.pooled.append(pooled)
            else:
                rest = list(branch)
                self.pooled.append(None)
            rests.append(_sequence(tuple(rest), within, state, dtype))
        self.rests = nn.ModuleList(rests)
        self.widths = [conv.width for conv in shared]
        self.shared = _Convolution(shared, within, state, dtype, linear=True) if shared else None

    def forward(self, h: Tensor) -> Tensor:
        shares = iter(self.shared(h).split(self.widths, dim=1) if self.shared else ())
        outputs = []
        for rest, pooled in zip(self.rests, self.pooled, strict=True):
            if pooled is None:
                outputs.append(rest(h))
                continue
            share = next(shares)
            share = F.avg_pool2d(share, 3, 1, 1, count_include_pad=False) if pooled else share
            outputs.append(rest(share.relu_()))
        return torch.cat(outputs, dim=1)


def random_weights(seed: int) -> dict[str, Tensor]:
    """Tensors in the format of the weights file, drawn so that activations keep their scale; they recognise nothing."""
    dice = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in state_shapes().items():
        noise = torch.randn(shape, generator=dice)
        if name.endswith(".conv.weight"):
            state[name] = noise * (2 / (shape[1] * shape[2] * shape[3])) ** 0.5
        elif name == "fc.weight":
            state[name] = noise / shape[1] ** 0.5
        elif name.endswith(("bn.weight", "bn.running_var")):
            state[name] = torch.exp(0.2 * noise)
        else:
            state[name] = 0.1 * noise
    return state
