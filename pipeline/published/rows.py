"""Results that others published, as data: ``rows_for`` a data set and a size. Not a judgement of what compares with
them (``pipeline.published.terms``), nor how they are shown (``pipeline.published.tables``).

The figures are in ``rows.yaml`` beside this file, each row with where it was seen and how sure that is. No figure
was taken here, and none is computed. Imports no torch, Ray or MLflow.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ruamel.yaml import YAML

FILE = "rows.yaml"
Kind = Literal["cascade", "single", "latent", "upsampler", "real"]
KINDS: Mapping[Kind, str] = {
    "cascade": "cascade",
    "single": "one stage",
    "latent": "latent",
    "upsampler": "super-resolution alone",
    "real": "real images",
}
Guidance = Literal["none", "classifier", "classifier_free", "interval", "autoguidance", "guided", "truncation"]
GUIDED: Mapping[Guidance, str] = {
    "none": "no",
    "classifier": "classifier",
    "classifier_free": "classifier-free",
    "interval": "in an interval",
    "autoguidance": "autoguidance",
    "guided": "yes",
    "truncation": "truncation",
}
Sure = Literal["read", "second_hand", "memory", "faint_memory"]
SURE: Mapping[Sure, str] = {
    "read": "read at the source",
    "second_hand": "second hand",
    "memory": "from memory, unverified",
    "faint_memory": "from memory, unsure",
}
FIGURES = ("fid_train", "fid_val", "fid", "inception_score", "cas_top1", "cas_top5")
Figure = Literal["fid_train", "fid_val", "fid", "inception_score"]  # what may be from memory though the rest is not
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PublishedRow(_Strict):
    """What one paper or table says of one model at ``size`` px.

    ``fid_train`` and ``fid_val`` are FID to training and to validation images, ``fid`` that to images that were not
    told; ``inception_score_std`` its spread over splits; ``cas_*`` shares in [0, 1]. Its terms are ``samples`` (of
    FID), ``extractor``, ``guidance``, ``resize`` (of the reference) and ``conditional`` (on the class), with None for
    what was not told. ``kind`` "upsampler" was given real low-res images. ``study`` tells results from steps of an
    ablation. ``source`` says where the figures were seen, ``sure`` how sure that is; those in ``unverified``, or the
    reference set of an FID there, are from memory whatever ``sure`` says.
    """

    model: str
    variant: str = ""
    paper: str
    year: int = Field(ge=1990)
    dataset: str = "ImageNet"
    size: int = Field(ge=1)
    conditional: bool | None = True
    kind: Kind
    study: Literal["result", "ablation"] = "result"
    guidance: Guidance | None
    fid_train: Positive | None = None
    fid_val: Positive | None = None
    fid: Positive | None = None
    inception_score: Positive | None = None
    inception_score_std: Positive | None = None
    cas_top1: Share | None = None
    cas_top5: Share | None = None
    samples: int | None = Field(50_000, ge=1)
    extractor: Literal["Inception-v3"] = "Inception-v3"
    resize: str | None = None
    note: str = ""
    source: str = Field(min_length=1)
    sure: Sure
    unverified: tuple[Figure, ...] = ()

    @model_validator(mode="after")
    def _figures_exist(self) -> PublishedRow:
        given = {name for name in FIGURES if getattr(self, name) is not None}
        if not given:
            raise ValueError(f"{self.name} at {self.size} px has no figure")
        if self.cas_top5 is not None and self.cas_top1 is None:
            raise ValueError(f"{self.name} has a CAS of the top 5 and none of the top 1")
        if absent := set(self.unverified) - given:
            raise ValueError(f"{self.name} has no {sorted(absent)[0]} that could be unverified")
        return self

    @property
    def name(self) -> str:
        """Model and variant."""
        return f"{self.model}, {self.variant}" if self.variant else self.model

    @property
    def reference(self) -> str:
        """The images that the first of its FIDs was taken against."""
        if self.fid_train is not None:
            return "training images"
        return "validation images" if self.fid is None and self.fid_val is not None else "not told"

    def verified(self, figure: str) -> bool:
        """Whether a figure was read somewhere, with what an FID is to, and is not from memory."""
        return self.sure in ("read", "second_hand") and figure not in self.unverified


class PublishedSet(_Strict):
    """A data set that results are of: its counts, and what it is known by.

    ``names`` are parts of what people call its archives and folders, ``class_names`` the pattern of its class folders.
    """

    classes: int = Field(ge=1)
    train: int = Field(ge=1)
    val: int = Field(ge=1)
    names: tuple[str, ...]
    class_names: str


class Library(_Strict):
    """All that is shipped: data sets by name, and rows."""

    datasets: dict[str, PublishedSet]
    rows: tuple[PublishedRow, ...]


class _Paper(_Strict):
    year: int
    words: str


class _File(_Strict):
    datasets: dict[str, PublishedSet]
    papers: dict[str, _Paper]
    sources: dict[str, str]
    resizes: dict[str, str]
    rows: list[dict[str, Any]]


def read_library(text: str) -> Library:
    """The library that a file like ``rows.yaml`` holds.

    Raises ValueError (pydantic's) for unknown keys, impossible values and rows without a figure or a source, KeyError
    for a paper, a source or a resize that the file does not explain.
    """
    file = _File.model_validate(YAML(typ="safe", pure=True).load(text))
    return Library(datasets=file.datasets, rows=tuple(_row(file, given) for given in file.rows))


def _row(file: _File, given: dict[str, Any]) -> PublishedRow:
    """A row with its keys replaced by what they stand for."""
    paper = file.papers[given["paper"]]
    told = {"paper": paper.words, "year": paper.year, "source": "; ".join(file.sources[key] for key in given["source"])}
    if given.get("resize") is not None:
        told["resize"] = file.resizes[given["resize"]]
    return PublishedRow(**{**given, **told})


@functools.cache
def library() -> Library:
    """What ships with Rayfall; read once."""
    return read_library(resources.files("pipeline.published").joinpath(FILE).read_text(encoding="utf-8"))


def published_set(name: str, classes: Sequence[str] = ()) -> str | None:
    """The data set that one of ours is, wholly or in part, as its published results call it; None: of none.

    ``name`` is that of the manifest's source (a folder or an archive), ``classes`` the manifest's. Known by either:
    ILSVRC2012_img_train.tar is ImageNet, and so is a folder ``train`` whose classes are all WordNet numbers. Parts of
    it (a sample, a hundred classes) count; ``terms.incomparable`` says what they lack.
    """
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    for title, known in library().datasets.items():
        of_it = bool(classes) and all(re.fullmatch(known.class_names, label) for label in classes)
        if of_it or any(part in plain for part in known.names):
            return title
    return None


def rows_for(name: str, size: int, classes: Sequence[str] = ()) -> list[PublishedRow]:
    """The published results of the data set that ``name`` and ``classes`` tell, at ``size`` px, by their first FID."""
    title = published_set(name, classes)
    found = [row for row in library().rows if row.dataset == title and row.size == size]
    return sorted(found, key=lambda row: (row.study == "ablation", row.fid_train or row.fid or row.fid_val or 0.0))


def sizes_of(title: str) -> list[int]:
    """The sizes in px at which there are results of a data set, the smallest first."""
    return sorted({row.size for row in library().rows if row.dataset == title})
