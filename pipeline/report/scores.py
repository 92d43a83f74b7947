"""The scores in a report, as plain validated data: what was measured of one set of images, and on what terms.

A figure that was not taken, was refused, or is not finite, is None; ``flags`` say in sentences what was refused and
what to read with care. Two names that are never one: *accuracy* is that of samples under a judge trained on real
images, the *classification accuracy score* (CAS) that of real images under a net trained on samples.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict

from pipeline.cas.passport import CasPassport
from pipeline.scoring.passport import Passport


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


Score = Annotated[float | None, BeforeValidator(_finite)]


class Part(BaseModel):
    """Base of the report's parts."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")


class FeatureScores(Part):
    """Scores in the features of one net. Precision and recall are shares in [0, 1], FID >= 0, KID unbiased (so it may
    fall below 0). ``fid_curve`` has (samples, FID); ``fid_infinity`` is where that leads, ``fid_val`` the FID against
    held-out images, ``fid_without`` that without each block of samples, for the error of differences. ``_error`` is a
    standard error; ``_std`` of KID and the Inception score the spread over subsets and splits, which is none.
    """

    fid: Score = None
    fid_error: Score = None
    fid_infinity: Score = None
    fid_infinity_error: Score = None
    fid_curve: list[tuple[int, float]] = []
    fid_val: Score = None
    kid: Score = None
    fid_without: list[float] = []
    kid_std: Score = None
    precision: Score = None
    recall: Score = None
    flags: list[str] = []
    passport: Passport | None = None


class Scores(FeatureScores):
    """One row of scores of ``samples`` images. ``accuracy`` is that of the samples under a judge trained on real
    images; ``also`` has what further nets say, by their names.
    """

    samples: int | None = None
    inception_score: Score = None
    inception_score_std: Score = None
    sfid: Score = None
    accuracy: Score = None
    accuracy_top5: Score = None
    also: dict[str, FeatureScores] = {}


class ClassificationScore(Part):
    """Accuracy on real held-out images of a ``net`` that was trained on ``images`` samples alone (or on real ones)."""

    cas_top1: Score
    cas_top5: Score = None
    net: str
    images: int
    epochs: float
    steps: int
    seconds: float
    size: int
    workers: int | None = None
    passport: CasPassport | None = None


class Restoration(Part):
    """Super-resolution against the real images behind its input: PSNR in dB, SSIM at most 1, and consistency.

    Of oracle samples, but for ``chained_consistency``; ``bicubic_*`` are those of enlarging the input. Consistency is
    the mean squared difference of the shrunken output and the input, for values in [0, 1].
    """

    samples: int
    psnr: Score
    bicubic_psnr: Score
    ssim: Score
    bicubic_ssim: Score
    consistency: Score
    chained_consistency: Score


class BoundScores(Part):
    """The variational bound of held-out real images, in bits per dimension, with its standard error.

    ``prior`` and ``decoder`` are its first and last terms, ``variance`` that of the reverse steps.
    """

    images: int
    steps: int
    variance: str
    bits_per_dim: Score
    error: Score
    prior: Score
    decoder: Score


class Chain(Part):
    """Colours and spectra of a stage's images; the keys are "chained", "oracle" (None at a base stage) and "real".

    ``colour`` are set means (3,) in [0, 1], ``power`` that of the bands centred at ``frequencies`` (cycles per pixel).
    ``colour_drift`` and the ``colour_noise`` that chance alone makes of it are in levels of 8 bits, of the chained
    images against the real ones; so is ``high_frequency_ratio``. ``consistency`` is as in ``Restoration``.
    """

    size: int
    colour: dict[str, list[float] | None]
    frequencies: list[float]
    power: dict[str, list[float] | None]
    colour_drift: Score
    colour_noise: Score = None
    high_frequency_ratio: dict[str, Score]
    consistency: dict[str, Score] | None = None

    @property
    def colour_shift(self) -> list[float] | None:
        """Chained minus real mean of red, green and blue, in levels of 8 bits."""
        chained, real = self.colour.get("chained"), self.colour.get("real")
        return [255 * (a - b) for a, b in zip(chained, real, strict=True)] if chained and real else None


class Near(Part):
    """A training image near to a sample, and its distance in feature space."""

    index: int
    distance: float
    png: bytes


class NearestRow(Part):
    """A sample of class ``label`` and the training images nearest to it, the nearest first."""

    index: int
    label: str
    png: bytes
    nearest: list[Near]


class Memorisation(Part):
    """The samples nearest to training images, in the features of ``scorer``; the first ``reference`` of ``of`` training
    images were searched.

    ``real_median`` and ``real_near`` (the first percentile) are distances of held-out images to their nearest training
    image: the measure of what is ordinary; ``nearer`` is the share of ``compared`` samples below ``real_near``.
    """

    rows: list[NearestRow]
    reference: int
    of: int
    scorer: str = ""
    compared: int | None = None
    median: Score = None
    real_median: Score
    real_near: Score
    nearer: Score = None
