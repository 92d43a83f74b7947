"""Wavelets invert to machine precision, keep the variance of white noise, and see what they should see."""

from __future__ import annotations

import pytest
import torch

from stages import wavelets
from stages.wavelets import Wavelet

both = pytest.mark.parametrize("wavelet", ["haar", "cdf53"])


@both
@pytest.mark.parametrize(
    ("levels", "height", "width"), [(1, 2, 2), (1, 6, 10), (2, 4, 12), (2, 20, 8), (3, 8, 24), (4, 32, 16)]
)
def test_inverts_to_machine_precision(wavelet: Wavelet, levels: int, height: int, width: int) -> None:
    images = torch.randn(3, 2, height, width, dtype=torch.float64)
    bands = wavelets.forward(images, wavelet, levels)
    assert bands.shape == (3, 2 * 4**levels, height // 2**levels, width // 2**levels)
    assert (wavelets.inverse(bands, wavelet, levels) - images).abs().max() < 1e-14
    again = wavelets.forward(wavelets.inverse(images.repeat(1, 4**levels, 1, 1), wavelet, levels), wavelet, levels)
    assert (again - images.repeat(1, 4**levels, 1, 1)).abs().max() < 1e-14 * 2**levels


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_haar_is_orthonormal(levels: int) -> None:
    pixels = torch.eye(16 * 16, dtype=torch.float64).reshape(256, 1, 16, 16)
    matrix = wavelets.forward(pixels, "haar", levels).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(256, dtype=torch.float64), rtol=0, atol=1e-14)


def row_norms(levels: int) -> torch.Tensor:
    """Root mean square that white noise has in each band of CDF 5/3, away from the borders: exact, no sampling."""
    side = 2**levels * 8
    pixels = torch.eye(side * side, dtype=torch.float64).reshape(-1, 1, side, side)
    bands = wavelets.forward(pixels, "cdf53", levels)  # (pixel, band, 8, 8)
    return bands[:, :, 4, 4].square().sum(dim=0).sqrt()


def test_cdf53_keeps_white_noise_near_unit_variance() -> None:
    torch.testing.assert_close(row_norms(1), torch.ones(4, dtype=torch.float64))
    assert row_norms(2).square().min() > 0.7
    assert row_norms(2).square().max() < 1.6


@both
def test_a_flat_image_is_all_in_the_lowest_band(wavelet: Wavelet) -> None:
    bands = wavelets.forward(torch.full((1, 1, 16, 16), 0.7, dtype=torch.float64), wavelet, 2)
    assert bands[:, 0].std() < 1e-15
    assert bands[:, 0].mean() > 0.7
    assert bands[:, 1:].abs().max() < 1e-15


def test_cdf53_does_not_see_slopes() -> None:
    """Two vanishing moments: straight ramps have no high band (away from the mirrored border). Haar sees them."""
    ramp = torch.arange(16, dtype=torch.float64).expand(1, 1, 16, 16)
    assert wavelets.forward(ramp, "cdf53", 1)[:, 1:, :, :-1].abs().max() < 1e-14
    assert wavelets.forward(ramp, "haar", 1)[:, 1:].abs().max() > 0.5


@both
def test_bands_are_coarse_to_fine(wavelet: Wavelet) -> None:
    checks = torch.ones(8, 8, dtype=torch.float64)
    checks[::2, 1::2] = checks[1::2, ::2] = -1.0
    bands = wavelets.forward(checks[None, None], wavelet, 2).abs().amax(dim=(0, 2, 3))
    assert bands[:4].max() < 1e-14, "the finest pattern leaves nothing for the second level"
    assert bands[4:].max() > 1.0


def test_a_side_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="divide by 4"):
        wavelets.forward(torch.zeros(1, 3, 8, 6), "haar", 2)
