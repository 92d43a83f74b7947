"""Images: ranges that invert, and what shrinking and enlarging conserve."""

from __future__ import annotations

import pytest
import torch

from stages.images import Upsampling, downsample, to_float, to_uint8, upsample

MODES: tuple[Upsampling, ...] = ("bilinear", "bicubic", "nearest")


def test_every_8_bit_value_survives_the_float_range() -> None:
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(1, 16, 16, 3)
    images = to_float(values)
    assert images.shape == (1, 3, 16, 16)
    assert (images.min(), images.max()) == (-1.0, 1.0)
    assert torch.equal(to_uint8(images), values)
    assert to_uint8(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2)).flatten().tolist() == [0, 255]


def test_shrinking_is_the_mean_of_blocks_in_any_number_of_steps() -> None:
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    small = downsample(images, 4)
    torch.testing.assert_close(small[0, 1, 2, 3], images[0, 1, 8:12, 12:16].mean())
    torch.testing.assert_close(downsample(downsample(images, 8), 4), small)
    assert downsample(images, 16) is images
    with pytest.raises(ValueError, match="16 px is not a multiple of 5 px"):
        downsample(images, 5)


@pytest.mark.parametrize("mode", MODES)
def test_enlarging_keeps_size_constants_and_a_mirrored_image_mirrored(mode: Upsampling) -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    large = upsample(images, 32, mode)
    assert large.shape == (2, 3, 32, 32)
    torch.testing.assert_close(upsample(images.flip(-1), 32, mode), large.flip(-1))
    torch.testing.assert_close(upsample(torch.full_like(images, 0.3), 32, mode), torch.full_like(large, 0.3))
    assert upsample(images, 8, mode) is images


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_enlarging_a_ramp_gives_the_ramp_at_half_pixel_centres(mode: Upsampling) -> None:
    ramp = torch.arange(8, dtype=torch.float64).expand(1, 1, 8, 8)
    expected = (torch.arange(32, dtype=torch.float64) + 0.5) / 4 - 0.5
    inside = slice(8, 24)  # away from the edges, which repeat
    tolerance = 1e-12 if mode == "bilinear" else 0.05  # torch has a = -0.75; a = -0.5 would be exact
    torch.testing.assert_close(upsample(ramp, 32, mode)[0, 0, 5, inside], expected[inside], rtol=0, atol=tolerance)


def test_bicubic_is_the_cubic_convolution_by_hand() -> None:
    images = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def weight(distance: float, a: float = -0.75) -> float:
        d = abs(distance)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0

    matrix = torch.zeros(12, 6, dtype=torch.float64)
    for i in range(12):
        place = (i + 0.5) / 2 - 0.5
        for j in range(-3, 9):
            matrix[i, min(max(j, 0), 5)] += weight(place - j)
    torch.testing.assert_close(upsample(images, 12, "bicubic")[0, 0], matrix @ images[0, 0] @ matrix.T)


def test_bicubic_is_sharper_than_bilinear() -> None:
    edge = torch.ones(1, 1, 8, 8)
    edge[..., :4] = -1.0
    slopes = {mode: upsample(edge, 32, mode).diff(dim=-1).max().item() for mode in MODES}
    assert slopes["bilinear"] < slopes["bicubic"] < slopes["nearest"]
    assert upsample(edge, 32, "bicubic").abs().max() > 1.0
