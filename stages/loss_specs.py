"""Descriptions of losses."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Tag, model_validator

from stages.spec_base import PositiveInt, Spec, by_kind


class SigmoidWeight(Spec):
    """Weight ``sigmoid(bias - logsnr)`` on the loss measured on eps (SiD2); a lower bias looks at more noise."""

    kind: Literal["sigmoid"] = "sigmoid"
    bias: float


class RegressionLossSpec(Spec):
    """Mean of ``|estimate - truth|^power`` measured on eps, v or x (for x-, v- or eps-predicting nets alike)."""

    kind: Literal["regression"] = "regression"
    space: Literal["eps", "v", "x"] = "v"
    power: Literal[1, 2] = 2
    weight: SigmoidWeight | None = None
    multiscale: PositiveInt | None = Field(
        None, description="Smallest size in px whose mean-pooled errors count too (simple diffusion); None: one scale."
    )

    @model_validator(mode="after")
    def _weight_is_on_eps(self) -> RegressionLossSpec:
        if self.weight is not None and self.space != "eps":
            raise ValueError(f"a sigmoid weight belongs to a loss on eps, not on {self.space}; set space: eps")
        return self


class HybridLossSpec(Spec):
    """``L_simple + vlb_weight L_vlb`` (Improved DDPM): the second trains the variance alone, its mean is detached.

    L_vlb is the sum over all T steps, in bits per dimension, estimated by T times the term of a random step.
    """

    kind: Literal["hybrid"]
    vlb_weight: Annotated[float, Field(gt=0.0)] = 0.001


LossSpec = Annotated[
    Annotated[RegressionLossSpec, Tag("regression")] | Annotated[HybridLossSpec, Tag("hybrid")],
    by_kind("regression"),
]
