"""A passport in words: labels and values for a terminal or a report. Nothing is decided or compared here."""

from __future__ import annotations

from pipeline.scoring.passport import Passport, ReferenceMark, SourceMark, StageMark

_DIGITS = 12  # of a digest, as a person can compare it


def told(passport: Passport) -> list[tuple[str, str]]:
    """(label, value) of everything that is known, in the order in which a reader asks."""
    rows = [
        ("samples", _samples(passport)),
        ("images", _source(passport.source)),
        ("reference", _reference(passport.reference)),
        ("held-out reference", "" if passport.validation is None else _reference(passport.validation)),
        ("reference made by", passport.resize),
        ("features", f"{passport.extractor.name}, layer {passport.extractor.layer}"),
        ("weights sha256", passport.extractor.sha256),
        ("judge sha256", passport.judge or ""),
        ("judged at", f"{passport.size} px"),
        ("labels", passport.labels),
        *((f"stage {stage.name}", stage_told(stage)) for stage in passport.stages),
        ("neighbours", str(passport.neighbours)),
        ("seed", "" if passport.seed is None else str(passport.seed)),
        ("computed in", f"{passport.precision}, blocks of {passport.block}, on {passport.device}"),
        ("revision", passport.revision),
        ("scored by", "" if passport.scored_by in (None, passport.revision) else str(passport.scored_by)),
        ("passport", passport.digest[:_DIGITS]),
    ]
    return [(label, value) for label, value in rows if value]


def _samples(passport: Passport) -> str:
    if passport.indices is None:
        return f"{passport.samples:,}"
    first, past = passport.indices
    return f"{passport.samples:,}, indices {first:,} to {past - 1:,}"


def _source(source: SourceMark) -> str:
    lossy = {True: "stored with loss", None: "perhaps stored with loss", False: ""}[source.lossy]
    parts = (source.kind, source.address, _digest(source.digest), source.resize, lossy)
    return ", ".join(part for part in parts if part)


def _reference(reference: ReferenceMark) -> str:
    counted = (
        "statistics of an unknown number of images" if reference.images is None else f"{reference.images:,} images"
    )
    near = "" if reference.near is None else f"{reference.near:,} of them for precision and recall"
    kept = "" if reference.kept is None else f"{reference.kept:,} for KID"
    lossy = "stored with loss" if reference.lossy else ""
    parts = (reference.name, reference.split, counted, near, kept, lossy, _digest(reference.digest))
    return ", ".join(part for part in parts if part)


def _digest(digest: str | None) -> str:
    return f"digest {digest[:_DIGITS]}" if digest else ""


def stage_told(stage: StageMark) -> str:
    """How one rung of a chain was sampled, in a line."""
    interval = "" if stage.guidance_interval is None else " on log-SNR [{:g}, {:g})".format(*stage.guidance_interval)
    parts = (
        f"{stage.size} px",
        f"{stage.sampler} {stage.steps} steps",
        f"eta {stage.eta:g}" if stage.eta else "",
        f"variance {stage.variance}" if stage.variance and stage.sampler == "ancestral" else "",
        f"schedule {stage.schedule}" if stage.schedule else "",
        f"thresholding {stage.thresholding}" if stage.thresholding else "",
        f"guidance {stage.guidance:g}{interval}",
        "" if stage.level is None else f"{stage.augmentation or ''} s {stage.level:g}".strip(),
        "" if stage.ema_length is None else f"EMA {stage.ema_length:g}",
        f"weights {stage.weights[:_DIGITS]}" if stage.weights else "",
    )
    return ", ".join(part for part in parts if part)
