"""Colour and power spectra against closed forms: white noise, single waves, blur, Parseval's theorem."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.scoring.examination import (
    BANDS,
    HIGH,
    ROUNDING,
    band_weights,
    colour_drift,
    colour_means,
    colour_noise,
    frequencies,
    high_frequency_ratio,
    high_frequency_share,
    power_bands,
)
from stages.images import downsample, upsample


def noise(count: int, size: int, spread: float, seed: int = 0) -> Tensor:
    """White noise whose values in [0, 1] have the standard deviation ``spread``."""
    dice = torch.Generator().manual_seed(seed)
    return 2 * spread * torch.randn(count, 3, size, size, generator=dice)


def wave(size: int, cycles_per_pixel: float) -> Tensor:
    """A standing wave along x, one of the basis functions of the transform where 2 f S is whole."""
    row = torch.cos(2 * math.pi * cycles_per_pixel * (torch.arange(size) + 0.5))
    return row.expand(1, 3, size, size)


def test_the_mean_colour_of_an_image() -> None:
    images = torch.tensor([-1.0, 0.0, 0.5]).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    assert colour_means(images).tolist() == [[0.0, 0.5, 0.75]] * 2


def test_colour_drift_is_told_in_levels_of_8_bits() -> None:
    reference = np.random.default_rng(0).uniform(0.2, 0.6, (50, 3))
    assert colour_drift(reference, reference) == 0.0
    assert colour_drift(reference + 3 / 255, reference) == pytest.approx(3.0)
    assert colour_drift(reference + np.array([6, 0, 0]) / 255, reference) == pytest.approx(6 / math.sqrt(3))


def test_colour_noise_is_the_drift_that_chance_makes() -> None:
    dice = np.random.default_rng(1)
    drifts, told = [], []
    for _ in range(200):
        one, other = dice.normal(0.5, 0.1, (40, 3)), dice.normal(0.5, 0.1, (90, 3))
        drifts.append(colour_drift(one, other))
        told.append(colour_noise(one, other))
    assert np.sqrt(np.mean(np.square(drifts))) == pytest.approx(np.mean(told), rel=0.1)


@pytest.mark.parametrize("size", [8, 12, 16, 64, 256])
def test_white_noise_is_flat_and_equally_high_at_every_size(size: int) -> None:
    count = 10_000 // size
    found = power_bands(noise(count, size, 0.2)).double().mean(dim=0)
    draws = count * 3 * torch.from_numpy(band_weights(size))
    # The mean of n squares of a normal variable spreads by sqrt(2 / n); shared coefficients make bands a bit smoother.
    assert ((found / 0.2**2 - 1).abs() < 4 * (2 / draws).sqrt()).all()


@pytest.mark.parametrize("size", [8, 16, 31, 128])
def test_power_adds_up_to_the_variance_of_the_image(size: int) -> None:
    images = upsample(noise(5, max(4, size // 4), 0.1), size) + 0.3
    found = power_bands(images).double().numpy()
    variance = ((images.double() + 1) / 2).var(dim=(2, 3), unbiased=False).mean(dim=1)
    assert (found * band_weights(size)).sum(axis=1) / size**2 == pytest.approx(variance.numpy(), rel=1e-5)


@pytest.mark.parametrize("size", [8, 16, 1024])
def test_every_coefficient_but_the_mean_counts_once_and_no_band_is_empty(size: int) -> None:
    weights = band_weights(size)
    assert weights.sum() == pytest.approx(size**2 - 1, rel=1e-6)
    assert (weights > 0.1).all()
    assert frequencies(size)[[0, -1]].tolist() == pytest.approx([0.5 / size, 0.5])
    assert frequencies(size).shape == (BANDS,)


@pytest.mark.parametrize("size", [2, 4, 6])
def test_images_smaller_than_that_have_power_in_every_band(size: int) -> None:
    found = power_bands(noise(2000, size, 0.2)).mean(dim=0)
    assert found.tolist() == pytest.approx([0.04] * BANDS, rel=0.15)


@pytest.mark.parametrize("size", [16, 64, 256])
def test_a_wave_is_found_in_its_own_band(size: int) -> None:
    for cycles in (2 / size, 0.25, 0.375):
        found = power_bands(wave(size, cycles))[0].numpy() * band_weights(size)
        near = np.sort(np.argsort(np.abs(np.log(frequencies(size) / cycles)))[:2])
        assert found[near].sum() == pytest.approx(found.sum(), rel=1e-5)
        assert found.sum() / size**2 == pytest.approx(0.5 / 4, rel=1e-5)  # half its squared amplitude, in [0, 1]


def test_a_slope_is_no_detail() -> None:
    """Opposite edges of an image do not meet: the Fourier transform would find a step there."""
    slope = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    assert high_frequency_share(power_bands(slope), 64)[0] < 1e-4
    square = ((slope[0, 0, 0] + 1) / 2 - 0.5).numpy()
    fourier = np.abs(np.fft.fft(square)) ** 2
    assert fourier[16:49].sum() / fourier[1:].sum() > 1e-2


def test_blur_lowers_the_high_bands_alone() -> None:
    sharp = noise(20, 32, 0.1)
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, stride=1, padding=1, count_include_pad=False)
    before, after = (power_bands(images).mean(dim=0).numpy() for images in (sharp, blurred))
    assert after[0] == pytest.approx(before[0], rel=0.15)
    assert (after[frequencies(32) > HIGH] < 0.2 * before[frequencies(32) > HIGH]).all()
    assert high_frequency_ratio(after, before, 32) < 0.1
    assert high_frequency_ratio(2 * before, before, 32) == pytest.approx(2.0)
    assert high_frequency_share(after, 32) < 0.3 * high_frequency_share(before, 32)


def test_equal_cycles_per_image_compare_across_sizes() -> None:
    large = upsample(noise(50, 4, 0.3), 64, "bicubic")
    small = downsample(large, 16)
    spectra = {size: power_bands(images).mean(dim=0).numpy() for size, images in ((64, large), (16, small))}
    lowest = {size: spectra[size][0] / size**2 for size in spectra}  # variance that the lowest band's waves carry
    assert lowest[16] == pytest.approx(lowest[64], rel=0.05)


def test_flat_images_have_no_power_and_ratios_that_8_bits_can_tell() -> None:
    flat = power_bands(torch.zeros(1, 3, 16, 16))[0].numpy()
    assert flat.tolist() == [0.0] * BANDS
    assert high_frequency_share(flat, 16) == 0.0
    assert high_frequency_ratio(flat, flat, 16) == 1.0
    assert high_frequency_ratio(np.full(BANDS, 5 * ROUNDING), flat, 16) == pytest.approx(5.0)
