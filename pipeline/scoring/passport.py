"""A score's passport: what must be known to publish it, and to put it beside another. Not a score, and no torch here.

Two scores may be ranked when what was measured is the same and only the generator differs. So these **matter**:

- ``samples``: FID and its kin are biased by the number of samples, recall grows with it;
- ``reference``: its digest, split, the images its statistics are of and those that nearest neighbours are sought in;
- ``extractor``: name, layer and the sha256 of its weights; a classifier's features mean nothing beside another's;
- ``size`` and ``resize``: features see the filter that made the reference;
- ``source.resize`` and ``source.lossy``: they see what happened to the samples after they were drawn, too;
- ``labels``: classes drawn uniformly are another distribution than those of the real histogram;
- ``neighbours`` of precision and recall;
- ``source.kind`` where one of two rows is an oracle's: it was given real low-res images, and the other was not.

Weights, sampler, steps, guidance, augmentation level s and EMA are what a ranking compares. Seed, sample indices,
precision, block, device and revision move a score within its error. The reference's name is where it lies, and whether
it was stored with loss is in its digest. None of these matter. What is not known of foreign images (``labels``,
``source.lossy``) is told and does not forbid a ranking: else nobody else's samples could ever be ranked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pipeline.data.forms import Reduction
    from pipeline.data.manifest import Manifest

SourceKind = Literal["chained", "oracle", "real", "foreign"]
Labels = Literal["uniform", "histogram", "unknown"]

MATTERS: Mapping[str, str] = {
    "samples": "FID is biased by the number of samples",
    "reference.digest": "the references are other images",
    "reference.split": "the references are other images",
    "reference.images": "the references are other images",
    "reference.near": "precision and recall grow with the reference",
    "extractor.name": "features of different nets have no common scale",
    "extractor.layer": "features of different layers have no common scale",
    "extractor.sha256": "features of different weights have no common scale",
    "size": "images of different sizes have different details",
    "resize": "the filter that made the reference moves the scores",
    "source.resize": "the filter that resized the samples moves the scores",
    "source.lossy": "a lossy coding of the samples moves the scores",
    "source.kind": "an oracle was given real low-res images",
    "labels": "the classes were drawn differently",
    "neighbours": "precision and recall grow with it",
}
_UNKNOWN = (None, "unknown")


class _Mark(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceMark(_Mark):
    """Whose samples: ``address`` and ``digest`` (sha256 of the bytes) of foreign or real ones. ``resize`` is what was
    done to them after they were drawn (None: nothing), ``lossy`` whether they were stored so (None: not known)."""

    kind: SourceKind
    address: str = ""
    digest: str | None = None
    resize: str | None = None
    lossy: bool | None = False


class ReferenceMark(_Mark):
    """What they were compared with: ``images`` make the statistics, the first ``near`` of them are where nearest
    neighbours are sought (precision, recall), the first ``kept`` what KID and FID within classes look at. None: not
    known, as of statistics that came from elsewhere."""

    name: str
    split: str | None
    images: int | None
    digest: str
    near: int | None = None
    kept: int | None = None
    lossy: bool | None = None


class ExtractorMark(_Mark):
    """The net whose features were compared: its layer, and the sha256 of its weights file."""

    name: str
    layer: str
    sha256: str


class StageMark(_Mark):
    """One rung of the chain as it was sampled; ``level`` is the augmentation level s, ``weights`` a digest."""

    name: str
    size: int
    weights: str | None
    sampler: str
    steps: int
    guidance: float
    guidance_interval: tuple[float, float] | None
    augmentation: str | None
    level: float | None
    ema_length: float | None
    eta: float | None = None
    variance: str | None = None
    schedule: str | None = None  # as JSON, where sampling walks another one than training
    thresholding: str | None = None
    percentile: float | None = None


class Passport(_Mark):
    """What a score was measured on, with, and how. ``indices`` are (first, past the last) of the samples drawn;
    ``size`` is the side in px at which images were judged, ``resize`` how the reference got there. ``validation`` is
    the second reference, of ``fid_val``; ``judge`` the sha256 of the weights of the classifier behind accuracy;
    ``revision`` that drew and measured, ``scored_by`` that scored. None: not known, or there is none.
    """

    samples: int
    indices: tuple[int, int] | None
    source: SourceMark
    reference: ReferenceMark
    validation: ReferenceMark | None = None
    extractor: ExtractorMark
    judge: str | None = None
    size: int
    resize: str
    stages: tuple[StageMark, ...] = ()
    labels: Labels
    neighbours: int = 3
    seed: int | None
    precision: str
    block: int
    device: str
    revision: str
    scored_by: str | None = None

    @property
    def digest(self) -> str:
        """Sha256 of its canonical JSON (sorted keys, no spaces)."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def resize_of(manifest: Manifest, size: int, reduction: Reduction = "box", shown: int | None = None) -> str:
    """How images of a data set got to ``size`` px and then, enlarged by bilinear interpolation, to ``shown`` px."""
    from pipeline.data.forms import form_for

    form = form_for(manifest, size, reduction)
    steps = [manifest.resize, f"stored as {form.name}"]
    if form.size < manifest.image_size:
        steps.append(f"a box mean of {manifest.image_size} px")
    if size < form.size:
        steps.append({"box": "box mean", "dct": "JPEG decoded at a fraction"}[reduction] + f" to {size} px")
    if shown is not None and shown != size:
        steps.append(f"bilinear to {shown} px, 8 bits")
    return "; ".join(steps)


class Difference(NamedTuple):
    """A field whose values differ, and why that forbids a ranking (empty: it does not)."""

    field: str
    left: Any
    right: Any
    why: str

    @property
    def matters(self) -> bool:
        return bool(self.why)


def differences(a: Passport, b: Passport) -> tuple[Difference, ...]:
    """Every field in which two passports differ, dotted as in ``stages.sr32.steps``: those that matter first."""
    left, right = dict(_flat("", _fields(a))), dict(_flat("", _fields(b)))
    found = [
        Difference(field, left.get(field), right.get(field), _why(field, left.get(field), right.get(field)))
        for field in dict.fromkeys([*left, *right])
        if left.get(field) != right.get(field)
    ]
    return tuple(sorted(found, key=lambda one: not one.matters))


def _fields(passport: Passport) -> dict[str, Any]:
    fields = passport.model_dump(mode="json")
    return fields | {"stages": {stage.pop("name"): stage for stage in fields["stages"]}}


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{path}.{key}" if path else key, item)
    else:
        yield path, value


def _why(field: str, left: Any, right: Any) -> str:
    if field == "source.kind" and "oracle" not in (left, right):
        return ""
    if field in ("labels", "source.lossy") and (left in _UNKNOWN or right in _UNKNOWN):
        return ""
    return MATTERS.get(field, "")


class Ranking(NamedTuple):
    """Names of rows, the best first; or no order and a sentence that says which rows differ in what."""

    order: tuple[str, ...]
    refusal: str


def rank(rows: Mapping[str, tuple[Passport, float | None]], *, lower_is_better: bool = True) -> Ranking:
    """Order rows by score where their passports agree in what matters; equal scores keep their order.

    A row without a score (None or NaN) has no place in the order and cannot forbid one.
    """
    scored = {name: (passport, score) for name, (passport, score) in rows.items() if _is_figure(score)}
    clashes, agreed = [], list[str]()
    for name, (passport, _) in scored.items():
        for other in agreed:
            if apart := [one for one in differences(scored[other][0], passport) if one.matters]:
                clashes.append(f"{other} and {name} differ in {_told_differences(apart)}")
                break
        else:
            agreed.append(name)
    if clashes:
        more = f", and {len(clashes) - 3} more rows do not fit" if clashes[3:] else ""
        return Ranking((), f"not ranked: {'; '.join(clashes[:3])}{more}")
    sign = 1.0 if lower_is_better else -1.0
    return Ranking(tuple(sorted(scored, key=lambda name: sign * (scored[name][1] or 0.0))), "")


def _is_figure(score: float | None) -> bool:
    return score is not None and not math.isnan(score)


def _told_differences(found: list[Difference]) -> str:
    told = [f"{one.field} ({_short(one.left)} and {_short(one.right)})" for one in found]
    return told[0] if len(told) == 1 else f"{', '.join(told[:-1])} and {told[-1]}"


def _short(value: Any) -> str:
    """A value in a sentence; of a digest the first characters, as git does."""
    if value is None:
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text
