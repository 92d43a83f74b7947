"""Scores of super-resolution: closed forms, a re-computation window by window, and the graph node on known images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.dag import Progress, Task
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.restoration import FIGURES, consistency, psnr, score_restoration, ssim
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


def task_of(folder: Path, count: int, **sizes: int) -> Task:
    """A data set, perfect oracle samples, and chained ones that lie 0.1 above their faithful images."""
    ingest_drawn(folder / "data" / "shards", seed=0, forms=make_forms([(32, "png")]), train=4, val=40, shard_size=40)
    pixels, _ = Examples(folder / "data" / "shards", "val").read(np.arange(count))
    real = to_float(torch.from_numpy(pixels))
    low_res = images(count, 3, sizes["low_res_size"], sizes["low_res_size"]).float() / 2
    stored = {
        "oracle": downsample(real, sizes["size"]),
        "chained": upsample(low_res, sizes["size"], "nearest") + 0.1,
        "below": low_res,
    }
    for role, samples in stored.items():
        (folder / role).mkdir()
        np.save(folder / role / "images.npy", samples.numpy())
    inputs = {role: folder / role for role in (*stored, "data")}
    config = {"block": 16, **sizes}
    return Task("restoration/sr", config, inputs, folder, {"threads": 1}, open_storage(folder), Progress())


def test_the_node_compares_each_sample_with_the_image_it_was_made_from(tmp_path: Path) -> None:
    task = task_of(tmp_path, 20, size=32, low_res_size=8)
    found = score_restoration(task)
    assert set(found) == {"samples", *FIGURES}
    assert found["samples"] == 20
    assert found["psnr"] == pytest.approx(10 * math.log10(12 * 255**2))
    assert found["ssim"] == pytest.approx(1.0)
    assert found["consistency"] < 1e-12
    assert found["chained_consistency"] == pytest.approx(0.05**2, rel=1e-4)
    pixels, _ = Examples(tmp_path / "data" / "shards", "val").read(np.arange(20))
    real = to_float(torch.from_numpy(pixels))
    bicubic = to_float(to_uint8(upsample(downsample(real, 8), 32, "bicubic")))
    assert found["bicubic_psnr"] == pytest.approx(psnr(bicubic, real).mean().item())
    assert found["bicubic_ssim"] == pytest.approx(ssim(bicubic, real).mean().item())
    assert found["bicubic_psnr"] < 40
    assert found["bicubic_ssim"] < 0.99


def test_images_smaller_than_the_window_have_no_ssim(tmp_path: Path) -> None:
    found = score_restoration(task_of(tmp_path, 6, size=8, low_res_size=4))
    assert found["ssim"] is None
    assert found["bicubic_ssim"] is None
    assert found["psnr"] > 50
