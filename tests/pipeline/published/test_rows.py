"""Published results as data: every figure has its source, and only the asked data set and size are given."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from pipeline.published.rows import FILE, PublishedRow, library, published_set, read_library, rows_for

WORDNET = [f"n{number:08d}" for number in range(1000)]
TEXT = resources.files("pipeline.published").joinpath(FILE).read_text(encoding="utf-8")


def _row(model: str, size: int, **fields: Any) -> PublishedRow:
    rows = [row for row in rows_for("ImageNet", size) if row.model == model]
    return next(row for row in rows if all(getattr(row, name) == value for name, value in fields.items()))


def test_every_row_says_where_it_was_seen_and_how_sure_that_is() -> None:
    rows = library().rows
    assert len(rows) > 60
    models = {row.model for row in rows}
    assert {"CDM", "SR3", "ADM", "simple diffusion", "SiD2", "EDM2", "BigGAN-deep", "VQ-VAE-2"} <= models
    for row in rows:
        assert row.paper
        assert row.source
        from_memory = row.sure.endswith("memory")
        assert from_memory == row.source.startswith("memory of")
        assert not (from_memory and row.unverified)  # all of such a row is from memory
        assert bool(row.unverified) == ("memory of" in row.source and not from_memory)
    told = [(row.name, row.size, row.kind, row.study, row.guidance, row.paper) for row in rows]
    assert len(set(told)) == len(told)


def test_papers_sources_and_resizes_are_all_used() -> None:
    raw = YAML(typ="safe", pure=True).load(TEXT)
    assert {key for row in raw["rows"] for key in row["source"]} == set(raw["sources"])
    assert {row["paper"] for row in raw["rows"]} == set(raw["papers"])
    assert {row["resize"] for row in raw["rows"] if "resize" in row} == set(raw["resizes"])


def test_figures_of_the_cascades_that_people_ask_for() -> None:
    figures = {
        row.size: (row.fid_train, row.fid_val, row.inception_score, row.cas_top1, row.cas_top5)
        for row in library().rows
        if row.model == "CDM" and row.study == "result"
    }
    assert figures == {
        32: (1.11, 1.99, 26.01, None, None),
        64: (1.48, 2.48, 67.95, None, None),
        128: (3.52, 3.76, 128.80, 0.5984, 0.8179),
        256: (4.88, 4.63, 158.71, 0.6302, 0.8406),
    }
    assert _row("SR3", 256, kind="cascade", study="result").fid_train == 11.3
    assert _row("SiD2", 128).sure == "faint_memory"
    small = _row("simple diffusion", 128, variant="U-Net", study="result")
    assert [small.verified(figure) for figure in ("fid_train", "fid_val", "inception_score")] == [False, False, True]


def test_an_fid_whose_reference_set_the_source_does_not_tell_is_unverified() -> None:
    raw = YAML(typ="safe", pure=True).load(TEXT)
    page = raw["sources"]["pwc"]
    assert "does not tell the reference set" in page
    seen = [row for row in library().rows if page in row.source]
    assert len(seen) == 6
    assert not any(row.verified("fid_val") for row in seen)


@pytest.mark.parametrize(
    ("old", "new", "error", "word"),
    [
        ("kind: cascade,", "kind: cascade, colour: red,", ValidationError, "colour"),
        ("sure: read", "sure: certain", ValidationError, "sure"),
        ("fid_train: 1.48, fid_val: 2.48, inception_score: 67.95, ", "", ValidationError, "no figure"),
        ("fid_train: 1.48", "fid_train: -1.48", ValidationError, "fid_train"),
        ("cas_top1: 0.5984", "cas_top1: 59.84", ValidationError, "cas_top1"),
        ("unverified: [fid_train, fid_val]", "unverified: [fid]", ValidationError, "unverified"),
        ("source: [cdm_tables], sure", "source: [hearsay], sure", KeyError, "hearsay"),
        ("source: [cdm_tables], sure", "source: [], sure", ValidationError, "source"),
    ],
)
def test_a_row_that_says_too_much_or_too_little_is_refused(old: str, new: str, error: Any, word: str) -> None:
    assert old in TEXT
    with pytest.raises(error, match=word):
        read_library(TEXT.replace(old, new, 1))


def test_rows_are_of_the_data_set_and_the_size_alone() -> None:
    assert {row.size for row in rows_for("imagenet", 64)} == {64}
    assert rows_for("imagenet", 48) == rows_for("drawn", 64) == rows_for("cifar10.tar.gz", 32) == []
    found = rows_for("imagenet", 256)
    studies = [row.study for row in found]
    assert studies == sorted(studies, reverse=True)  # results before ablations
    first = [row.fid_train or row.fid for row in found if row.study == "result"]
    assert first == sorted(first, key=lambda fid: fid or 0.0)


@pytest.mark.parametrize(
    ("name", "classes", "title"),
    [
        ("ILSVRC2012_img_train.tar", [], "ImageNet"),
        ("imagenet-sample.tar.gz", WORDNET[:400], "ImageNet"),
        ("train", WORDNET, "ImageNet"),
        ("train", ["cat", "dog"], None),
        ("train", [*WORDNET, "cat"], None),
        ("drawn", ["arrow", "ring"], None),
        ("cifar10.tar.gz", ["airplane"], None),
    ],
)
def test_imagenet_is_known_by_its_name_or_its_classes(name: str, classes: list[str], title: str | None) -> None:
    assert published_set(name, classes) == title


def test_the_data_is_packed_and_read_without_anything_heavy() -> None:
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["pipeline"]
    for path in (f"published/{FILE}", "report/templates/published.html"):
        assert (root / "pipeline" / path).is_file()
        assert any(fnmatch(path, pattern) for pattern in patterns)
    code = (
        "import sys; from pipeline.published.rows import library; import pipeline.published.tables; "
        "assert library().rows; "
        "print({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
