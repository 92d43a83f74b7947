"""The manifest of a data set: what was made from what, and which shards hold it. Not the images themselves.

A data set is a folder of WebDataset shards plus ``manifest.json``. The manifest is written last and by
rename, so a folder without one holds no data set, whatever else lies there. Its ``digest`` covers every
other field, the shards' sha256 among them: two data sets of one digest hold the same bytes, and a result
may be filed under it.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import UserError

MANIFEST_NAME = "manifest.json"
SplitName = Literal["train", "val"]
SPLITS: tuple[SplitName, ...] = ("train", "val")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Strict):
    """One tar file of examples. The name is a bare file name, so no manifest can point outside its folder."""

    name: str = Field(pattern=r"^(train|val)-[0-9]{5,}\.tar$")
    bytes: int = Field(ge=0)
    sha256: Sha256
    examples: int = Field(ge=1)


class Split(_Strict):
    """The shards of one split, in the order of its examples; ``examples`` is their sum, 0 for an empty
    split."""

    examples: int = Field(ge=0)
    shards: tuple[Shard, ...]


class Undecodable(_Strict):
    """A file of the source that gave no example, and why."""

    name: str
    reason: str


class Source(_Strict):
    """Where the images came from.

    ``fingerprint`` is the sha256 of the archive, of the folder's listing (paths and sizes) or of a few drawn
    images; ``lossy`` is true when a file came in a coding that may lose detail (JPEG above all), which makes
    scores incomparable with those of the lossless original.
    """

    kind: Literal["folder", "tar", "drawn"]
    name: str
    lossy: bool
    fingerprint: Sha256


class Manifest(_Strict):
    """The whole description of a data set; ``request`` holds the remaining numbers that were asked for."""

    format: Literal[1] = 1
    classes: tuple[str, ...]
    image_size: int = Field(ge=1)
    resize: str
    encoding: Literal["png"] = "png"
    source: Source
    request: dict[str, int | float]
    splits: dict[SplitName, Split]
    undecodable: tuple[Undecodable, ...] = ()
    digest: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if list(self.classes) != sorted(set(self.classes)) or not self.classes:
            raise ValueError("classes must be sorted, different from each other and not empty")
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits must be exactly {' and '.join(SPLITS)}")
        for name, split in self.splits.items():
            if split.examples != sum(shard.examples for shard in split.shards):
                raise ValueError(f"the shards of {name} do not add up to its {split.examples} examples")
            if any(not shard.name.startswith(f"{name}-") for shard in split.shards):
                raise ValueError(f"a shard of another split is listed under {name}")
        return self

    def sealed(self) -> Manifest:
        """The same manifest with the digest that its other fields ask for."""
        return self.model_copy(update={"digest": digest_of(self.model_dump(mode="json"))})


def digest_of(fields: dict[str, Any]) -> str:
    """Sha256 over the canonical JSON (sorted keys, no spaces, ASCII) of every field but ``digest``."""
    rest = {key: value for key, value in fields.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Publish a sealed manifest, by rename: from here on the folder holds a data set."""
    assert manifest.digest == manifest.sealed().digest, "seal the manifest before saving it"
    temporary = folder / f"{MANIFEST_NAME}.tmp"
    temporary.write_text(json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n", encoding="ascii")
    os.replace(temporary, folder / MANIFEST_NAME)


def load_manifest(path: str | Path) -> Manifest:
    """Read the manifest of a data set from its folder (or from the file itself) and check it.

    Cheap: every shard must be there with the size on record, no byte of it is read (`pipeline.data.shards.verify`
    hashes them). Raises UserError when there is no manifest, when it was altered, or naming the first shard
    that is missing or has another size.
    """
    file = Path(path)
    if file.name != MANIFEST_NAME:
        file = file / MANIFEST_NAME
    manifest = _parse(file)
    for split in SPLITS:
        for shard in manifest.splits[split].shards:
            check_size(file.parent, shard)
    return manifest


def check_size(folder: Path, shard: Shard) -> None:
    """Raise UserError when the shard is missing from the folder or has another size than on record."""
    path = folder / shard.name
    if not path.is_file():
        raise UserError(f"shard {shard.name} of the data set {folder} is missing; ingest the data set again")
    found = path.stat().st_size
    if found != shard.bytes:
        raise UserError(
            f"shard {shard.name} of the data set {folder} has {found} bytes instead of the {shard.bytes} "
            "that its manifest lists; ingest the data set again"
        )


def _parse(file: Path) -> Manifest:
    try:
        text = file.read_text(encoding="ascii")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"there is no data set in {file.parent}: it holds no {MANIFEST_NAME}; "
            "make one with rayfall ingest SOURCE DEST"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as a manifest: {error}") from None
    try:
        fields = json.loads(text)
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UserError(f"{file} is not a manifest of this version: {where}: {first['msg']}") from None
    except ValueError as error:
        raise UserError(f"{file} is not a manifest: {error}") from None
    if manifest.digest != digest_of(fields):
        raise UserError(f"{file} was altered: its digest does not fit its content; ingest the data set again")
    return manifest
