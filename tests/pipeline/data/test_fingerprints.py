"""Fingerprints: a function of the bytes, quick for any size."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.data import fingerprints
from pipeline.data.fingerprints import fingerprint_bytes, fingerprint_listing
from pipeline.data.source_files import Entry
from pipeline.objects import open_objects


def _print(folder: Path, *parts: bytes) -> str:
    named = []
    for number, data in enumerate(parts):
        (folder / str(number)).write_bytes(data)
        named.append((str(number), len(data)))
    return fingerprint_bytes(open_objects(folder), named)


def test_a_small_source_is_hashed_whole(tmp_path: Path) -> None:
    data = os.urandom(9 << 20)
    expected = hashlib.sha256(data).hexdigest()
    assert _print(tmp_path, data) == expected
    assert _print(tmp_path, data[:5], b"", data[5:]) == expected
    assert _print(tmp_path, b"") == hashlib.sha256().hexdigest() == _print(tmp_path)


def test_of_a_large_source_the_size_the_ends_and_samples_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "HASHED_WHOLE", 1000)
    monkeypatch.setattr(fingerprints, "_SAMPLE", 10)
    monkeypatch.setattr(fingerprints, "_SAMPLES", 5)
    data = bytearray(os.urandom(1040))
    first = _print(tmp_path, bytes(data))
    assert _print(tmp_path, bytes(data[:13]), bytes(data[13:])) == first
    assert _print(tmp_path, bytes(data) + b"x") != first
    for start in (0, 257, 515, 772, 1030):
        for inside in (-1, 0, 9, 10):
            at = (start + inside) % len(data)
            data[at] ^= 1
            assert (_print(tmp_path, bytes(data)) != first) == (inside in (0, 9) or at in (0, 1039))
            data[at] ^= 1


def test_beyond_a_gibibyte_little_is_read(tmp_path: Path) -> None:
    """A sparse terabyte: all of it could not be read in the time of a test."""
    with open(tmp_path / "large", "wb") as file:
        file.truncate(1 << 40)
    before = fingerprint_bytes(open_objects(tmp_path), [("large", 1 << 40)])
    with open(tmp_path / "large", "r+b") as file:
        file.seek((1 << 40) - 1)
        file.write(b"x")
    assert fingerprint_bytes(open_objects(tmp_path), [("large", 1 << 40)]) != before


def test_a_listing_is_known_by_names_and_sizes() -> None:
    entries = [Entry("a/1", "a/1", 5, ""), Entry("a/2", "a/2", -1, "not a regular file")]
    expected = hashlib.sha256(b"a/1\x005\na/2\x00-1\n").hexdigest()
    assert fingerprint_listing(entries) == expected
