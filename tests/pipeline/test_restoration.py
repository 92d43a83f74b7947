"""Scores of super-resolution: closed forms, a re-computation window by window, and the graph node on known images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dag import Progress, Task
from pipeline.restoration import FIGURES, consistency, psnr, restored, score_restoration, ssim
from pipeline.storage import open_storage
from stages.images import downsample, to_float, to_uint8, upsample


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tanh(noise(*shape, seed=seed))


def test_psnr_of_a_constant_offset_is_the_closed_form() -> None:
    truth = to_float(torch.randint(0, 246, (3, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    found = psnr(truth + 2 * 9 / 255, truth)  # nine of 255 grey levels
    assert torch.allclose(found, torch.full((3,), 20 * math.log10(255 / 9), dtype=found.dtype), atol=1e-4)


def test_psnr_of_noise_of_known_variance() -> None:
    truth = images(4, 3, 128, 128)
    found = psnr(truth + 0.1 * noise(4, 3, 128, 128, seed=1), truth)  # in [0, 1] the variance is 0.05^2
    assert found.mean().item() == pytest.approx(-20 * math.log10(0.05), abs=0.02)


def test_equal_images_have_the_largest_psnr_that_8_bits_can_tell() -> None:
    truth = images(2, 3, 16, 16)
    assert psnr(truth, truth).tolist() == pytest.approx([10 * math.log10(12 * 255**2)] * 2)
    assert torch.isfinite(psnr(truth, truth)).all()


def test_ssim_is_one_for_the_image_itself_and_falls_with_noise() -> None:
    truth, disturbance = images(2, 3, 24, 20), noise(2, 3, 24, 20, seed=1)
    assert torch.allclose(ssim(truth, truth), torch.ones(2, dtype=torch.float64))
    falling = [ssim(truth + share * disturbance, truth).mean().item() for share in (0.0, 0.05, 0.2, 1.0)]
    assert falling == sorted(falling, reverse=True)
    assert torch.allclose(ssim(truth + disturbance, truth), ssim(truth, truth + disturbance))
    assert ssim(-truth, truth).mean() < 0  # as unlike as can be


def test_ssim_of_flat_images_is_its_luminance_term() -> None:
    grey = torch.full((1, 3, 12, 12), 0.2, dtype=torch.float64)  # 0.6 in [0, 1]
    light = torch.full((1, 3, 12, 12), 0.6, dtype=torch.float64)  # 0.8
    expected = (2 * 0.6 * 0.8 + 0.01**2) / (0.6**2 + 0.8**2 + 0.01**2)
    assert ssim(light, grey).item() == pytest.approx(expected, rel=1e-9)


def test_ssim_window_by_window() -> None:
    x, y = ((images(1, 2, 13, 12, seed=seed)[0].numpy() + 1) / 2 for seed in (0, 1))
    distance = np.arange(11) - 5
    window = np.exp(-(distance[:, None] ** 2 + distance[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()
    found = []
    for channel in range(2):
        for top in range(3):
            for left in range(2):
                a, b = (side[channel, top : top + 11, left : left + 11] for side in (x, y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                covariance = (window * (a - mean_a) * (b - mean_b)).sum()
                spread = (window * (a - mean_a) ** 2).sum() + (window * (b - mean_b) ** 2).sum()
                luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                found.append(luminance * (2 * covariance + 9e-4) / (spread + 9e-4))
    both = [torch.from_numpy(side * 2 - 1)[None] for side in (x, y)]
    assert ssim(*both).item() == pytest.approx(float(np.mean(found)), rel=1e-9)


def test_ssim_has_no_meaning_below_its_window() -> None:
    with pytest.raises(ValueError, match="window of 11 px, too large for images of 8 px"):
        ssim(images(1, 3, 8, 8), images(1, 3, 8, 8))


def test_consistency_asks_only_for_the_low_res_image() -> None:
    low_res = images(2, 3, 4, 4)
    faithful = upsample(low_res, 16, "nearest")
    assert consistency(faithful, low_res).max() < 1e-15
    detail = torch.ones(16, 16, dtype=torch.float64)
    detail[::2] = -1  # every pooled mean of it is zero
    assert consistency(faithful + 0.3 * detail, low_res).max() < 1e-15
    assert consistency(faithful + 0.3, low_res).tolist() == pytest.approx([0.15**2] * 2)


def drawn_images(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    coarse = torch.randint(0, 256, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    return to_float(to_uint8(upsample(to_float(coarse), size, "bicubic")))


def test_each_sample_is_compared_with_the_image_it_was_made_from() -> None:
    real = drawn_images(20, 32)
    low_res = downsample(real, 8)
    found = restored(real, real, low_res)
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(
        ("psnr", "ssim", "bicubic_psnr", "bicubic_ssim"), 20
    )
    assert found["psnr"] == pytest.approx(10 * math.log10(12 * 255**2))
    assert found["ssim"] == pytest.approx(1.0)
    bicubic = to_float(to_uint8(upsample(low_res, 32, "bicubic")))
    assert found["bicubic_psnr"] == pytest.approx(psnr(bicubic, real).numpy(), rel=1e-6)
    assert found["bicubic_ssim"] == pytest.approx(ssim(bicubic, real).numpy(), rel=1e-6)
    assert found["bicubic_psnr"].max() < 45
    moved = restored(real.roll(1, 0), real, low_res)
    assert moved["psnr"].max() < 30


def test_images_smaller_than_the_window_have_no_ssim() -> None:
    real = drawn_images(6, 8)
    assert set(restored(real, real, downsample(real, 4))) == {"psnr", "bicubic_psnr"}


def test_the_node_gives_the_means_of_what_was_measured_when_drawing(tmp_path: Path) -> None:
    stored = {
        "oracle/psnr": [20.0, 30.0],
        "oracle/bicubic_psnr": [19.0, 21.0],
        "oracle/consistency": [0.1, 0.3],
        "chained/consistency": [0.5, 0.7, 0.9],
    }
    for name, values in stored.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.array(values, dtype=np.float32))
    inputs = {role: tmp_path / role for role in ("oracle", "chained")}
    task = Task("restoration/sr", {}, inputs, tmp_path, {"threads": 1}, open_storage(tmp_path), Progress())
    found = score_restoration(task)
    assert set(found) == {"samples", *FIGURES}
    assert found["samples"] == 2
    assert (found["psnr"], found["bicubic_psnr"]) == (25.0, 20.0)
    assert found["consistency"] == pytest.approx(0.2)
    assert found["chained_consistency"] == pytest.approx(0.7)
    assert found["ssim"] is found["bicubic_ssim"] is None
