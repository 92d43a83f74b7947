"""Operators of nets against their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from stages.layers import ResidualBlock, attend, double, group_norm, halve, modulated, sinusoid


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


def test_a_modulated_norm_is_the_norm_scaled_and_shifted_with_its_gradients() -> None:
    torch.manual_seed(0)
    norm = group_norm(16).double()
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    h = torch.randn(3, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    scale, shift = (torch.randn(3, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    inputs = [h, scale, shift, *norm.parameters()]
    plain = norm(h) * (1.0 + scale[:, :, None, None]) + shift[:, :, None, None]
    found = modulated(norm, h, scale, shift)
    torch.testing.assert_close(found, plain)
    weights = torch.randn_like(plain)
    expected = torch.autograd.grad((plain * weights).sum(), inputs)
    for mine, its in zip(torch.autograd.grad((found * weights).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_changes_of_resolution_are_those_of_torch(kind: torch.dtype) -> None:
    h = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.nn.functional.avg_pool2d(h.to(kind).double(), 2)
    tolerance = 2e-7 if kind == torch.float32 else 1e-2  # rounded twice
    torch.testing.assert_close(halve(h.to(kind)).double(), expected, rtol=tolerance, atol=tolerance)
    expected = torch.nn.functional.interpolate(h.to(kind), scale_factor=2, mode="nearest")
    assert torch.equal(double(h.to(kind)), expected)


def test_attention_among_few_tokens_in_bf16_is_about_as_exact_as_torch_s_own() -> None:
    qkv = torch.randn(2, 64, 3 * 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    q, k, v = qkv.unflatten(2, (3, 2, -1)).permute(2, 0, 3, 1, 4)

    def torch_s(*parts: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)

    exact = torch_s(q.double(), k.double(), v.double())
    mine, its = ((found.double() - exact).norm() / exact.norm() for found in (attend(qkv, 2), torch_s(q, k, v)))
    assert its < mine < 3 * its
    assert mine < 0.01
