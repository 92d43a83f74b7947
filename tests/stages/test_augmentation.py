"""Conditioning augmentation: what it conserves and what it adds."""

from __future__ import annotations

import pytest
import torch

from stages.augmentation import gaussian_blur, noised_low_res


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_blur_conserves_the_mean_and_never_adds_contrast(kernel: int) -> None:
    images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blurred = gaussian_blur(images, torch.linspace(0.3, 3.0, 6, dtype=torch.float64), kernel)
    torch.testing.assert_close(blurred.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=1e-12)
    assert torch.all(blurred.var((2, 3)) < images.var((2, 3)))


def test_blur_of_width_zero_is_nothing_and_each_image_has_its_own_width() -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    blurred = gaussian_blur(images, torch.tensor([0.0, 1.0]), 3)
    torch.testing.assert_close(blurred[0], images[0])
    torch.testing.assert_close(blurred[1:], gaussian_blur(images[1:], torch.tensor([1.0]), 3))


def test_blur_of_a_point_is_the_kernel() -> None:
    point = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    point[..., 2, 2] = 1.0
    line = torch.exp(-0.5 * (torch.arange(-1, 2, dtype=torch.float64) / 0.5) ** 2)
    line = line / line.sum()
    found = gaussian_blur(point, torch.tensor([0.5], dtype=torch.float64), 3)[0, 0, 1:4, 1:4]
    torch.testing.assert_close(found, torch.outer(line, line))


def test_level_zero_leaves_the_image_bit_for_bit() -> None:
    images = torch.randn(2, 3, 4, 4)
    noised = noised_low_res(images, torch.randn(2, 3, 4, 4), torch.tensor([0.0, 0.5]), torch.tensor([15.0, 0.0]))
    assert torch.equal(noised[0], images[0])
    assert not torch.equal(noised[1], images[1])
