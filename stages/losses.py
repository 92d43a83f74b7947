"""Losses of a stage, one number per example.

*Regression.* A net that predicts v can be judged on eps or x just as well: with the same z the three errors are
proportional, ``v - v_hat = (eps - eps_hat) / alpha = (x_hat - x) / sigma``, so choosing the space of the loss
chooses a weighting over noise levels (simple diffusion trains v-nets with the loss on eps). A sigmoid weight on the
loss of eps chooses another (SiD2). Measured on eps with power 2 it is DDPM's L_simple; SR3 also takes power 1.

*Hybrid* (Improved DDPM). L_simple trains the mean of the reverse step, the variational bound its variance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.bound import vlb_term
from stages.process import Target, alpha_sigma, learned_log_variance, per_image, velocity, x_from


def regression_error(
    output: Tensor, x: Tensor, eps: Tensor, z: Tensor, logsnr: Tensor, *, prediction: Target, space: Target
) -> Tensor:
    """Estimate less truth (up to its sign) measured on ``space``, (B, C, H, W), of an ``output`` of ``prediction``."""
    if prediction == space:
        truth = {"x": x, "eps": eps, "v": velocity(x, eps, logsnr)}[space]
        return output - truth
    alpha, sigma = alpha_sigma(per_image(logsnr, x))
    if prediction == "v":  # without the detour over x, whose error is lost in float32 where there is little noise
        return (output - velocity(x, eps, logsnr)) * (alpha if space == "eps" else -sigma)
    error_of_x = x_from(prediction, output, z, logsnr) - x
    return error_of_x if space == "x" else error_of_x * ((alpha if space == "eps" else 1.0) / sigma)


def multiscale_mean(error: Tensor, power: int, smallest: int) -> Tensor:
    """``sum over s in {smallest, 2 smallest, ..., d} of (1 / s) L_s`` (simple diffusion), (B,), of errors (B, C, d, d).

    L_s is the mean over channels and pixels of ``|.|^power`` after mean-pooling to s px (pooling is linear: the pooled
    error is the error of the pooled images), so each L_s is of order 1 and coarse errors, few as their pixels are,
    count more than fine ones. The weights are the paper's and not normalised: they sum to nearly 2 / smallest, so
    the loss is that much smaller than a plain one. Adam does not mind, since its steps do not depend on the scale of
    the loss; a limit on the gradient's norm does, and bites less often. Raises ValueError where d does not come from
    ``smallest`` by doubling.
    """
    size = error.shape[-1]
    if size % smallest or (size // smallest).bit_count() != 1:
        raise ValueError(f"{size} px does not come from {smallest} px by doubling; choose another smallest scale")
    total = error.new_zeros(len(error))
    while True:
        total = total + error.abs().pow(power).flatten(1).mean(1) / size
        if size == smallest:
            return total
        error, size = F.avg_pool2d(error, 2), size // 2


def regression_loss(
    output: Tensor,
    x: Tensor,
    eps: Tensor,
    z: Tensor,
    logsnr: Tensor,
    *,
    prediction: Target,
    space: Target,
    power: int,
    weight_bias: float | None = None,
    multiscale: int | None = None,
) -> Tensor:
    """Mean over each image of ``|estimate - truth|^power``; images (B, C, H, W), result (B,) float32.

    ``output`` is the net's estimate of ``prediction`` at ``z = alpha x + sigma eps``; the error is measured
    on ``space``. ``weight_bias`` b multiplies the loss of eps by ``sigmoid(b - logsnr)``, which weighs the squared
    error of x by ``e^b sigmoid(logsnr - b)`` (SiD2; ValueError for another space). ``multiscale`` is the
    smallest size in px at which errors count (see ``multiscale_mean``); None measures at full size alone.
    """
    error = regression_error(output.float(), x, eps, z, logsnr, prediction=prediction, space=space)
    if multiscale is None:
        loss = error.abs().pow(power).flatten(1).mean(1)
    else:
        loss = multiscale_mean(error, power, multiscale)
    if weight_bias is None:
        return loss
    if space != "eps":
        raise ValueError(f"a sigmoid weight belongs to a loss on eps, not on {space}")
    return loss * torch.sigmoid(weight_bias - logsnr).to(loss)


def hybrid_loss(
    output: Tensor,
    fraction: Tensor,
    x: Tensor,
    eps: Tensor,
    z: Tensor,
    logsnr: Tensor,
    logsnr_next: Tensor,
    *,
    prediction: Target,
    vlb_weight: float,
    steps: int,
    floor: float,
) -> Tensor:
    """``L_simple + vlb_weight T L_t`` of a step from ``logsnr`` to ``logsnr_next`` (B,) drawn from all T; (B,) float32.

    L_t is that step's term of the variational bound, in bits per dimension, so T L_t estimates the whole bound. Its
    mean is detached: ``output``, the net's estimate of ``prediction``, learns from L_simple alone, and ``fraction``
    (both (B, C, H, W); see ``learned_log_variance``, also for ``floor``) from the bound alone.
    """
    simple = regression_loss(output, x, eps, z, logsnr, prediction=prediction, space="eps", power=2)
    x_hat = x_from(prediction, output.detach().float(), z, logsnr)
    log_variance = learned_log_variance(fraction.float(), logsnr, logsnr_next, floor)
    return simple + vlb_weight * steps * vlb_term(x, x_hat, log_variance, logsnr, logsnr_next)
