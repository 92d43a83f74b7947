"""Rows 5 and 6: a shard that is cut short or altered is refused by name; stock webdataset loses examples silently.

Here the shard of 20 examples and the 198 cuts on which stock webdataset was measured. Cuts and flips of every form, of
indices, manifests and objects in a bucket, each with its twin: ``tests/pipeline/data/test_damage.py``; bodies that a
store sends cut short: ``tests/pipeline/test_objects.py``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import webdataset

from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.data.verifying import verify
from pipeline.errors import UserError

pytestmark = pytest.mark.faults

EXAMPLES, CUTS, FLIPS, SEED = 20, 198, 100, 6


class Found(NamedTuple):
    """What reading every example of the shard came to."""

    refused: int
    silent: int  # another number of examples, or other bytes, without a word


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ingest_drawn(tmp_path / "set", seed=0, forms=make_forms([(8, "raw")]), train=EXAMPLES, val=0, shard_size=EXAMPLES)
    return tmp_path / "set"


def shard_of(folder: Path) -> Path:
    (shard,) = folder.glob("*/train-*.tar")
    return shard


def ours(folder: Path, whole: Any) -> Found:
    refused = silent = 0
    for number in range(EXAMPLES):
        try:
            silent += not np.array_equal(Examples(folder, "train").read([number])[0], whole[number : number + 1])
        except UserError as error:
            refused += shard_of(folder).name in str(error)
    return Found(refused, silent)


def stock(folder: Path) -> list[tuple[str, bytes, bytes]] | None:
    """The samples that stock webdataset gives; None where it raised."""
    try:
        samples = list(webdataset.WebDataset(str(shard_of(folder)), shardshuffle=False))
    except Exception:  # whatever it raises, it was not silent
        return None
    return [(one["__key__"], one.get("npy", b""), one.get("cls", b"")) for one in samples]


def test_a_shard_cut_at_198_points(folder: Path, record_figure: Any) -> None:
    whole = Examples(folder, "train").read(np.arange(EXAMPLES))[0]
    samples, size = stock(folder), shard_of(folder).stat().st_size
    assert samples is not None
    assert len(samples) == EXAMPLES
    detected = lost = 0
    cuts = [size * number // (CUTS + 1) for number in range(CUTS, 0, -1)]
    for cut in cuts:
        os.truncate(shard_of(folder), cut)
        detected += ours(folder, whole) == Found(EXAMPLES, 0) and len(verify(folder).faults) == 1
        found = stock(folder)
        lost += found is not None and found != samples
    assert (detected, len(cuts)) == (CUTS, CUTS)
    assert lost > CUTS / 10
    record_figure(
        5, "a shard cut short, at evenly spaced points", f"refused by name {detected} of {CUTS}, silent losses 0"
    )
    record_figure(5, "the same, stock webdataset", f"silent losses {lost} of {CUTS}", protected=False)


def test_a_byte_flipped_at_rest_at_100_points(folder: Path, record_figure: Any) -> None:
    whole, shard = Examples(folder, "train").read(np.arange(EXAMPLES))[0], shard_of(folder)
    samples, data, dice = stock(folder), shard.read_bytes(), np.random.default_rng(SEED)
    detected = wrong = silent = refused = 0
    for place in dice.choice(len(data), FLIPS, replace=False).tolist():
        shard.write_bytes(data[:place] + bytes([data[place] ^ 1 << int(dice.integers(8))]) + data[place + 1 :])
        detected += len(verify(folder).faults) == 1
        found = ours(folder, whole)
        wrong, refused = wrong + found.silent, refused + (found.refused > 0)
        other = stock(folder)
        silent += other is not None and other != samples
    assert (detected, wrong) == (FLIPS, 0)
    assert silent > 0
    told = f"detected by verify {detected} of {FLIPS}; reading refuses {refused}, gives wrong pixels {wrong}"
    record_figure(6, "a byte of a shard flipped at rest", f"{told} (the rest are bytes that nobody reads); seed {SEED}")
    record_figure(6, "the same, stock webdataset", f"other samples without a word {silent} of {FLIPS}", protected=False)
