"""The manifest of a data set: what was made from what, and which shards hold it. Not the images themselves.

A data set is a set of examples stored in one or more *forms* (a size and an encoding) under one address. For every
form there are shards (WebDataset tars) and beside each an index object (`pipeline.data.indices`). ``manifest.json``
is written last, so an address without one holds no data set, whatever else lies there; it lists, for every shard,
its bytes, its sha256, its number of examples and the sha256 of its index. Its ``digest`` covers every field: two
data sets of one digest hold the same bytes, and a result may be filed under it.

Shards are listed by columns, not by rows: a million of them are read in about two seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, overload

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError
from pipeline.objects import MissingObject, Objects, open_objects

MANIFEST_NAME = "manifest.json"
SplitName = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")
Encoding = Literal["png", "webp", "jpeg", "raw"]
SUFFIXES: dict[Encoding, str] = {"png": "png", "webp": "webp", "jpeg": "jpg", "raw": "npy"}
JPEG_QUALITY = 90  # where nobody asks for another
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_SHARD = re.compile(r"[0-9]+-(png|webp|jpeg|raw)/(train|val)-[0-9]{5,}\.(tar|index)")


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Form(_Strict):
    """A way in which every example is stored: ``size`` px a side, in an encoding; ``quality`` is JPEG's (1 to 100)."""

    size: int = Field(ge=1)
    encoding: Encoding
    quality: int | None = Field(None, ge=1, le=100)

    @model_validator(mode="after")
    def _quality_is_of_jpeg(self) -> Form:
        if (self.quality is not None) != (self.encoding == "jpeg"):
            raise ValueError(f"a quality belongs to jpeg and to nothing else, not to {self.encoding}")
        return self

    @property
    def name(self) -> str:
        """The folder of its shards."""
        return f"{self.size}-{self.encoding}"


class Shard(NamedTuple):
    """One tar file of examples as the manifest lists it; names are below the data set's address."""

    name: str
    bytes: int
    sha256: str
    examples: int
    index_sha256: str

    @property
    def index_name(self) -> str:
        return index_name_of(self.name)


def shard_name(form: Form, split: SplitName, number: int) -> str:
    """Where shard ``number`` of a split lies in a form."""
    return f"{form.name}/{split}-{number:05d}.tar"


def index_name_of(shard: str) -> str:
    """Where the index of a shard lies: beside it."""
    return shard.removesuffix(".tar") + ".index"


def is_ours(name: str) -> bool:
    """Whether a name could be that of a shard or an index of some data set."""
    return _SHARD.fullmatch(name) is not None


class ShardColumns(_Strict):
    """The shards of one split in one form, column by column."""

    bytes: tuple[Annotated[int, Field(ge=0)], ...]
    sha256: tuple[Sha256, ...]
    index_sha256: tuple[Sha256, ...]


class Split(_Strict):
    """The examples of one split: how many each shard holds, and by the name of each form where they lie."""

    counts: tuple[Annotated[int, Field(ge=0)], ...]
    shards: dict[str, ShardColumns]

    @property
    def examples(self) -> int:
        return sum(self.counts)


class ShardSequence(Sequence[Shard]):
    """The shards of a split in a form, made when they are asked for: a million would be a second and 200 MB."""

    def __init__(self, form: Form, name: SplitName, split: Split) -> None:
        self._form, self._name, self._counts = form, name, split.counts
        self._columns = split.shards[form.name]

    def __len__(self) -> int:
        return len(self._counts)

    @overload
    def __getitem__(self, at: int) -> Shard: ...
    @overload
    def __getitem__(self, at: slice) -> list[Shard]: ...
    def __getitem__(self, at: int | slice) -> Shard | list[Shard]:
        if isinstance(at, slice):
            return [self._shard(number) for number in range(len(self))[at]]
        return self._shard(range(len(self))[at])

    def _shard(self, number: int) -> Shard:
        columns, name = self._columns, shard_name(self._form, self._name, number)
        return Shard(
            name, columns.bytes[number], columns.sha256[number], self._counts[number], columns.index_sha256[number]
        )


class Undecodable(_Strict):
    """A file of the source that gave no example, and why."""

    name: str
    reason: str


class Source(_Strict):
    """Where the images came from.

    ``fingerprint`` says by content which source it was (`pipeline.data.sources.identify`); ``lossy`` is true when a
    file came in a coding that may lose detail (JPEG above all), which makes scores incomparable with those of the
    lossless original. ``samples`` of a cascade have one form per stage, and no form is the box means of a larger one.
    """

    kind: Literal["folder", "tar", "shards", "drawn", "samples"]
    name: str
    lossy: bool
    fingerprint: Sha256


class Manifest(_Strict):
    """The whole description of a data set; ``forms`` the largest first; ``request`` what else was asked for."""

    format: Literal[2] = 2
    classes: tuple[str, ...]
    resize: str
    forms: tuple[Form, ...] = Field(min_length=1)
    source: Source
    request: dict[str, int | float | str]
    splits: dict[SplitName, Split]
    undecodable: tuple[Undecodable, ...] = ()
    digest: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if list(self.classes) != sorted(set(self.classes)) or not self.classes:
            raise ValueError("classes must be sorted, different from each other and not empty")
        names = [form.name for form in self.forms]
        if len(set(names)) < len(names) or sorted(self.forms, key=lambda form: -form.size) != list(self.forms):
            raise ValueError("forms must be different from each other, the largest first")
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits must be exactly {' and '.join(SPLITS)}")
        for name, split in self.splits.items():
            if set(split.shards) != set(names):
                raise ValueError(f"{name} must list the shards of {', '.join(names)} and of nothing else")
            lengths = {len(column) for columns in split.shards.values() for _, column in columns}
            if lengths - {len(split.counts)}:
                raise ValueError(f"the columns of {name} have different lengths")
        return self

    @property
    def image_size(self) -> int:
        """Side of the largest form, in px."""
        return self.forms[0].size

    def shards(self, split: SplitName, form: Form) -> Sequence[Shard]:
        """The shards of a split in a form, in the order of the examples."""
        return ShardSequence(form, split, self.splits[split])

    def sealed(self) -> Manifest:
        """The same manifest with the digest that its other fields ask for."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})


def digest_of(fields: dict[str, Any]) -> str:
    """Sha256 over the canonical JSON (sorted keys, no spaces, ASCII) of every field but ``digest``."""
    rest = {key: value for key, value in fields.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def save_manifest(objects: Objects, manifest: Manifest) -> None:
    """Publish a sealed manifest, whole or not at all: from here on the address holds a data set."""
    assert manifest.digest == manifest.sealed().digest, "seal the manifest before saving it"
    text = json.dumps(manifest.model_dump(mode="json"), separators=(",", ":")).replace('"splits":', '\n"splits":')
    objects.write(MANIFEST_NAME, (text + "\n").encode("ascii"))


def load_manifest(address: str | Path) -> Manifest:
    """Read the manifest of the data set at a folder or ``s3://`` address and check it against its own digest.

    Shards are not looked at: reading (`pipeline.data.loading`) checks what it reads, ``rayfall ingest --verify``
    (`pipeline.data.verifying`) everything. Raises UserError when there is no manifest or when it was altered.
    """
    objects = open_objects(address)
    try:
        text = objects.read(MANIFEST_NAME)
    except MissingObject:
        raise UserError(
            f"there is no data set in {objects.address}: it holds no {MANIFEST_NAME}; "
            "make one with rayfall ingest SOURCE DEST"
        ) from None
    return parse_manifest(text, f"{objects.address}/{MANIFEST_NAME}")


def parse_manifest(text: bytes, where: str) -> Manifest:
    """The manifest that ``text`` is; ``where`` is for the messages. Raises UserError for anything else."""
    try:
        fields = json.loads(text)
        found = fields.get("format") if isinstance(fields, dict) else None
        if found != 2:
            raise UserError(f"{where} is a manifest of format {found}, and this version reads 2; ingest the data anew")
        manifest = Manifest.model_validate(fields)  # not parsed a second time: it may be 150 MB
        whole = manifest.digest == digest_of(fields)
    except UserError:
        raise
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UserError(f"{where} is not a manifest of this version: {place}: {first['msg']}") from None
    except ValueError as error:
        raise UserError(f"{where} is not a manifest: {error}; ingest the data set again") from None
    if not whole:
        raise UserError(f"{where} was altered: its digest does not fit its content; ingest the data set again")
    return manifest
