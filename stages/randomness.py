"""Keyed draws: every random number is a function of what it is for, never of who draws it or in which order.

The generator is Philox 4x32-10 (Salmon et al. 2011), a counter-based cipher: the key is a hash of
(seed, scope, purpose), the counter is (element block, position, step). ``position`` is the place in the global
batch when training and the index of the image when sampling. So two workers, a resumed run and a run cut
into different slices draw the same numbers, and nothing about randomness needs saving in a checkpoint.

Uniform draws are integers scaled by a power of two: equal bit for bit on every device. Normal draws add a
Box-Muller transform, whose logarithm and cosine may differ in the last place between a CPU and a GPU.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.compiling import MOST_VARIANTS

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int] | tuple[Tensor, Tensor]
) -> tuple[Tensor, ...]:
    """Philox 4x32-10: four int64 tensors holding 32-bit words, and two key words -> four 32-bit words.

    Products of two 32-bit words wrap in int64, which leaves their 64 bits right. The upper half of c1 and c3 is
    whatever is left of a product: they are only ever mixed in bit by bit, and the masks come after that.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) ^ c1 ^ k0) & _MASK,
            product1,
            ((product0 >> 32) ^ c3 ^ k1) & _MASK,
            product0,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1 & _MASK, c2, c3 & _MASK


def _words(positions: Tensor, step: int | Tensor, key: tuple[int, int] | tuple[Tensor, Tensor], count: int) -> Tensor:
    """What ``KeyedDraws.words`` returns; ``step`` and ``key`` are below 2^32."""
    blocks = torch.arange(-(-count // 4), device=positions.device).unsqueeze(0)
    index = positions.to(torch.int64).unsqueeze(1)
    zero = torch.zeros_like(blocks + index)
    counter = (zero + blocks, zero + (index & _MASK), zero + step, zero + (index >> 32))
    return torch.stack(philox(counter, key), dim=-1).flatten(1)[:, :count]


@functools.cache
def _compiled_words() -> Any:
    """``_words`` in one kernel or two instead of a hundred, for any number of positions and words."""
    compile_words: Any = torch.compile  # whose annotations know nothing of a limit
    return compile_words(_words, dynamic=True, recompile_limit=MOST_VARIANTS)


@dataclass(frozen=True)
class KeyedDraws:
    """The draws of one stage (``scope``) under one experiment ``seed``.

    Every method takes a ``purpose`` (what the numbers are for), a ``step`` (training step or sampler step) and
    ``positions`` (B,) int64 (place in the global batch, or image index), and returns float32 (B, *shape) on the
    device of ``positions``. ``fused`` has torch compile the cipher where they are on a GPU: the same numbers in few
    launches, of which it would wait for a hundred.
    """

    seed: int
    scope: str
    fused: bool = False

    def _key(self, purpose: str) -> tuple[int, int]:
        text = f"{self.seed}\x1f{self.scope}\x1f{purpose}".encode()
        digest = hashlib.blake2b(text, digest_size=8).digest()
        return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")

    def words(self, purpose: str, step: int, positions: Tensor, count: int) -> Tensor:
        """``count`` random 32-bit words per position: int64 (B, count) in [0, 2^32)."""
        key, step = self._key(purpose), step & _MASK
        if not (self.fused and positions.is_cuda):
            return _words(positions, step, key, count)
        # As tensors, or torch would compile it for every step anew; filled in place, so that nothing is waited for.
        values = [torch.full((), value, dtype=torch.int64, device=positions.device) for value in (step, *key)]
        words: Tensor = _compiled_words()(positions, values[0], (values[1], values[2]), count)
        return words

    def uniform(self, purpose: str, step: int, positions: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """Uniform on (0, 1), never exactly 0 or 1: (B, *shape)."""
        words = self.words(purpose, step, positions, math.prod(shape))
        # 23 bits and a half: exact in float32, symmetric about 1/2.
        return (((words >> 9).float() + 0.5) * 2.0**-23).reshape(-1, *shape)

    def normal(self, purpose: str, step: int, positions: Tensor, shape: Sequence[int] = ()) -> Tensor:
        """Standard normal: (B, *shape), by Box-Muller on pairs of words."""
        count = math.prod(shape)
        pairs = -(-count // 2)
        words = self.words(purpose, step, positions, 2 * pairs)
        # All 32 bits enter the radius, in float64, so that the tail reaches past 6 sigma.
        radius = torch.sqrt(-2.0 * torch.log((words[:, :pairs].double() + 0.5) * 2.0**-32)).float()
        angle = (words[:, pairs:] >> 8).float() * (2.0 * math.pi * 2.0**-24)
        both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
        return both[:, :count].reshape(-1, *shape)
