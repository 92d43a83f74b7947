"""Images from anywhere to scores and a passport, with a real (small, untrained) classifier as the extractor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.classifier import Classifier, save_classifier
from pipeline.data.ingest import ingest_drawn, make_forms
from pipeline.data.loading import Examples
from pipeline.errors import UserError
from pipeline.fan_out import FanOut, in_threads, in_turn, on_ray
from pipeline.foreign.judgement import Request, judge
from pipeline.scoring.extractors import build_extractor
from pipeline.scoring.passport import Passport, rank
from pipeline.scoring.statistics import stats_of

SIZE = 8


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, a folder of other images, and a classifier of 12 features."""
    place = tmp_path_factory.mktemp("foreign")
    ingest_drawn(place / "data", seed=0, forms=make_forms([(SIZE, "png")]), train=300, val=100, shard_size=100)
    pixels, labels = Examples(place / "data", "val").read(range(100))
    for number, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = place / "folder" / str(label) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - image).save(path)
    torch.manual_seed(0)
    save_classifier(Classifier(channels=(4, 8), blocks=1, classes=3, size=SIZE).eval(), place / "classifier")
    return place


def ask(place: Path, cache: Path, **changes: Any) -> Request:
    """The folder against the training images."""
    request = Request(
        images=str(place / "folder"),
        against=str(place / "data"),
        scorer=str(place / "classifier"),
        weights=None,
        sha256=None,
        split="train",
        sample_split=None,
        count=None,
        size=None,
        resize=None,
        labels=None,
        block=16,
        neighbours=3,
        device="cpu",
        cache=cache,
    )
    return replace(request, **changes)


def judged(request: Request, scratch: Path, fan_out: FanOut = in_turn) -> dict[str, Any]:
    told: list[tuple[str, int, int]] = []
    found = judge(
        request, fan_out=fan_out, threads=1, scratch=scratch, progress=lambda *progress: told.append(progress)
    )
    assert told[-1] == ("samples", found["samples"], found["samples"])
    assert json.loads(json.dumps(found)) == found
    return found


def test_the_scores_are_of_these_images_and_the_passport_says_of_which(place: Path, tmp_path: Path) -> None:
    found = judged(ask(place, tmp_path / "cache"), tmp_path / "scratch")
    passport = Passport.model_validate(found["passport"])
    assert (passport.samples, passport.indices, passport.size) == (100, (0, 100), SIZE)
    assert (passport.source.kind, passport.source.address) == ("foreign", str(place / "folder"))
    assert (passport.reference.images, passport.reference.near, passport.reference.split) == (300, 100, "train")
    assert passport.extractor.name == "classifier"
    extract = build_extractor({"kind": "classifier"}, weights=place / "classifier")
    assert passport.extractor.sha256 == extract.sha256
    train, _ = Examples(place / "data", "train").read(range(300))
    blocks = [extract(train[start : start + 16]).features for start in range(0, 300, 16)]
    kept = np.load(next((tmp_path / "cache" / "references").glob("*/features.npy")))
    assert np.array_equal(kept, np.concatenate(blocks)), "features are of canonical blocks"
    assert (
        found["fid"]
        > 10
        * judged(ask(place, tmp_path / "cache", images=str(place / "data"), sample_split="val"), tmp_path / "again")[
            "fid"
        ]
    )
    assert stats_of(kept).count == 300


def test_a_split_against_itself_is_perfect(place: Path, tmp_path: Path) -> None:
    request = ask(place, tmp_path / "cache", images=str(place / "data"), sample_split="val", split="val")
    found = judged(request, tmp_path / "scratch")
    assert found["fid"] < 1e-6
    assert (found["precision"], found["recall"]) == (1.0, 1.0)


def scored(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "passport"}


def test_every_form_of_the_same_images_gives_the_same_scores(place: Path, tmp_path: Path) -> None:
    pixels, labels = Examples(place / "data", "val").read(range(100))
    np.savez(tmp_path / "plain.npz", arr_0=pixels, arr_1=labels)
    np.savez_compressed(tmp_path / "packed.npz", arr_0=pixels, arr_1=labels)
    sources = (
        {"images": str(place / "data"), "sample_split": "val"},
        *({"images": str(tmp_path / name)} for name in ("plain.npz", "packed.npz")),
    )
    first, *others = (
        judged(ask(place, tmp_path / "cache", **source), tmp_path / f"scratch{number}")
        for number, source in enumerate(sources)
    )
    for other in others:
        assert scored(other) == scored(first)
    rows = {
        str(number): (Passport.model_validate(one["passport"]), one["fid"])
        for number, one in enumerate([first, *others])
    }
    assert [one["passport"]["source"]["lossy"] for one in (first, *others)] == [False, None, None]
    assert {one["passport"]["labels"] for one in (first, *others)} == {"unknown"}, "equal counts say nothing"
    assert rank(rows).refusal == ""


def test_the_splits_of_a_data_set_share_a_digest_and_no_entry_of_the_cache(place: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        judged(ask(place, tmp_path / "cache", split=split), tmp_path / split)
    assert len(list((tmp_path / "cache" / "references").iterdir())) == 2


def test_threads_are_told_and_another_number_makes_another_entry(place: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            options: dict[str, Any] = {
                "fan_out": in_turn,
                "scratch": tmp_path / str(threads),
                "progress": lambda *_: None,
            }
            found.append(judge(ask(place, tmp_path / "cache"), threads=threads, **options))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert [one["passport"]["device"] for one in found] == ["cpu, torch threads: 1", "cpu, torch threads: 2"]
    assert len(list((tmp_path / "cache" / "references").iterdir())) == 2


@pytest.mark.parametrize("fan_out", [in_threads(3)])
def test_who_does_the_work_changes_no_bit(place: Path, tmp_path: Path, fan_out: FanOut) -> None:
    alone = judged(ask(place, tmp_path / "one"), tmp_path / "scratch1")
    assert judged(ask(place, tmp_path / "two"), tmp_path / "scratch2", fan_out) == alone


@pytest.mark.ray
def test_ray_tasks_change_no_bit(place: Path, tmp_path: Path, ray_cluster: None) -> None:
    alone = judged(ask(place, tmp_path / "one"), tmp_path / "scratch1")
    assert judged(ask(place, tmp_path / "two"), tmp_path / "scratch2", on_ray(name="see")) == alone


def test_count_takes_the_first_and_the_reference_is_cut_for_nearness_alone(place: Path, tmp_path: Path) -> None:
    found = judged(ask(place, tmp_path / "cache", count=60), tmp_path / "scratch")
    mark = found["passport"]["reference"]
    assert (found["samples"], mark["images"], mark["near"]) == (60, 300, 60)
    assert found["passport"]["labels"] == "unknown"
    said = judged(ask(place, tmp_path / "cache", labels="histogram"), tmp_path / "said")
    assert said["passport"]["labels"] == "histogram"


def test_a_resize_that_was_asked_for_is_in_the_passport_and_forbids_a_ranking(place: Path, tmp_path: Path) -> None:
    pixels = Examples(place / "data", "val").read(range(100))[0]
    np.savez(tmp_path / "large.npz", arr_0=pixels.repeat(2, axis=1).repeat(2, axis=2))
    request = ask(place, tmp_path / "cache", images=str(tmp_path / "large.npz"), size=SIZE)
    with pytest.raises(UserError, match="16 x 16 px, where all images must be of 8 x 8 px; say --resize"):
        judged(request, tmp_path / "refused")
    found = {name: judged(replace(request, resize=name), tmp_path / str(name)) for name in ("box", "bicubic")}
    assert found["box"]["passport"]["source"]["resize"] == "box to 8 px (Pillow)"
    rows = {name: (Passport.model_validate(one["passport"]), one["fid"]) for name, one in found.items()}
    assert "differ in source.resize" in rank(rows).refusal
    same = {"images": str(place / "data"), "sample_split": "val"}
    assert scored(found["box"]) == scored(judged(ask(place, tmp_path / "cache", **same), tmp_path / "same"))


def adm_batch(path: Path, dimension: int, **more: Any) -> Path:
    np.savez(path, mu=np.zeros(dimension), sigma=np.eye(dimension), **more)
    return path


WRONG: dict[str, tuple[Callable[[Path, Path], dict[str, Any]], str]] = {
    "no manifest": (lambda place, at: {"against": str(at)}, "there is no image in"),
    "absent reference": (lambda place, at: {"against": str(at / "x")}, "there is no folder and no archive at"),
    "split not said": (lambda place, at: {"images": str(place / "data")}, "say --sample-split train or --sample-split"),
    "too many": (lambda place, at: {"count": 101}, "--count 101: there are only 100 images"),
    "other size": (lambda place, at: {"size": 4}, "8 x 8 px, where all images must be of 4 x 4 px"),
    "no such size": (lambda place, at: {"size": 16, "resize": None}, "of 16 x 16 px; say --resize"),
    "no scorer": (lambda place, at: {"scorer": "incepton"}, "neither inception nor dinov2 nor the folder of"),
    "no classifier": (lambda place, at: {"scorer": str(place / "data")}, "holds no trained classifier"),
    "weights of a folder": (lambda place, at: {"weights": "x.pth"}, "a classifier's folder holds its own"),
    "no weights": (lambda place, at: {"scorer": "inception"}, "needs --weights FILE: get weights-inception-2015"),
    "no dino": (lambda place, at: {"scorer": "dinov2"}, "needs --weights FILE: get dinov2_vitl14_pretrain.pth"),
    "absent weights": (
        lambda place, at: {"scorer": "inception", "weights": str(at / "x.pth")},
        "there is no Inception-v3 weights file at",
    ),
    "wrong sha256": (
        lambda place, at: {"scorer": "inception", "weights": "x.pth", "sha256": "abc"},
        "--sha256: a sha256 has 64 digits",
    ),
    "foreign statistics": (
        lambda place, at: {"against": str(adm_batch(at / "ref.npz", 12))},
        "holds statistics of 12 features of Inception-v3",
    ),
    "statistics of another size": (
        lambda place, at: {"against": str(adm_batch(at / "ref.npz", 12, arr_0=np.zeros((5, 16, 16, 3), np.uint8)))},
        "are of images of 16 px, and the samples would be judged at 8 px",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_before_any_work(case: str, place: Path, tmp_path: Path) -> None:
    make, expected = WRONG[case]

    def no_work(*_: Any) -> Any:
        raise AssertionError("work began")

    with pytest.raises(UserError) as error:
        judged(ask(place, tmp_path / "cache", **make(place, tmp_path)), tmp_path / "scratch", no_work)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_an_image_that_cannot_be_decoded_ends_it_by_name(place: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (SIZE, SIZE), (number, 0, 0)).save(folder / f"{number}.png")
    (folder / "7.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"7\.png cannot be decoded"):
        judged(ask(place, tmp_path / "cache", images=str(folder)), tmp_path / "scratch")
