"""From a description to its formula: every setting of a stage does what it says, in training and in sampling.

The formulas have tests of their own. Here each is written out once more, plainly and in float64 (alpha-bar, beta and
beta-tilde are DDPM's letters), and compared with what a stage makes of its description.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.augmentation import gaussian_blur
from stages.cascade import Rung, TrainedStage, sample_stage
from stages.layers import Modulation, ResidualBlock, double, halve
from stages.randomness import KeyedDraws
from stages.schedule_specs import ShiftedCosineSchedule
from stages.schedules import Knots, build_schedule
from stages.specs import HybridLossSpec, RegressionLossSpec, StageSamplingSpec, StageSpec, TrainingSpec
from stages.stage import GAMMA_SCALE, LOGSNR_SCALE, Stage
from stages.training import Batch, TrainState, train_step

SIZE, LOW, CLASSES, T, STEP = 8, 4, 3, 20, 5
NET: dict[str, Any] = {"kind": "unet", "channels": 8, "multipliers": [1, 2], "blocks": 1, "head_width": 8}
LINEAR: dict[str, Any] = {"kind": "linear_beta", "steps": T, "beta_start": 0.01, "beta_end": 0.6}
DISCRETE: dict[str, Any] = {"schedule": LINEAR, "times": "steps"}
GAMMA: dict[str, Any] = {"schedule": LINEAR, "times": "gamma", "conditioning": "gamma"}
COSINE_BETA: dict[str, Any] = {"kind": "cosine_beta", "steps": T}
UPPER: dict[str, Any] = {
    "low_res_size": LOW,
    "low_res_schedule": {"kind": "shifted_cosine", "reference": 2 * LOW},
    "augmentation": {"noise": {"levels": [0.1, 0.4]}, "blur": {"sigma": [0.5, 2.0], "probability": 0.6}},
}


def spec_of(**changes: Any) -> StageSpec:
    return StageSpec.model_validate({"name": "rung", "size": SIZE, "classes": CLASSES, "net": NET, **changes})


def wide(values: Tensor) -> Tensor:
    """One number per image, to broadcast over images."""
    return values.reshape(-1, 1, 1, 1)


def roots(logsnr: Tensor) -> tuple[Tensor, Tensor]:
    """Scales of signal and noise, to broadcast over images."""
    return wide(torch.sigmoid(logsnr).sqrt()), wide(torch.sigmoid(-logsnr).sqrt())


class Mixing:
    """In place of a net: a fixed mixture of the channels it is given, plus all it is told."""

    def __init__(self, channels_out: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.weights = 0.4 * torch.randn(6, 6, generator=generator, dtype=torch.float64)[:channels_out]

    def __call__(self, images: Tensor, noise: Tensor, label: Tensor, aug: Tensor | None = None) -> Tensor:
        mixed = torch.einsum("oc,bchw->bohw", self.weights[:, : images.shape[1]].to(images), images)
        return mixed + wide(noise / 2000 + label / 4 + (0.0 if aug is None else aug / 500))


# -- the loss --


@dataclass(frozen=True)
class Drawn:
    """A training batch as its description and the keyed draws make it, in float64."""

    x: Tensor
    eps: Tensor
    z: Tensor
    logsnr: Tensor
    inputs: tuple[Tensor | None, ...]  # what the net is given


def drawn_logsnr(spec: StageSpec, t: Tensor) -> Tensor:
    schedule = build_schedule(spec.schedule, SIZE)
    if spec.times == "continuous":
        return schedule(t)
    edges = torch.cat([torch.ones(1).double(), torch.sigmoid(schedule(torch.linspace(0, 1, T).double()))])
    step = (t * T).long()
    if spec.times == "steps":
        return torch.logit(edges[step + 1])
    return torch.logit(edges[step] + (t * T - step) * (edges[step + 1] - edges[step]))


def drawn_low_res(spec: StageSpec, x: Tensor, draws: KeyedDraws, positions: Tensor) -> tuple[Tensor, Tensor | None]:
    """The low-res image at its own size, and what the net is told of its level."""
    assert spec.low_res_schedule is not None
    low_res = F.avg_pool2d(x, SIZE // LOW)
    if spec.augmentation is None:
        return low_res, None
    if blur := spec.augmentation.blur:
        width = blur.sigma[0] + (blur.sigma[1] - blur.sigma[0]) * draws.uniform("blur sigma", STEP, positions).double()
        on = draws.uniform("blur", STEP, positions) < blur.probability
        low_res = torch.where(wide(on), gaussian_blur(low_res, width, blur.kernel), low_res)
    if spec.augmentation.noise is None:
        return low_res, None
    low, high = spec.augmentation.noise.levels
    level = low + (high - low) * draws.uniform("aug level", STEP, positions).double()
    logsnr = build_schedule(spec.low_res_schedule, LOW)(level)
    alpha, sigma = roots(logsnr)
    eps = draws.normal("aug noise", STEP, positions, (3, LOW, LOW)).double()
    return alpha * low_res + sigma * eps, LOGSNR_SCALE * logsnr


def drawn(spec: StageSpec, images: Tensor, label: Tensor, draws: KeyedDraws, positions: Tensor) -> Drawn:
    x = F.avg_pool2d(images.double(), images.shape[-1] // SIZE)
    if spec.flip:
        x = torch.where(wide(draws.uniform("flip", STEP, positions) < 0.5), x.flip(-1), x)
    t = (draws.uniform("time", STEP, torch.zeros(1, dtype=torch.int64)) + positions / len(positions)) % 1.0
    logsnr = drawn_logsnr(spec, t.double())
    eps = draws.normal("noise", STEP, positions, (3, SIZE, SIZE)).double()
    alpha, sigma = roots(logsnr)
    z = alpha * x + sigma * eps
    told = {
        "logsnr": LOGSNR_SCALE * logsnr,
        "gamma": GAMMA_SCALE * torch.sigmoid(logsnr).sqrt(),
        "step": (t * T).long().double(),
    }[spec.conditioning]
    label = torch.where(draws.uniform("label drop", STEP, positions) < spec.label_drop, CLASSES, label)
    if spec.low_res_size is None:
        return Drawn(x, eps, z, logsnr, (z, told, label))
    low_res, aug = drawn_low_res(spec, x, draws, positions)
    align = None if spec.upsampling == "nearest" else False
    above = F.interpolate(low_res, (SIZE, SIZE), mode=spec.upsampling, align_corners=align)
    return Drawn(x, eps, z, logsnr, (torch.cat([z, above], 1), told, label, aug))


def estimates(spec: StageSpec, output: Tensor, batch: Drawn) -> dict[str, Tensor]:
    """x, eps and v as ``output`` has them."""
    alpha, sigma = roots(batch.logsnr)
    x = {
        "x": output,
        "eps": (batch.z - sigma * output) / alpha,
        "v": alpha * batch.z - sigma * output,
    }[spec.prediction]
    eps = (batch.z - alpha * x) / sigma
    return {"x": x, "eps": eps, "v": alpha * eps - sigma * x}


def regression(loss: RegressionLossSpec, spec: StageSpec, output: Tensor, batch: Drawn) -> Tensor:
    alpha, sigma = roots(batch.logsnr)
    truth = {"x": batch.x, "eps": batch.eps, "v": alpha * batch.eps - sigma * batch.x}[loss.space]
    error = estimates(spec, output, batch)[loss.space] - truth
    if loss.multiscale is None:
        total = (error.abs() ** loss.power).mean((1, 2, 3))
    else:
        total = torch.zeros(len(error), dtype=torch.float64)
        for side in (side for side in (1, 2, 4, 8) if side >= loss.multiscale):
            total += (F.adaptive_avg_pool2d(error, side).abs() ** loss.power).mean((1, 2, 3)) / side
    return total if loss.weight is None else total * torch.sigmoid(loss.weight.bias - batch.logsnr)


def decoder(x: Tensor, x_hat: Tensor, spread: Tensor) -> Tensor:
    """Nats of the 8-bit value of ``x`` under a Gaussian around ``x_hat``; the outermost bins go on without end."""
    half, away = 1 / 255, (x - x_hat).abs()
    inside = torch.special.ndtr((half - away) / spread) - torch.special.ndtr((-half - away) / spread)
    edge = torch.special.ndtr((half - (x - x_hat) * x.sign()) / spread)
    return -torch.where(x.abs() > 1 - half, edge, inside).log()


def hybrid(loss: HybridLossSpec, spec: StageSpec, output: Tensor, batch: Drawn) -> Tensor:
    alpha_bar = torch.sigmoid(build_schedule(spec.schedule, SIZE)(torch.linspace(0, 1, T).double()))
    before = torch.cat([torch.ones(1), alpha_bar[:-1]])
    beta = 1 - alpha_bar / before
    tilde = beta * (1 - before) / (1 - alpha_bar)
    step = (alpha_bar - torch.sigmoid(batch.logsnr)[:, None]).abs().argmin(1)
    assert sorted(step.tolist()) == list(range(T))  # the decoder's step 0 among them
    estimate, fraction = estimates(spec, output[:, :3], batch), (output[:, 3:] + 1) / 2
    floor = torch.where(torch.arange(T) == 0, tilde[1], tilde)
    log_variance = fraction * wide(beta[step].log()) + (1 - fraction) * wide(floor[step].log())
    apart = wide((before.sqrt() * beta / (1 - alpha_bar))[step]) * (batch.x - estimate["x"])
    ratio = log_variance - wide(floor[step].log())
    divergence = 0.5 * (ratio - 1 + torch.exp(-ratio) + apart**2 * torch.exp(-log_variance))
    nats = torch.where(wide(step == 0), decoder(batch.x, estimate["x"], torch.exp(log_variance / 2)), divergence)
    simple = ((estimate["eps"] - batch.eps) ** 2).mean((1, 2, 3))
    return simple + loss.vlb_weight * T * nats.mean((1, 2, 3)) / math.log(2)


METHODS: dict[str, dict[str, Any]] = {
    "ddpm": {**DISCRETE, "conditioning": "step", "prediction": "eps", "loss": {"space": "eps"}},
    "improved": {
        **DISCRETE,
        "schedule": COSINE_BETA,
        "conditioning": "step",
        "prediction": "eps",
        "loss": {"kind": "hybrid"},
    },
    "hybrid v": {**DISCRETE, "loss": {"kind": "hybrid", "vlb_weight": 0.2}},
    "sr3": {**GAMMA, "prediction": "eps", "loss": {"space": "eps", "power": 1}},
    "sr3 x": {**GAMMA, "prediction": "x", "loss": {"space": "x"}},
    "simple": {"schedule": {"kind": "shifted_cosine", "reference": 4}, "loss": {"space": "eps", "multiscale": 2}},
    "interpolated": {"schedule": {"kind": "interpolated_cosine", "references": [2, 16]}, "loss": {"space": "eps"}},
    "sid2": {"loss": {"space": "eps", "weight": {"bias": -1.0}}},
    "all at once": {"loss": {"space": "eps", "power": 1, "multiscale": 4, "weight": {"bias": 1.0}}},
    "piecewise": {"schedule": {"kind": "piecewise", "logsnr": [8.0, 1.0, -8.0]}, "loss": {"space": "x", "power": 1}},
    "defaults": {},
}
PLACES: dict[str, dict[str, Any]] = {
    "base": {"label_drop": 0.4, "flip": True},
    "upper": {**UPPER, "flip": True, "upsampling": "bicubic"},
    "upper, blurred alone": {**UPPER, "augmentation": {"blur": {}}, "upsampling": "nearest"},
    "upper, as it is": {**UPPER, "augmentation": None, "label_drop": 0.0},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_of_a_stage_is_that_of_its_description(method: str, place: str) -> None:
    spec = spec_of(**METHODS[method], **PLACES[place])
    net, draws = Mixing(6 if isinstance(spec.loss, HybridLossSpec) else 3), KeyedDraws(3, "rung")
    positions = torch.arange(T).roll(7)  # as many images as steps: each step occurs once
    images = (3 * draws.normal("images", 0, positions, (3, 2 * SIZE, 2 * SIZE))).clamp(-1, 1)
    label = positions % CLASSES
    found = Stage.build(spec).loss(net, images, label, draws, STEP, positions, T)
    batch = drawn(spec, images, label, draws, positions)
    output = net(*batch.inputs)  # type: ignore[arg-type]
    if isinstance(spec.loss, HybridLossSpec):
        expected = hybrid(spec.loss, spec, output, batch)
    else:
        expected = regression(spec.loss, spec, output, batch)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-6)


# -- sampling --


def trained(spec: StageSpec) -> TrainedStage:
    """A stage with weights away from their initial ones, where the output of a net is zero."""
    stage = Stage.build(spec)
    net = stage.build_net(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return TrainedStage(stage, net.eval())


@dataclass(frozen=True)
class Chain:
    """The reverse process of a stage whose net predicts v and is told log-SNR, by hand."""

    trained: TrainedStage
    sampling: StageSamplingSpec
    labels: Tensor
    low_res: Tensor | None
    aug: Tensor  # log-SNR of low_res
    noise: Callable[[str, int], Tensor]

    def grid(self) -> Tensor:
        """All the steps of a linear schedule, or even times of the cosine schedule."""
        spec = self.trained.stage.spec
        schedule = build_schedule(self.sampling.schedule or spec.schedule, SIZE)
        last = T - 1 if isinstance(schedule, Knots) else self.sampling.steps
        t = torch.arange(last, last - self.sampling.steps, -1).double() / last
        return torch.cat([schedule(t), torch.tensor([torch.inf])])

    def output(self, z: Tensor, logsnr: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """The net's x_hat and what it says of the variance."""
        inputs = [z] if self.low_res is None else [z, F.interpolate(self.low_res, (SIZE, SIZE), mode="bilinear")]
        noise, aug = (LOGSNR_SCALE * value.float().expand(len(z)) for value in (logsnr, self.aug))
        told = (noise, label) if self.low_res is None else (noise, label, aug)
        output = self.trained.net(torch.cat(inputs, 1).float(), *told).double()
        alpha, sigma = roots(logsnr)
        return alpha * z - sigma * output[:, :3], (output[:, 3:] + 1) / 2

    def estimate(self, z: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        """x_hat, guided and brought into the range of images."""
        asked, (x_hat, fraction) = self.sampling, self.output(z, logsnr, self.labels)
        low, high = asked.guidance_interval or (-math.inf, math.inf)
        if low <= logsnr < high:
            without, _ = self.output(z, logsnr, torch.full_like(self.labels, CLASSES))
            x_hat = without + asked.guidance * (x_hat - without)
        if asked.thresholding == "dynamic":
            sizes = x_hat.abs().flatten(1).sort().values
            limit = wide(sizes[:, math.ceil(asked.percentile * sizes.shape[1]) - 1].clamp_min(1.0))
            return x_hat.clamp(-limit, limit) / limit, fraction
        return x_hat.clamp(-1, 1) if asked.thresholding == "static" else x_hat, fraction

    def moved(self, z: Tensor, x_hat: Tensor, fraction: Tensor, logsnr: Tensor, after: Tensor, eps: Tensor) -> Tensor:
        """One step of ddim or ancestral sampling, with fresh noise ``eps``."""
        asked, here, there = self.sampling, torch.sigmoid(logsnr), torch.sigmoid(after)  # alpha-bar
        beta = 1 - here / there
        tilde = beta * (1 - there) / (1 - here)
        if asked.sampler == "ddim":
            variance = asked.eta**2 * tilde
            old = (z - here.sqrt() * x_hat) / (1 - here).sqrt()
            mean = there.sqrt() * x_hat + (1 - there - variance).clamp_min(0.0).sqrt() * old
        else:
            learned = beta**fraction * tilde ** (1 - fraction)
            variance = {"posterior": tilde, "beta": beta, "learned": learned}[asked.variance]
            mean = (there.sqrt() * beta * x_hat + (here / there).sqrt() * (1 - there) * z) / (1 - here)
        return mean if there == 1 else mean + variance.sqrt() * eps

    def run(self, stop: float) -> tuple[Tensor, Tensor]:
        """The finished images, and z at log-SNR ``stop``."""
        z, kept = self.noise("start", 0).double(), torch.empty(0)
        for step, (logsnr, after) in enumerate(pairwise(self.grid())):
            x_hat, fraction = self.estimate(z, logsnr)
            if logsnr < stop < after:
                fresh = self.noise(f"stop {stop!r}", step)
                kept = self.moved(z, x_hat, fraction, logsnr, torch.tensor(stop, dtype=torch.float64), fresh)
            z = self.moved(z, x_hat, fraction, logsnr, after, self.noise("step", step))
        return z.clamp(-1, 1), kept


SAMPLINGS: dict[str, dict[str, Any]] = {
    "eta": {"eta": 0.6, "steps": 6},
    "guidance": {"guidance": 2.5, "steps": 6},
    "interval": {"guidance": 2.5, "guidance_interval": [-2.0, 3.0], "steps": 6, "eta": 1.0},
    "dynamic": {"thresholding": "dynamic", "percentile": 0.7, "guidance": 2.0, "steps": 6},
    "unthresholded": {"thresholding": "none", "steps": 6},
    "ancestral": {"sampler": "ancestral", "steps": 6},
    "beta": {"sampler": "ancestral", "variance": "beta", "steps": 6},
    "learned": {"sampler": "ancestral", "variance": "learned", "steps": T},
    "own schedule": {"schedule": LINEAR, "steps": T, "eta": 0.3},
}


@pytest.mark.parametrize("kind", ["base", "truncated", "non_truncated"])
@pytest.mark.parametrize("setting", SAMPLINGS)
@torch.no_grad()
def test_a_stage_is_sampled_as_described(setting: str, kind: str) -> None:
    learns = {**DISCRETE, "loss": {"kind": "hybrid"}} if setting == "learned" else {}
    upper = {} if kind == "base" else {**UPPER, "augmentation": {"noise": {"levels": [0.0, 0.5]}}}
    stage, level = trained(spec_of(**learns, **upper)), 0.3
    given = {} if kind == "base" else {"augmentation": kind, "level": level}
    sampling = StageSamplingSpec.model_validate({**SAMPLINGS[setting], **given})
    stage.stage.spec.check_sampling(sampling)

    indices, draws = torch.arange(4, 8), KeyedDraws(2, "sampling rung")
    finished, cut = (draws.normal(name, 0, indices, (3, LOW, LOW)).clamp(-1, 1) for name in ("finished", "cut"))
    below = None if kind == "base" else Rung(finished, {level: cut, level / 2: finished})
    found = sample_stage(stage, sampling, indices, indices % CLASSES, below, seed=2, keep=[0.45])

    aug = build_schedule(ShiftedCosineSchedule(kind="shifted_cosine", reference=2 * LOW), LOW)(torch.tensor(level))
    alpha, sigma = roots(aug)
    noised = alpha * finished + sigma * draws.normal("low-res noise", 0, indices, (3, LOW, LOW))
    chain = Chain(
        stage,
        sampling,
        indices % CLASSES,
        {"base": None, "truncated": cut, "non_truncated": noised}[kind],
        aug,
        lambda purpose, step: draws.normal(purpose, step, indices, (3, SIZE, SIZE)),
    )
    # The level means what the schedule of training makes of it, whichever is walked.
    images, kept = chain.run(float(stage.stage.schedule(torch.tensor(0.45, dtype=torch.float64))))
    torch.testing.assert_close(found.images.double(), images, rtol=0, atol=2e-4)
    torch.testing.assert_close(found.kept[0.45].double(), kept, rtol=0, atol=2e-4)


# -- training, precision, the block --


def seen_by(net: torch.nn.Module) -> list[torch.dtype]:
    """Types that the first convolution of ``net`` gives from now on; the list fills as the net is called."""
    seen: list[torch.dtype] = []
    first = next(module for module in net.modules() if isinstance(module, torch.nn.Conv2d))
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    return seen


@pytest.mark.parametrize(("precision", "dtype"), [("f32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_net_runs_in_the_precision_asked_for(precision: Any, dtype: torch.dtype) -> None:
    stage, indices = trained(spec_of()), torch.arange(2)
    seen = seen_by(stage.net)
    rung = sample_stage(stage, StageSamplingSpec(steps=2), indices, indices, None, seed=0, precision=precision)
    assert seen == [dtype] * 2
    assert rung.images.dtype == torch.float32

    training = TrainingSpec(steps=1, batch_size=2, precision=precision)
    state = TrainState.start(stage.stage, training, seed=0)
    seen = seen_by(state.net)
    report = train_step(stage.stage, state, Batch(rung.images, indices, indices), training=training, seed=0)
    assert seen == [dtype]
    assert report.loss.dtype == torch.float32


def test_a_training_step_is_adamw_after_clipping_and_the_average_follows() -> None:
    # Clipped far below Adam's eps of 1e-8 a weight: there its step is as long as the gradient, else it forgets scale.
    training = TrainingSpec(
        steps=3, batch_size=4, learning_rate=0.02, warmup=4, weight_decay=0.3, betas=(0.7, 0.9), clip=2e-7, ema=0.15
    )
    stage, positions = Stage.build(spec_of()), torch.arange(4)
    state = TrainState.start(stage, training, seed=0)
    state.net.load_state_dict(trained(spec_of()).net.state_dict())
    weights, averages = ([p.detach().double() for p in net.parameters()] for net in (state.net, state.ema))
    first, second = [torch.zeros_like(p) for p in weights], [torch.zeros_like(p) for p in weights]
    for step in range(3):
        images = KeyedDraws(0, "images").normal("x", step, positions, (3, SIZE, SIZE)).clamp(-1, 1)
        loss = stage.loss(state.net, images, positions % 3, KeyedDraws(1, "rung"), step, positions, 4).mean()
        gradients = [g.double() for g in torch.autograd.grad(loss, list(state.net.parameters()))]
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        rate, decay = 0.02 * (step + 1) / 4, min(0.15, (1 + step) / (10 + step))
        report = train_step(stage, state, Batch(images, positions % 3, positions), training=training, seed=1)
        assert float(report.gradient_norm) == pytest.approx(norm, rel=1e-4)
        assert report.learning_rate == pytest.approx(rate)
        for i, gradient in enumerate(gradients):
            clipped = gradient * 2e-7 / norm
            first[i] = 0.7 * first[i] + 0.3 * clipped
            second[i] = 0.9 * second[i] + 0.1 * clipped**2
            mean, power = first[i] / (1 - 0.7 ** (step + 1)), second[i] / (1 - 0.9 ** (step + 1))
            weights[i] = weights[i] * (1 - rate * 0.3) - rate * mean / (power.sqrt() + 1e-8)
            averages[i] = decay * averages[i] + (1 - decay) * weights[i]
    for expected, net in ((weights, state.net), (averages, state.ema)):
        for weight, parameter in zip(expected, net.parameters(), strict=True):
            torch.testing.assert_close(parameter.detach().double(), weight, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("resample", [None, halve, double])
@pytest.mark.parametrize("modulation", ["scale_shift", "add"])
def test_a_residual_block_is_its_formula(modulation: Modulation, resample: Callable[[Tensor], Tensor] | None) -> None:
    block = ResidualBlock(8, 12, embedding=16, dropout=0.5, modulation=modulation, resample=resample).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    h = torch.randn(2, 8, 4, 6, generator=generator, dtype=torch.float64)
    embedding = torch.randn(2, 16, generator=generator, dtype=torch.float64)

    def part(name: str) -> tuple[Tensor, Tensor]:
        module = block.get_submodule(name)
        return module.get_parameter("weight"), module.get_parameter("bias")

    resized = (lambda images: images) if resample is None else resample
    y = F.conv2d(resized(F.silu(F.group_norm(h, 2, *part("norm_in")))), *part("conv_in"), padding=1)
    told = F.linear(embedding * torch.sigmoid(embedding), *part("modulation"))[:, :, None, None]
    if modulation == "scale_shift":
        y = F.group_norm(y, 3, *part("norm_out")) * (1 + told[:, :12]) + told[:, 12:]
    else:
        y = F.group_norm(y + told, 3, *part("norm_out"))
    expected = F.conv2d(resized(h), *part("skip")) + F.conv2d(F.silu(y), *part("conv_out"), padding=1)
    torch.testing.assert_close(block(h, embedding), expected)
