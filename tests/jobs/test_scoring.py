"""``rayfall evaluate IMAGES --against REFERENCE`` as a person types it: the table, the JSON, and every refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from jobs.cli import app
from jobs.scoring import _threads
from pipeline.classifier import Classifier, save_classifier
from pipeline.scoring.inception_blocks import state_shapes
from pipeline.scoring.passport import Passport

SIZE = 8


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["evaluate", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """The sentence with which a user's mistake is answered."""
    answer = evaluate(*arguments)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    assert "Traceback" not in answer.stderr
    assert answer.stderr.count("\n") == 1, "one sentence on one line"
    return answer.stderr


def images(folder: Path, count: int, seed: int) -> Path:
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of images, and a classifier of 12 features."""
    place = tmp_path_factory.mktemp("scoring")
    images(place / "fake", 60, 0)
    images(place / "real", 80, 1)
    (place / "fake" / "notes.txt").write_text("steps: 50")
    torch.manual_seed(0)
    save_classifier(Classifier(channels=(4, 8), blocks=1, classes=3, size=SIZE).eval(), place / "classifier")
    return place


def order(place: Path, cache: Path) -> list[object]:
    against = ["--against", place / "real", "--scorer", place / "classifier", "--cache", cache]
    return [place / "fake", *against]


def test_a_table_of_scores_with_errors_flags_and_the_passport(place: Path, tmp_path: Path) -> None:
    answer = evaluate(*order(place, tmp_path))
    assert answer.exit_code == 0, answer.output
    for text in ("score (classifier features)", "FID", "KID", "Inception score", "precision", "recall", "passport"):
        assert text in answer.stdout
    assert "note: the FID of 60 samples is biased upwards" in answer.stdout
    assert "left out: notes.txt: no image by its suffix" in answer.stdout
    assert re.search(r"FID +[0-9.e-]+ +± [0-9.e-]+", answer.stdout)
    assert re.search(r"KID +[0-9.e-]+ +spread [0-9.e-]+ over subsets", answer.stdout)
    assert "samples: done in" in answer.stderr
    assert "reference: started" in answer.stderr
    again = evaluate(*order(place, tmp_path))
    assert "reference" not in again.stderr, "it is in the cache"
    assert again.stdout == answer.stdout


def test_json_and_the_file_say_the_same(place: Path, tmp_path: Path) -> None:
    answer = evaluate(*order(place, tmp_path / "cache"), "--json", "--out", tmp_path / "new" / "scores.json")
    assert answer.exit_code == 0, answer.output
    figures: dict[str, Any] = json.loads(answer.stdout)
    assert json.loads((tmp_path / "new" / "scores.json").read_text()) == figures
    assert figures["fid"] > 0
    assert figures["samples"] == 60
    passport = Passport.model_validate(figures["passport"])
    assert passport.source.address == str(place / "fake")


def test_inception_and_an_adm_reference_batch(place: Path, tmp_path: Path) -> None:
    """Untrained weights in torch-fidelity's format: the figures mean nothing, the way to them is the real one."""
    torch.manual_seed(0)
    torch.save({name: torch.rand(shape) * 0.02 for name, shape in state_shapes().items()}, tmp_path / "inception.pth")
    pixels = np.random.default_rng(2).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
    statistics: dict[str, Any] = {"mu": np.zeros(2048), "sigma": np.eye(2048)}
    statistics |= {"mu_s": np.zeros(2023), "sigma_s": np.eye(2023)}
    np.savez(tmp_path / "reference.npz", arr_0=pixels, **statistics)
    np.savez(tmp_path / "samples.npz", arr_0=pixels[::-1])
    answer = evaluate(
        tmp_path / "samples.npz", "--against", tmp_path / "reference.npz", "--weights", tmp_path / "inception.pth",
        "--cache", tmp_path / "cache", "--json",
    )  # fmt: skip
    assert answer.exit_code == 0, answer.output
    figures = json.loads(answer.stdout)
    assert figures["fid"] is figures["sfid"] is None
    assert "no FID of 6 samples: features of 2,048 dimensions" in figures["flags"][0]
    assert (figures["precision"], figures["recall"]) == (1.0, 1.0), "the same images in another order"
    assert figures["passport"]["extractor"]["name"] == "inception"
    assert figures["passport"]["reference"]["images"] is None


def test_threads_are_one_for_each_worker_and_what_was_said_or_found_without(place: Path, tmp_path: Path) -> None:
    assert _threads({"workers": 2}) == 1
    assert _threads({"workers": 2, "threads": 3}) == 3
    assert _threads({}) == torch.get_num_threads()
    before = torch.get_num_threads()
    try:
        answer = evaluate(*order(place, tmp_path), "--threads", 2, "--json")
    finally:
        torch.set_num_threads(before)
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["passport"]["device"] == "cpu, torch threads: 2"


WRONG: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "absent folder": (lambda at: [at / "no", "--against", at / "real"], "there is no folder and no archive at"),
    "empty folder": (lambda at: [at / "classifier", "--against", at / "real"], "there is no image in"),
    "absent reference": (lambda at: [at / "fake", "--against", at / "no"], "there is no folder and no archive at"),
    "missing weights": (lambda at: [at / "fake", "--against", at / "real"], "--scorer inception needs --weights FILE"),
    "reference forgotten": (lambda at: [at / "fake"], "is no experiment; to score images, say --against REFERENCE"),
    "npz alone": (lambda at: [at / "x.npz"], "to score images, say --against REFERENCE"),
    "option of images": (
        lambda at: ["demo.yaml", "--sample-split", "val"],
        "--sample-split is of images from anywhere",
    ),
    "settings": (lambda at: [at / "fake", "--against", at / "real", "--set", "seed=1"], "--set changes an experiment"),
    "split": (lambda at: [at / "fake", "--against", at / "real", "--split", "test"], "--split test: say train or val"),
    "resize": (lambda at: [at / "fake", "--against", at / "real", "--resize", "area"], "say box or bicubic"),
    "labels": (lambda at: [at / "fake", "--against", at / "real", "--labels", "all"], "say uniform or histogram"),
    "device": (lambda at: [at / "fake", "--against", at / "real", "--device", "tpu9"], "--device tpu9 cannot be used"),
    "address": (lambda at: [at / "fake", "--against", at / "real", "--address", "auto"], "say how many: --workers N"),
    "workers": (
        lambda at: [at / "fake", "--against", at / "real", "--workers", 2, "--device", "cuda"],
        "leave one of them out",
    ),
    "out": (lambda at: [at / "fake", "--against", at / "real", "--out", at], "is a folder; name a file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_sentence_and_exit_code_2(case: str, place: Path) -> None:
    make, expected = WRONG[case]
    assert expected in refused(*make(place))


def test_an_experiment_is_evaluated_as_before(place: Path) -> None:
    assert "no experiment file" in refused(place / "nothing.yaml")
    assert "say --against" not in refused(place / "nothing.yaml")


def test_mixed_sizes_are_refused_by_name(place: Path, tmp_path: Path) -> None:
    folder = images(tmp_path / "mixed", 5, 3)
    Image.new("RGB", (SIZE, 2 * SIZE)).save(folder / "tall.png")
    answer = evaluate(folder, *order(place, tmp_path / "cache")[1:])
    assert answer.exit_code == 2
    assert answer.stdout == ""
    message = answer.stderr.splitlines()[-1]
    assert "tall.png is of 8 x 16 px, where all images must be of 8 x 8 px; say --resize box or" in message
