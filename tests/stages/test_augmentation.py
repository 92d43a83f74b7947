"""Conditioning augmentation: what it conserves and what it adds."""

from __future__ import annotations

import pytest
import torch

from stages.augmentation import gaussian_blur, noised_low_res
from stages.schedules import linear_beta_knots


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


@pytest.mark.parametrize("size", [1, 2, 3, 16])
def test_blur_conserves_the_mean_whatever_the_width_and_the_size(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, size, size, generator=generator, dtype=torch.float64)
    sigma = torch.tensor([1e-3, 0.4, 0.6, 50.0], dtype=torch.float64)
    blurred = gaussian_blur(images, sigma, 3)
    assert blurred.shape == images.shape
    torch.testing.assert_close(blurred.mean((2, 3)), images.mean((2, 3)), rtol=0, atol=1e-14)


def test_blur_leaves_a_constant_and_keeps_a_mirrored_image_mirrored() -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma = torch.tensor([0.4, 0.5, 0.6], dtype=torch.float64)
    blurred = gaussian_blur(images, sigma, 3)
    torch.testing.assert_close(gaussian_blur(images.flip(-1), sigma, 3), blurred.flip(-1))
    torch.testing.assert_close(gaussian_blur(images.mT, sigma, 3), blurred.mT)
    torch.testing.assert_close(gaussian_blur(torch.full_like(images, 0.7), sigma, 3), torch.full_like(images, 0.7))


def test_wider_blur_leaves_less_contrast() -> None:
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blurred = gaussian_blur(image.expand(5, -1, -1, -1), torch.linspace(0.2, 1.0, 5, dtype=torch.float64), 5)
    assert torch.all(blurred.var((1, 2, 3)).diff() < 0)


def test_noise_augmentation_is_the_forward_process_of_the_stage_below_at_each_level() -> None:
    generator = torch.Generator().manual_seed(0)
    images, eps = torch.randn(2, 4, 3, 8, 8, generator=generator)
    level, schedule = torch.tensor([0.0, 0.1, 0.4, 1.0]), linear_beta_knots(100, 1e-3, 0.2)
    noised = noised_low_res(images, eps, level, schedule(level))
    assert torch.equal(noised[0], images[0])
    for i in (1, 2, 3):
        logsnr = schedule(level[i])
        expected = torch.sigmoid(logsnr).sqrt() * images[i] + torch.sigmoid(-logsnr).sqrt() * eps[i]
        torch.testing.assert_close(noised[i], expected)


def test_blur_keeps_its_digits_under_autocast() -> None:
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    sigma = torch.full((4,), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        blurred = gaussian_blur(images, sigma, 3)
    assert torch.equal(blurred, gaussian_blur(images, sigma, 3))
