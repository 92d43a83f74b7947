"""Which net sees the images, as a person names it on a command line: inception, dinov2 or a classifier's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from pipeline.errors import UserError
from pipeline.foreign.measuring import Recipe
from pipeline.scorer_specs import DinoModel, DinoScorer, InceptionScorer
from pipeline.scoring.weights import DINO_FILES, INCEPTION_FILE, resolve_scorer_weights
from pipeline.sentences import first_message

_DEFAULT_DINO: DinoModel = "dinov2-vit-l-14"


def recipe_of(scorer: str, weights: str | None, sha256: str | None, device: str, cache: Path, threads: int) -> Recipe:
    """How to build the extractor that ``scorer`` names: ``inception``, ``dinov2`` or one of its models by its full
    name, or the folder of a trained classifier. A URL in ``weights`` is fetched into ``cache``.

    Raises UserError when there is no such scorer, its weights are missing, or they are not of ``sha256``.
    """
    if scorer == "inception" or scorer == "dinov2" or scorer in get_args(DinoModel):
        return _public(scorer, weights, sha256, device, cache, threads)
    folder = Path(scorer).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"--scorer {scorer} is neither inception nor dinov2 nor the folder of a trained classifier")
    if weights is not None or sha256 is not None:
        raise UserError("--weights and --sha256 are of inception and dinov2; a classifier's folder holds its own")
    return Recipe(json.dumps({"kind": "classifier"}), folder, device, threads)


def _public(scorer: str, weights: str | None, sha256: str | None, device: str, cache: Path, threads: int) -> Recipe:
    model = _DEFAULT_DINO if scorer == "dinov2" else scorer
    if weights is None:
        known = INCEPTION_FILE if scorer == "inception" else DINO_FILES[model]
        raise UserError(
            f"--scorer {scorer} needs --weights FILE: get {known.name} from {known.source}, or give that URL instead "
            "of a file; nothing is downloaded unasked"
        )
    fields = {"weights": weights, "sha256": sha256}
    try:
        spec: InceptionScorer | DinoScorer
        if scorer == "inception":
            spec = InceptionScorer.model_validate({"kind": "inception", **fields})
        else:
            spec = DinoScorer.model_validate({"kind": "dinov2", "model": model, **fields})
    except ValidationError as error:
        raise UserError(f"--{error.errors()[0]['loc'][0]}: {first_message(error)}") from None
    found = resolve_scorer_weights(spec, cache.expanduser() / "weights")
    return Recipe(json.dumps(spec.model_dump(mode="json")), found.path.absolute(), device, threads)
