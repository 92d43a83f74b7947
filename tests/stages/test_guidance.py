"""Guidance and thresholding wrap a denoiser and give a denoiser."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.guidance import dynamic_threshold, guided, static_threshold, thresholded
from stages.stage import Denoiser, Prediction

NO_LABEL = 10


class ByLabel:
    """A denoiser whose x_hat and variance fraction are the label; it remembers how many images each call had."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(
        self, z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None, aug_logsnr: Tensor | None
    ) -> Prediction:
        assert low_res is None or len(low_res) == len(z)
        assert aug_logsnr is None or aug_logsnr.shape in ((), (len(z),))
        assert logsnr.shape in ((), (len(z),))
        self.batches.append(len(z))
        value = z + label.reshape(-1, 1, 1, 1)
        return Prediction(value, value)


def asked(denoiser: Denoiser, label: Tensor, logsnr: float = 0.0) -> Prediction:
    z, low_res = torch.zeros(len(label), 3, 2, 2), torch.zeros(len(label), 3, 1, 1)
    return denoiser(z, torch.tensor(logsnr), label=label, low_res=low_res, aug_logsnr=torch.zeros(len(label)))


def test_guidance_extrapolates_from_the_unlabelled_estimate() -> None:
    net, label = ByLabel(), torch.tensor([1.0, 3.0])
    found = asked(guided(net, 2.5, no_label=NO_LABEL, interval=None), label)
    torch.testing.assert_close(found.x_hat[:, 0, 0, 0], NO_LABEL + 2.5 * (label - NO_LABEL))
    assert found.variance_fraction is not None
    torch.testing.assert_close(found.variance_fraction[:, 0, 0, 0], label)  # of the conditional branch
    assert net.batches == [4]  # both halves in one call


def test_scale_one_is_no_guidance_at_all() -> None:
    net = ByLabel()
    assert guided(net, 1.0, no_label=NO_LABEL, interval=(-1.0, 1.0)) is net


def test_guidance_acts_inside_its_interval_and_outside_costs_nothing() -> None:
    net, label = ByLabel(), torch.tensor([1.0, 3.0])
    plain = asked(net, label)
    everywhere = asked(guided(net, 2.5, no_label=NO_LABEL, interval=None), label)
    inside = guided(net, 2.5, no_label=NO_LABEL, interval=(-1.0, 2.0))
    net.batches.clear()
    for logsnr, expected in ((-1.5, plain), (-1.0, everywhere), (1.9, everywhere), (2.0, plain), (15.0, plain)):
        assert torch.equal(asked(inside, label, logsnr).x_hat, expected.x_hat)
    assert net.batches == [2, 4, 4, 2, 2]


def test_static_thresholding_clips_and_none_does_nothing() -> None:
    net = ByLabel()
    assert thresholded(net, "none", percentile=0.5) is net
    found = asked(thresholded(net, "static", percentile=0.5), torch.tensor([-4.0, 0.5]))
    assert found.x_hat[:, 0, 0, 0].tolist() == [-1.0, 0.5]
    assert found.variance_fraction is not None
    assert found.variance_fraction[0].max() == -4.0  # the variance is no image


def test_dynamic_thresholding_divides_by_each_image_s_own_percentile() -> None:
    values = torch.linspace(-1.0, 1.0, 101).reshape(1, 1, 101, 1)  # |x_hat| evenly spread over [0, 1]
    images = torch.cat([0.5 * values, 4.0 * values])
    found = dynamic_threshold(images, 0.9)
    assert torch.equal(found[0], images[0])  # inside the range already: s = 1
    limit = 4.0 * 0.9
    torch.testing.assert_close(found[1], images[1].clamp(-limit, limit) / limit)
    assert (images[1].abs() <= limit).float().mean() >= 0.9 > (images[1].abs() < limit - 1e-3).float().mean()


def test_dynamic_thresholding_at_percentile_one_only_rescales() -> None:
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [0.2, 1.0, 9.0]
    ).reshape(3, 1, 1, 1)
    largest = images.abs().amax((1, 2, 3), keepdim=True).clamp_min(1.0)
    torch.testing.assert_close(dynamic_threshold(images, 1.0), images / largest)


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_an_image_is_thresholded_by_itself(kind: str) -> None:
    images = 3.0 * torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    rule = static_threshold if kind == "static" else lambda x: dynamic_threshold(x, 0.95)
    assert torch.equal(rule(images)[2:3], rule(images[2:3]))
