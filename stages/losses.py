"""Regression losses of a stage, one number per example.

A net that predicts v can be judged on eps or x just as well: with the same z the three errors are
proportional, ``v - v_hat = (eps - eps_hat) / alpha = (x_hat - x) / sigma``, so choosing the space of the loss
chooses a weighting over noise levels (simple diffusion trains v-nets with the loss on eps).
"""

from __future__ import annotations

from torch import Tensor

from stages.process import Target, alpha_sigma, per_image, velocity, x_from


def regression_loss(
    output: Tensor, x: Tensor, eps: Tensor, z: Tensor, logsnr: Tensor, *, prediction: Target, space: Target, power: int
) -> Tensor:
    """Mean over each image of ``|estimate - truth|^power``; images (B, C, H, W), result (B,) float32.

    ``output`` is the net's estimate of ``prediction`` at ``z = alpha x + sigma eps``; the error is measured
    on ``space``.
    """
    output = output.float()
    if prediction == space:
        truth = {"x": x, "eps": eps, "v": velocity(x, eps, logsnr)}[space]
        error = output - truth
    else:
        alpha, sigma = alpha_sigma(per_image(logsnr, x))
        error_of_x = x_from(prediction, output, z, logsnr) - x
        error = error_of_x if space == "x" else error_of_x * ((alpha if space == "eps" else 1.0) / sigma)
    return error.abs().pow(power).flatten(1).mean(1)
