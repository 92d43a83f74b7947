"""The passport of a classification accuracy score: what the net was trained on, tested on, and how. No torch here.

Not that of the scores in feature space (`pipeline.scoring.passport`): those compare two sets of images in the features
of one net, here a net is trained on one set and tested on the other.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from pipeline.experiment import digest_of
from pipeline.scoring.passport import StageMark


class CasPassport(BaseModel):
    """``stages`` made the images that were trained on, base first; there are none where these were ``real``.

    ``data`` is the digest of the data set that was tested on, ``train_digest`` of the one that was trained on: the same
    for real images. ``protocol`` is the digest of the settings of training that are not told (epochs, batch, learning
    rate, crops). ``seed`` is of samples and training, ``workers`` the number of parts that each batch is normalised in,
    ``precision`` that of the net in training, ``images`` how many it saw in an epoch, ``size`` their side in px.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Literal["chained", "real"]
    stages: tuple[StageMark, ...] = ()
    data: str
    train_digest: str
    net: str
    protocol: str
    images: int
    size: int
    seed: int
    workers: int
    precision: str
    device: str
    revision: str

    @model_validator(mode="after")
    def _source_has_stages(self) -> CasPassport:
        if (self.source == "chained") != bool(self.stages):
            raise ValueError(f"{self.source} images come of {len(self.stages)} stages; only samples come of any")
        return self

    @property
    def digest(self) -> str:
        """Sha256 of its canonical JSON (sorted keys, no spaces)."""
        return digest_of(self.model_dump(mode="json"))
