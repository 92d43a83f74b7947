"""A stage: the parts of one rung joined. It trains alone on real images (see the package's docstring)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from stages import images as im
from stages.augmentation import gaussian_blur, noised_low_res
from stages.losses import regression_loss
from stages.process import diffuse, x_from
from stages.randomness import KeyedDraws
from stages.schedules import Schedule, build_schedule
from stages.specs import StageSpec
from stages.unet import UNet

Net = Callable[..., Tensor]


@dataclass(frozen=True)
class Prediction:
    """What a denoiser gives: the estimate of the clean image, and of the variance where the net learns it."""

    x_hat: Tensor  # (B, C, H, W)
    variance_fraction: Tensor | None = None  # (B, C, H, W) in [0, 1], between the two fixed variances


class Denoiser(Protocol):
    """The one contract between nets and samplers."""

    def __call__(
        self, z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None, aug_logsnr: Tensor | None
    ) -> Prediction: ...


@dataclass(frozen=True)
class LowRes:
    """A conditioning image at its own size (B, C, h, w) and the log-SNR (B,) it was noised to."""

    image: Tensor
    aug_logsnr: Tensor


@dataclass(frozen=True)
class Stage:
    """One rung of a cascade: its description and the two schedules that give its numbers a meaning."""

    spec: StageSpec
    schedule: Schedule
    low_res_schedule: Schedule | None

    @classmethod
    def build(cls, spec: StageSpec) -> Stage:
        low = None if spec.low_res_schedule is None else build_schedule(spec.low_res_schedule)
        return cls(spec, build_schedule(spec.schedule), low)

    def build_net(self, seed: int) -> UNet:
        """A freshly initialised net. Its weights are a function of ``seed`` and the stage's name alone."""
        net, size = self.spec.net, self.spec.size
        sizes = net.feature_sizes(size)
        with torch.random.fork_rng(devices=[]):
            key = KeyedDraws(seed, self.spec.name).words("initial weights", 0, torch.zeros(1, dtype=torch.int64), 2)
            torch.manual_seed(int(key[0, 0]) << 31 ^ int(key[0, 1]))
            return UNet(
                3 if self.spec.is_base else 6,
                3,
                classes=self.spec.classes,
                channels=net.channels,
                multipliers=net.multipliers,
                blocks=net.blocks_per_level,
                attention=[level for level, side in enumerate(sizes) if side in net.attention],
                head_width=net.head_width,
                dropout=net.dropout,
                patch=net.patch,
                levels_embedded=not self.spec.is_base,
            )

    def evaluate_net(self, net: Net, z: Tensor, logsnr: Tensor, label: Tensor, low_res: LowRes | None) -> Tensor:
        """Raw output of ``net`` at ``z`` (B, C, H, W): upsamples and concatenates the low-res image."""
        if low_res is None:
            return net(z, logsnr, label)
        condition = im.upsample(low_res.image, self.spec.size, self.spec.upsampling)
        return net(torch.cat([z, condition], dim=1), logsnr, label, low_res.aug_logsnr)

    def denoiser(self, net: Net) -> Denoiser:
        """``net`` as a denoiser; ``logsnr`` may be () or (B,)."""

        def denoise(
            z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None = None, aug_logsnr: Tensor | None = None
        ) -> Prediction:
            logsnr = logsnr.to(z.dtype).expand(len(z))
            condition = None
            if low_res is not None:
                assert aug_logsnr is not None, "a low-res image comes with its aug_logsnr"
                condition = LowRes(low_res, aug_logsnr.to(z.dtype).expand(len(z)))
            output = self.evaluate_net(net, z, logsnr, label, condition)
            return Prediction(x_from(self.spec.prediction, output.float(), z, logsnr))

        return denoise

    def low_res_for(self, image: Tensor, level: Tensor, eps: Tensor) -> LowRes:
        """A low-res image (B, C, h, w) noised to augmentation levels s (B,) by ``eps``, as the net expects it."""
        assert self.low_res_schedule is not None, "the base stage has no low-res image"
        aug_logsnr = self.low_res_schedule(level)
        return LowRes(noised_low_res(image, eps, level, aug_logsnr), aug_logsnr)

    def augmented(self, low_res: Tensor, draws: KeyedDraws, step: int, positions: Tensor) -> LowRes:
        """The low-res images of one training batch after the augmentations of the spec (blur, then noise)."""
        spec = self.spec.augmentation
        if spec is not None and spec.blur is not None:
            low, high = spec.blur.sigma
            sigma = low + (high - low) * draws.uniform("blur sigma", step, positions)
            on = draws.uniform("blur", step, positions) < spec.blur.probability
            blurred = gaussian_blur(low_res, sigma, spec.blur.kernel)
            low_res = torch.where(on.reshape(-1, 1, 1, 1), blurred, low_res)
        low, high = self.spec.trained_levels()
        level = low + (high - low) * draws.uniform("aug level", step, positions)
        if high == 0.0:
            level = torch.zeros_like(level)
        return self.low_res_for(low_res, level, draws.normal("aug noise", step, positions, low_res.shape[1:]))

    def loss(
        self, net: Net, images: Tensor, label: Tensor, draws: KeyedDraws, step: int, positions: Tensor, batch_size: int
    ) -> Tensor:
        """Loss of each example, (B,). ``images`` are real, float (B, C, H, W) in [-1, 1] with H >= the stage's size.

        ``positions`` (B,) are the places of these examples in the global batch of ``batch_size``. Times are
        stratified over the global batch, ``t = frac(u + position / batch_size)`` with one u per step: every
        batch covers all noise levels evenly (Kingma et al. 2021), and each t is still uniform.
        """
        spec = self.spec
        x = im.downsample(images, spec.size)
        if spec.flip:
            flip = draws.uniform("flip", step, positions) < 0.5
            x = torch.where(flip.reshape(-1, 1, 1, 1), x.flip(-1), x)
        u = draws.uniform("time", step, torch.zeros_like(positions[:1]))
        logsnr = self.schedule((u + positions / batch_size) % 1.0)
        eps = draws.normal("noise", step, positions, x.shape[1:])
        z = diffuse(x, eps, logsnr)
        dropped = draws.uniform("label drop", step, positions) < spec.label_drop
        label = torch.where(dropped, torch.full_like(label, spec.classes), label)
        low_res = None
        if spec.low_res_size is not None:
            low_res = self.augmented(im.downsample(x, spec.low_res_size), draws, step, positions)
        output = self.evaluate_net(net, z, logsnr, label, low_res)
        loss = spec.loss
        return regression_loss(
            output, x, eps, z, logsnr, prediction=spec.prediction, space=loss.space, power=loss.power
        )


def parameter_count(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
