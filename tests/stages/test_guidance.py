"""Guidance and clipping wrap a denoiser and give a denoiser."""

from __future__ import annotations

import torch

from stages.guidance import clipped, guided
from stages.stage import Prediction


def by_label(
    z: torch.Tensor, logsnr: torch.Tensor, *, label: torch.Tensor, low_res: object, aug_logsnr: object
) -> Prediction:
    del logsnr, low_res, aug_logsnr
    return Prediction(
        torch.zeros_like(z) + label.reshape(-1, 1, 1, 1), torch.zeros_like(z) + label.reshape(-1, 1, 1, 1)
    )


def test_guidance_extrapolates_from_the_unlabelled_estimate() -> None:
    z, label = torch.zeros(2, 3, 2, 2), torch.tensor([1.0, 3.0])
    found = guided(by_label, 2.5, no_label=10)(z, torch.tensor(0.0), label=label, low_res=None, aug_logsnr=None)
    expected = 10 + 2.5 * (label - 10)
    torch.testing.assert_close(found.x_hat[:, 0, 0, 0], expected)
    assert found.variance_fraction is not None
    torch.testing.assert_close(found.variance_fraction[:, 0, 0, 0], label)  # of the conditional branch


def test_scale_one_is_no_guidance_at_all() -> None:
    assert guided(by_label, 1.0, no_label=10) is by_label


def test_clipping() -> None:
    z = torch.zeros(2, 3, 2, 2)
    found = clipped(by_label)(z, torch.tensor(0.0), label=torch.tensor([-4.0, 0.5]), low_res=None, aug_logsnr=None)
    assert found.x_hat[0].max() == -1
    assert found.x_hat[1].max() == 0.5
