"""Whether a score of ours may stand beside a published one: reasons against, and what is not known. Not a ranking.

What is known to differ forbids it; what the publication did not tell is said (``untold``) and does not forbid, as in
``pipeline.scoring.passport``: else nothing that was ever published could be compared with. Guidance, sampler, steps and
the net itself are what a comparison is of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.published.rows import PublishedRow, library
from pipeline.report.score_tables import extractor_words
from pipeline.report.scores import ClassificationScore
from pipeline.scoring.passport import Passport, ReferenceMark

INCEPTION = ("inception", "2048")  # extractor and layer that published FID is of
# Of weights-inception-2015-12-05-6726825d.pth: its name has the first digits.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
CAS_NET, CAS_EPOCHS = "ResNet-50", 90
_SMALL_JPEG = re.compile(r"stored as (\d+)-jpeg")
_UNTOLD_RESIZE = ("as they are", "statistics as the file holds them")  # a reference that came from elsewhere


def incomparable(row: PublishedRow, passport: Passport | None, *, classes: int | None = None) -> list[str]:
    """Reasons why the FID of ``passport`` cannot stand beside that of ``row``; empty where it can, as far as is told.

    ``classes`` is how many our data set has (None: not asked). Of a row with several FIDs the first that it has counts:
    to training images, to images that were not told (training images by custom), to validation images.
    """
    if passport is None:
        return ["your scores came without a passport"]
    return [
        *_extractor(passport),
        *_samples(row, passport),
        *_reference(row, passport),
        *_resize(row, passport),
        *_classes(row, classes),
    ]


def untold(row: PublishedRow, passport: Passport | None) -> list[str]:
    """What is not known of the terms of ``row`` and could move its FID; no reason against a comparison."""
    found = []
    if row.reference == "not told":
        found.append("which images the FID is to (by custom, the training images)")
    if row.samples is None:
        found.append("how many samples the FID is of")
    if row.guidance is None:
        found.append("whether the samples were guided")
    if row.resize is None or (passport is not None and passport.resize.startswith(_UNTOLD_RESIZE)):
        found.append("how the reference images were resized")
    return found


def incomparable_cas(row: PublishedRow, cas: ClassificationScore | None, *, classes: int | None = None) -> list[str]:
    """Reasons why our classification accuracy score cannot stand beside that of ``row``; none where one is missing."""
    if cas is None or row.cas_top1 is None:
        return []
    known, found = library().datasets[row.dataset], list[str]()
    if cas.net != CAS_NET:
        found.append(f"your net is a {cas.net}, theirs a {CAS_NET}")
    if cas.epochs != CAS_EPOCHS:
        found.append(f"yours trained for {cas.epochs:g} epochs, theirs for {CAS_EPOCHS}")
    if cas.images != known.train:
        found.append(f"yours saw {cas.images:,} images, theirs {known.train:,}")
    if cas.size != row.size:
        found.append(f"yours saw {cas.size} px, theirs {row.size} px")
    return found + list(_classes(row, classes))


def _extractor(passport: Passport) -> Iterator[str]:
    extractor = passport.extractor
    if (extractor.name, extractor.layer) == INCEPTION:
        if extractor.sha256 != INCEPTION_SHA256:
            yield (
                f"your Inception-v3 has other weights (sha256 {extractor.sha256[:12]}) than published FID is taken "
                f"with ({INCEPTION_SHA256[:12]})"
            )
    elif extractor.name == INCEPTION[0]:
        yield f"your FID is of the layer {extractor.layer} of Inception-v3, theirs of its last pooling"
    else:
        yield f"your FID is in the features of {extractor_words(extractor.name)}, theirs in those of Inception-v3"


def _samples(row: PublishedRow, passport: Passport) -> Iterator[str]:
    source, theirs = passport.source, row.samples
    if theirs is not None and passport.samples != theirs:
        fewer = ", and fewer samples have a higher FID" if passport.samples < theirs else ""
        yield f"your FID is of {passport.samples:,} samples, theirs of {theirs:,}{fewer}"
    if passport.size != row.size:
        yield f"your images are judged at {passport.size} px, theirs at {row.size} px"
    given_real = row.kind == "upsampler"
    if source.kind == "oracle" and not given_real:
        yield "your samples were made of real low-res images, theirs were not"
    if source.kind in ("chained", "foreign") and given_real:
        yield "theirs were made of real low-res images, yours were not"
    if source.kind == "real" and row.kind != "real":
        yield "yours are real images"
    if source.kind != "real" and row.kind == "real":
        yield "theirs are real images, not samples"
    if source.resize is not None:
        yield f"your samples were resized after they were drawn ({source.resize})"
    if source.lossy:
        yield "your samples were stored with loss"


def _reference(row: PublishedRow, passport: Passport) -> Iterator[str]:
    known = library().datasets[row.dataset]
    if row.reference == "validation images":
        if passport.validation is None:
            yield "theirs is to validation images, to which you took no FID"
        else:
            yield from _counted(passport.validation, "val", known.val)
    else:
        yield from _counted(passport.reference, "train", known.train)


def _counted(reference: ReferenceMark, split: str, images: int) -> Iterator[str]:
    words = {"train": "training images", "val": "validation images"}
    if reference.split is not None and reference.split != split:
        yield f"your FID is to {words.get(reference.split, reference.split)}, theirs to {words[split]}"
    elif reference.images is not None and reference.images != images:
        yield f"your FID is to {reference.images:,} {words[split]}, theirs to all {images:,}"


def _resize(row: PublishedRow, passport: Passport) -> Iterator[str]:
    if passport.resize.startswith(_UNTOLD_RESIZE):
        return
    if row.resize is not None:
        yield f"your reference images were resized in another way than theirs ({row.resize})"
    if stored := _SMALL_JPEG.search(passport.resize):
        yield f"your reference images were stored as JPEG once more, at {stored.group(1)} px"


def _classes(row: PublishedRow, classes: int | None) -> Iterator[str]:
    all_of_it = library().datasets[row.dataset].classes
    if classes is not None and classes != all_of_it:
        yield f"your data set has {classes:,} classes, {row.dataset} as published {all_of_it:,}"
