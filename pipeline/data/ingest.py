"""From a source of images to a data set of shards with a manifest. Reads no data set; `pipeline.data.loading` does.

A source is listed (`sources`), its files are sorted into classes, splits and a seeded order (`arranging`), that order
is cut into shards, and every shard is written by itself (`writing`) here or as a Ray task. The bytes are a function of
the source's content and the request: a folder and an archive of the same tree, on any number of workers, cut off and
gone on with at any moment, give equal shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.data import listings
from pipeline.data.arranging import Arrangement, arrange
from pipeline.data.forms import RESIZE
from pipeline.data.manifest import JPEG_QUALITY, SPLITS, Encoding, Form, Manifest, SplitName, Undecodable
from pipeline.data.publishing import SCRATCH, Request, Written, publish
from pipeline.data.sources import identify, list_source
from pipeline.data.writing import DrawnContent, FileContent, Progress, ShardJob, write_shards
from pipeline.errors import UserError
from pipeline.fan_out import FanOut, in_turn
from pipeline.objects import LocalObjects, Objects, open_objects

_LARGEST_SIZE = 4096  # px


def make_forms(sizes: Sequence[tuple[int, Encoding]], quality: int = JPEG_QUALITY) -> tuple[Form, ...]:
    """The forms of a data set, largest first, from pairs of a size in px (1 to 4096) and an encoding.

    Raises UserError for none, for one twice, and for a size that does not divide the largest: small images are box
    means of the large one, so that all stages of a cascade agree on what the small image is.
    """
    if not sizes:
        raise UserError("a data set needs at least one size to be stored at")
    if unfit := [size for size, _ in sizes if not 1 <= size <= _LARGEST_SIZE]:
        raise UserError(f"the image size must be 1 to {_LARGEST_SIZE} px, not {unfit[0]}")
    if not 1 <= quality <= 100:
        raise UserError(f"the quality of jpeg must be 1 to 100, not {quality}")
    forms = tuple(
        Form(size=size, encoding=encoding, quality=quality if encoding == "jpeg" else None)
        for size, encoding in sorted(sizes, key=lambda one: (-one[0], one[1]))
    )
    names = [form.name for form in forms]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{twice[0]} is asked for twice; name every form once")
    if odd := [form.size for form in forms if forms[0].size % form.size]:
        raise UserError(
            f"{odd[0]} px does not divide the largest size, {forms[0].size} px; smaller images are means of whole "
            "blocks of the largest"
        )
    return forms


def ingest(
    source: str | Path,
    dest: str | Path,
    *,
    forms: tuple[Form, ...],
    val_fraction: float,
    shard_size: int,
    max_undecodable: int = 0,
    val: str | Path | None = None,
    labels: Path | None = None,
    spool: Path | None = None,
    fan_out: FanOut = in_turn,
    progress: Progress | None = None,
    listed: listings.Progress | None = None,
) -> Manifest:
    """Make a data set at DEST, a folder or ``s3://`` address, from any source that `sources.list_source` knows.

    ``forms`` (`make_forms`) say how images are stored, ``shard_size`` how many examples a shard holds,
    ``val_fraction`` in [0, 1) which share of each class is held out where the source has no held-out part. ``val`` is
    a second source that is all held out; ``labels`` a text file of classes for images without class folders, those
    of ``val`` where it is given. ``spool`` is where a .tar.gz is decompressed to one file, a folder that every worker
    sees; without it that is beside the data set, if this is a folder. ``progress`` is told of examples, ``listed``
    before that of the bytes of the source that were gone through.

    A DEST that answers the same request is returned as is, one that was cut off is gone on with. Raises UserError for
    a source or a DEST that cannot be used, and for more than ``max_undecodable`` files that are no image.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"the held-out fraction must be at least 0 and below 1, not {val_fraction}")
    _check_numbers(shard_size, max_undecodable)
    objects = open_objects(dest)
    parts = [_Part(source, None if val else labels)] + ([_Part(val, labels)] if val else [])
    for part in parts:
        _refuse_inside(part.source, objects)
    request = _request(parts, forms, {"val_fraction": float(val_fraction), "shard_size": shard_size})
    spool = spool or (objects.root / SCRATCH if isinstance(objects, LocalObjects) else None)

    def write() -> Written:
        found = [
            list_source(part.source, labels=part.labels, spool=spool, mapper=fan_out, progress=listed) for part in parts
        ]
        arrangement = arrange(found[0].files, 0.0 if val else val_fraction)
        if val:
            arrangement = _with_val(arrangement, arrange(found[1].files, 0.0), source, val)
        left = [one for listing in found for one in listing.left_out]
        left_out = _left_out(source, left + arrangement.outside, arrangement)
        addresses: dict[SplitName, str] = {"train": found[0].address, "val": found[-1].address}
        jobs = list(_file_jobs(objects.address, forms, addresses, arrangement, shard_size, max_undecodable))
        return Written(arrangement.classes, write_shards(objects, jobs, max_undecodable, fan_out, progress), left_out)

    return publish(objects, request, write)


class _Part(NamedTuple):
    """One source, and the file that says its labels where its folders do not."""

    source: str | Path
    labels: Path | None


def _request(parts: Sequence[_Part], forms: tuple[Form, ...], numbers: dict[str, int | float | str]) -> Request:
    first, *rest = (identify(part.source, part.labels) for part in parts)
    for other in rest:
        numbers |= {"val": other.name, "val_fingerprint": other.fingerprint}
    return Request(first.kind, first.name, first.fingerprint, forms, RESIZE, numbers)


def _with_val(train: Arrangement, val: Arrangement, source: str | Path, val_source: str | Path) -> Arrangement:
    """The training images of one source and all images of another, as its held-out split."""
    if train.order["val"]:
        raise UserError(f"{source} has a held-out part of its own; leave --val {val_source} away")
    files = val.order["train"] + val.order["val"]
    if not files:
        raise UserError(f"{val_source} holds no image with a class; give it class folders or name a file of --labels")
    names = [val.classes[label] for label in val.labels["train"] + val.labels["val"]]
    if unknown := sorted(set(names) - set(train.classes)):
        raise UserError(f"{val_source} has the class {unknown[0]!r}, which {source} has no training image of")
    number = {name: label for label, name in enumerate(train.classes)}
    return Arrangement(
        train.classes,
        {"train": train.order["train"], "val": files},
        {"train": train.labels["train"], "val": [number[name] for name in names]},
        train.outside + val.outside,
    )


def _left_out(source: str | Path, found: list[tuple[str, str]], arrangement: Arrangement) -> tuple[Undecodable, ...]:
    left = sorted(found)
    if not arrangement.order["train"]:
        why = f"; the first of the {len(left)} files left out is {left[0][0]!r}: {left[0][1]}" if left else ""
        raise UserError(f"{source} holds no training image in a class folder; it must have one folder per class{why}")
    return tuple(Undecodable(name=name, reason=reason) for name, reason in left)


def _file_jobs(
    dest: str,
    forms: tuple[Form, ...],
    addresses: Mapping[SplitName, str],
    arrangement: Arrangement,
    size: int,
    limit: int,
) -> Iterator[ShardJob]:
    for split in SPLITS:
        files = list(zip(arrangement.order[split], arrangement.labels[split], strict=True))
        for number, start in enumerate(range(0, len(files), size)):
            part = enumerate(files[start : start + size], start)
            content = tuple((f"{index:08d}", file, label) for index, (file, label) in part)
            yield ShardJob(dest, forms, split, number, FileContent(addresses[split], content), limit)


def ingest_drawn(
    dest: str | Path,
    *,
    seed: int,
    forms: tuple[Form, ...],
    train: int,
    val: int,
    shard_size: int,
    fan_out: FanOut = in_turn,
    progress: Progress | None = None,
) -> Manifest:
    """Make a data set at DEST of ``train`` + ``val`` images drawn by `pipeline.data.drawn`.

    Training takes the indices [0, train) of the drawing, the held-out split [train, train + val). The rest is as with
    `ingest`: the same shards, the same manifest, the same answer to a second call.
    """
    from pipeline.data.drawn import CLASSES

    _check_numbers(shard_size, 0)
    if train < 1 or val < 0:
        raise UserError(f"drawing needs at least 1 image to train on and 0 held out, not {train} and {val}")
    objects = open_objects(dest)
    ranges: dict[SplitName, range] = {"train": range(train), "val": range(train, train + val)}
    jobs = [
        ShardJob(objects.address, forms, split, number, DrawnContent(seed, part.start, part.stop, of.start), 0)
        for split, of in ranges.items()
        for number, part in enumerate(of[start : start + shard_size] for start in range(0, len(of), shard_size))
    ]
    numbers: dict[str, int | float | str] = {"seed": seed, "train": train, "val": val, "shard_size": shard_size}
    fingerprint = _drawn_fingerprint(seed, forms[0].size)
    request = Request("drawn", "drawn", fingerprint, forms, "none, drawn at this size", numbers)
    classes = tuple(sorted(CLASSES))
    return publish(objects, request, lambda: Written(classes, write_shards(objects, jobs, 0, fan_out, progress)))


def _drawn_fingerprint(seed: int, size: int) -> str:
    """A few images stand for the code that draws them: a changed drawing is another source."""
    from pipeline.data.drawn import CLASSES, draw

    pixels = b"".join(draw(seed, index, size)[0].tobytes() for index in range(2 * len(CLASSES)))
    return hashlib.sha256(repr(CLASSES).encode() + pixels).hexdigest()


def _check_numbers(shard_size: int, max_undecodable: int) -> None:
    if shard_size < 1:
        raise UserError(f"a shard must hold at least 1 example, not {shard_size}")
    if max_undecodable < 0:
        raise UserError(f"the number of undecodable files allowed must be at least 0, not {max_undecodable}")


def _refuse_inside(source: str | Path, objects: Objects) -> None:
    if isinstance(objects, LocalObjects):
        inside = Path(source).is_dir() and objects.root.resolve().is_relative_to(Path(source).resolve())
    else:
        inside = f"{objects.address}/".startswith(f"{source}".rstrip("/") + "/")
    if inside:
        raise UserError(
            f"the data set {objects.address} would lie inside its own source {source}; name another place for it"
        )
