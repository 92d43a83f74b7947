"""What a person may write about scorers, and that reading it loads no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.scorer_specs import ClassifierScorer, DinoScorer, InceptionScorer, Scorer

READ: TypeAdapter[Scorer] = TypeAdapter(Scorer)


def test_kinds_are_told_apart() -> None:
    assert READ.validate_python({"kind": "classifier"}) == ClassifierScorer()
    inception = READ.validate_python({"kind": "inception", "weights": "a.pth"})
    dino = READ.validate_python({"kind": "dinov2", "weights": "https://a/b.pth", "model": "dinov2-vit-s-14"})
    assert isinstance(inception, InceptionScorer)
    assert isinstance(dino, DinoScorer)
    found = [(scorer.name, scorer.dimension) for scorer in (ClassifierScorer(), inception, dino)]
    assert found == [("classifier", None), ("inception", 2048), ("dinov2", 384)]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"kind": "inception"}, "weights"),
        ({"kind": "inception", "weights": "a.pth", "sha256": "abc"}, "a sha256 has 64 digits"),
        ({"kind": "inception", "weights": "a.pth", "sha256": "A" * 64}, "a sha256 has 64 digits"),
        ({"kind": "dinov2", "weights": "a.pth", "model": "dinov2-vit-x-14"}, "dinov2-vit-s-14"),
        ({"kind": "inception", "wieghts": "a.pth"}, "did you mean 'weights'"),
    ],
)
def test_mistakes_are_refused(written: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        READ.validate_python(written)


def test_neither_the_specs_nor_the_finding_of_weights_load_torch() -> None:
    code = "import pipeline.scorer_specs, pipeline.scoring.weights, sys; print('torch' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "False\n"
