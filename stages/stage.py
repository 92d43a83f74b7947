"""A stage: the parts of one rung joined. It trains alone on real images (see the package's docstring)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from stages import images as im
from stages.augmentation import gaussian_blur, noised_low_res
from stages.losses import hybrid_loss, regression_loss
from stages.nets import build_net
from stages.process import alpha_sigma, diffuse, moved_to, variance_floor, x_from
from stages.randomness import KeyedDraws
from stages.schedules import Knots, Schedule, build_schedule, sampling_grid
from stages.specs import RegressionLossSpec, StageSpec

Net = Callable[..., Tensor]

# The sinusoids of an embedding turn once in 1 to 10,000 units. log-SNR spans about 30, so times 25 it covers them as
# a step index from 0 to 1,000 does. The root of gamma crowds towards 1, where the image is nearly clean.
LOGSNR_SCALE = 25.0
GAMMA_SCALE = 5000.0


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
        low = None
        if spec.low_res_schedule is not None and spec.low_res_size is not None:
            low = build_schedule(spec.low_res_schedule, spec.low_res_size)
        return cls(spec, build_schedule(spec.schedule, spec.size), low)

    @property
    def embeds_levels(self) -> bool:
        """Whether the net is told the augmentation level: where it is trained with noise augmentation."""
        return self.spec.augmentation is not None and self.spec.augmentation.noise is not None

    def new_net(self) -> nn.Module:
        """The net of the spec, initialised from torch's global generator."""
        spec = self.spec
        return build_net(
            spec.net,
            size=spec.size,
            channels_in=3 if spec.is_base else 6,
            channels_out=6 if spec.learns_variance else 3,
            labels=spec.labels,
            levels_embedded=self.embeds_levels,
        )

    def build_net(self, seed: int) -> nn.Module:
        """A freshly initialised net. Its weights are a function of ``seed`` and the stage's name alone."""
        with torch.random.fork_rng(devices=[]):
            key = KeyedDraws(seed, self.spec.name).words("initial weights", 0, torch.zeros(1, dtype=torch.int64), 2)
            torch.manual_seed(int(key[0, 0]) << 31 ^ int(key[0, 1]))
            return self.new_net()

    def noise_input(self, logsnr: Tensor) -> Tensor:
        """The number that the net was built to read noise from, (B,), spread over about 1,000 units or more."""
        if self.spec.conditioning == "step":
            return self._knots.step_of(logsnr)
        if self.spec.conditioning == "gamma":
            return GAMMA_SCALE * alpha_sigma(logsnr)[0]
        return LOGSNR_SCALE * logsnr

    @property
    def _knots(self) -> Knots:
        assert isinstance(self.schedule, Knots), "the spec asks for a schedule of T steps"
        return self.schedule

    def training_logsnr(self, t: Tensor) -> Tensor:
        """log-SNR (B,) that training uses where uniform times ``t`` (B,) in [0, 1) were drawn; see ``times``.

        "gamma" is SR3's: a step i uniform on {1, ..., T}, then gamma = alpha-bar uniform between gamma_(i-1) and
        gamma_i (gamma_0 = 1); the fractional part of T t is that second draw.
        """
        if self.spec.times == "continuous":
            return self.schedule(t)
        place = t.double() * self._knots.steps
        step = place.floor().long().clamp_max(self._knots.steps - 1)
        knots = self._knots.values_on(t.device)
        if self.spec.times == "steps":
            return knots[step].to(t.dtype)
        edges, share = torch.cat([torch.full_like(knots[:1], torch.inf), knots]), place - step

        def between(values: Tensor) -> Tensor:
            return torch.lerp(values[step], values[step + 1], share)

        # Both gamma and 1 - gamma are drawn between their edges, so that neither end of log-SNR loses its digits.
        gamma, noise = between(torch.sigmoid(edges)), between(torch.sigmoid(-edges)).clamp_min(1e-9)
        return (gamma.log() - noise.log()).to(t.dtype)

    def evaluate_net(self, net: Net, z: Tensor, logsnr: Tensor, label: Tensor, low_res: LowRes | None) -> Tensor:
        """Raw output of ``net`` at ``z`` (B, C, H, W): upsamples and concatenates the low-res image."""
        noise = self.noise_input(logsnr)
        if low_res is None:
            return net(z, noise, label)
        condition = im.upsample(low_res.image, self.spec.size, self.spec.upsampling)
        level = LOGSNR_SCALE * low_res.aug_logsnr if self.embeds_levels else None
        return net(torch.cat([z, condition], dim=1), noise, label, level)

    def split(self, output: Tensor) -> tuple[Tensor, Tensor | None]:
        """A net's output in float32: its estimate (B, 3, H, W) and, where it learns one, the variance fraction."""
        if not self.spec.learns_variance:
            return output.float(), None
        estimate, variance = output.float().chunk(2, dim=1)
        return estimate, (variance + 1.0) / 2.0

    def denoiser(self, net: Net) -> Denoiser:
        """``net`` as a denoiser; ``logsnr`` may be () or (B,)."""

        def denoise(
            z: Tensor, logsnr: Tensor, *, label: Tensor, low_res: Tensor | None = None, aug_logsnr: Tensor | None = None
        ) -> Prediction:
            logsnr = moved_to(logsnr, z).expand(len(z))
            condition = None
            if low_res is not None:
                assert aug_logsnr is not None, "a low-res image comes with its aug_logsnr"
                condition = LowRes(low_res, moved_to(aug_logsnr, z).expand(len(z)))
            if not self.spec.knows_classes:
                label = torch.full_like(label, self.spec.classes)
            estimate, fraction = self.split(self.evaluate_net(net, z, logsnr, label, condition))
            return Prediction(x_from(self.spec.prediction, estimate, z, logsnr), fraction)

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
        if not self.embeds_levels:
            return self.low_res_for(low_res, low_res.new_zeros(len(low_res)), torch.zeros_like(low_res))
        low, high = self.spec.trained_levels()
        level = low + (high - low) * draws.uniform("aug level", step, positions)
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
        # Bytes come as rows of RGB, and a net goes on in the order of its input: in bf16 that takes longer on a CPU,
        # where norms are slow in it, and in float32 it gains nothing (docs/speed.md).
        x = im.downsample(images, spec.size).contiguous()
        if spec.flip:
            flip = draws.uniform("flip", step, positions) < 0.5
            x = torch.where(flip.reshape(-1, 1, 1, 1), x.flip(-1), x)
        u = draws.uniform("time", step, torch.zeros_like(positions[:1]))
        t = (u + positions / batch_size) % 1.0
        logsnr = self.training_logsnr(t)
        eps = draws.normal("noise", step, positions, x.shape[1:])
        z = diffuse(x, eps, logsnr)
        dropped = draws.uniform("label drop", step, positions) < spec.label_drop
        label = torch.where(dropped, torch.full_like(label, spec.classes), label)
        low_res = None
        if spec.low_res_size is not None:
            low_res = self.augmented(im.downsample(x, spec.low_res_size), draws, step, positions)
        output = self.evaluate_net(net, z, logsnr, label, low_res)
        return self._judge(output, x, eps, z, logsnr)

    def _judge(self, output: Tensor, x: Tensor, eps: Tensor, z: Tensor, logsnr: Tensor) -> Tensor:
        """The loss of the spec, (B,), of a net's ``output`` at ``z = alpha x + sigma eps``."""
        loss, prediction = self.spec.loss, self.spec.prediction
        estimate, fraction = self.split(output)
        if isinstance(loss, RegressionLossSpec):
            return regression_loss(
                estimate,
                x,
                eps,
                z,
                logsnr,
                prediction=prediction,
                space=loss.space,
                power=loss.power,
                weight_bias=None if loss.weight is None else loss.weight.bias,
                multiscale=loss.multiscale,
            )
        assert fraction is not None, "a hybrid loss trains a learned variance"
        knots = self._knots.values_on(logsnr.device).to(logsnr.dtype)
        step = self._knots.step_of(logsnr).round().long()
        return hybrid_loss(
            estimate,
            fraction,
            x,
            eps,
            z,
            logsnr,
            torch.where(step > 0, knots[step - 1], torch.inf),
            prediction=prediction,
            vlb_weight=loss.vlb_weight,
            steps=self._knots.steps,
            floor=variance_floor(sampling_grid(self._knots, self._knots.steps)),
        )


def parameter_count(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
