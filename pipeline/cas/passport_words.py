"""The passport of a classification accuracy score in words, for a report. Nothing is decided or compared here."""

from __future__ import annotations

from pipeline.cas.passport import CasPassport
from pipeline.scoring.passport_words import stage_told

_DIGITS = 12  # of a digest, as a person can compare it


def cas_told(passport: CasPassport) -> list[tuple[str, str]]:
    """(label, value) of everything, in the order in which a reader asks."""
    workers = "1 worker" if passport.workers == 1 else f"{passport.workers} workers"
    return [
        ("trained on", f"{passport.images:,} {passport.source} images, digest {passport.train_digest[:_DIGITS]}"),
        ("tested on", f"real images, digest {passport.data[:_DIGITS]}"),
        *((f"stage {stage.name}", stage_told(stage)) for stage in passport.stages),
        ("net", passport.net),
        ("images seen at", f"{passport.size} px"),
        ("protocol", passport.protocol[:_DIGITS]),
        ("seed", str(passport.seed)),
        ("computed in", f"{passport.precision} by {workers} on {passport.device}"),
        ("revision", passport.revision),
        ("passport", passport.digest[:_DIGITS]),
    ]
