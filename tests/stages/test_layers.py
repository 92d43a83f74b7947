"""Operators of nets against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from stages.layers import ResidualBlock, attend, double, group_norm, halve, sinusoid


def test_sinusoid_does_not_rescale_its_input() -> None:
    got = sinusoid(torch.tensor([0.0, 700.0]), 6)
    rates = [10_000 ** (-i / 3) for i in range(3)]
    expected = [math.cos(700 * r) for r in rates] + [math.sin(700 * r) for r in rates]
    torch.testing.assert_close(got, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0], expected]), atol=1e-4, rtol=0)


def test_attend_is_softmax_of_products_in_the_order_qkv_head_channel() -> None:
    qkv = torch.randn(2, 5, 3 * 6, dtype=torch.float64)
    got = attend(qkv, 2)
    for head in range(2):
        q, k, v = (qkv[..., 6 * part + 3 * head : 6 * part + 3 * head + 3] for part in range(3))
        expected = torch.softmax(q @ k.mT / math.sqrt(3), dim=-1) @ v
        torch.testing.assert_close(got[..., 3 * head : 3 * head + 3], expected)


@pytest.mark.parametrize("resample", [halve, double, None])
@pytest.mark.parametrize("modulation", ["scale_shift", "add"])
def test_a_fresh_residual_block_only_resamples(resample: object, modulation: str) -> None:
    block = ResidualBlock(8, 8, embedding=16, dropout=0.0, modulation=modulation, resample=resample)  # type: ignore[arg-type]
    h = torch.randn(2, 8, 4, 6)
    expected = h if resample is None else resample(h)  # type: ignore[operator]
    assert torch.equal(block(h, torch.randn(2, 16)), expected)


def test_halving_undoes_doubling() -> None:
    h = torch.randn(2, 3, 4, 4)
    assert torch.equal(halve(double(h)), h)


@pytest.mark.parametrize(("channels", "groups"), [(8, 2), (48, 12), (128, 32), (192, 32), (960, 32), (7, 1), (3, 1)])
def test_groups_of_a_norm(channels: int, groups: int) -> None:
    assert group_norm(channels).num_groups == groups
