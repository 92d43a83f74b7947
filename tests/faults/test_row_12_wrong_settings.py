"""Row 12: an experiment that cannot be is refused at once, with the path, the value and what would be right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

pytestmark = pytest.mark.faults

TEXT = """\
name: tiny
data: {kind: drawn, size: 16}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 4, batch_size: 8}
  sr:
    size: 16
    low_res_size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    augmentation: {noise: {levels: [0.0, 0.4]}}
    training: {steps: 4, batch_size: 8}
    sampling: {level: 0.1}
search:
  space:
    stages.sr.sampling.level: {values: [0.0, 0.1, 0.3]}
"""
# What is changed, and the words of the sentence that say where, and what was given or would be right.
MUTATIONS = [
    ("sead=3", "unknown key 'sead'; did you mean 'seed'"),
    ("seed=x", "seed"),
    ("seed=-1", "seed"),
    ("name=a b", "name: must be a name"),
    ("name=null", "name"),
    ("data.kind=video", "data"),
    ("data.size=24", "images of 24 px do not shrink evenly to 16 px"),
    ("data.size=0", "data"),
    ("data.train=0", "train"),
    ("stages.base.size=many", "stages.base.size"),
    ("stages.base.size=7", "px"),
    ("stages.base.net.chanels=3", "did you mean 'channels'"),
    ("stages.base.net.channels=-8", "stages.base.net.channels"),
    ("stages.base.net.kind=vit", "there is no kind 'vit'; did you mean 'uvit'"),
    ("stages.base.net.attention=[5]", "attention at [5] px, but the feature maps are [8, 4] px"),
    ("stages.base.net.dropout=1.5", "stages.base.net.dropout"),
    ("stages.base.training.steps=-3", "must be above 0 (given: -3)"),
    ("stages.base.training.steps=1.5", "stages.base.training.steps"),
    ("stages.base.training.batch_size=0", "stages.base.training.batch_size"),
    ("stages.base.training.micro_batch=9", "micro_batch 9"),
    ("stages.base.training.learning_rate=0", "stages.base.training.learning_rate"),
    ("stages.base.training.betas=[0.9]", "has 1 value and needs 2"),
    ("stages.base.training.clip=-1", "stages.base.training.clip"),
    ("stages.base.training.ema=1", "stages.base.training.ema"),
    ("stages.base.training.precision=fp16", "stages.base.training.precision"),
    ("stages.base.training.steps.more=1", "is a single value"),
    ("stages.base.low_res_size=4", "the first stage has no low-res input"),
    ("stages.sr.low_res_size=4", "the stage below, base, makes 8 px"),
    ("stages.sr.low_res_size=null", "set low_res_size or remove augmentation"),
    ("stages.sr.sampling.level=0.5", "outside the trained augmentation levels [0, 0.4]"),
    ("stages.sr.sampling.steps=0", "stages.sr.sampling.steps"),
    ("stages.sr.augmentation.noise.levels=[0.3]", "has 1 value and needs 2"),
    ("resources.workers=9", "too few for 9 workers"),
    ("resources.workers={min: 3, max: 2}", "min <= max"),
    ("resources.log_every=0", "resources.log_every"),
    ("evaluation.samples=many", "evaluation.samples"),
    ("search.space={stages.sr.sampling.level: {values: [0.9]}}", "outside the trained augmentation levels"),
    ("search.space={stages.sr.sampling.levle: {values: [0.1]}}", "did you mean 'level'"),
    ("search.space={stages.st.sampling.level: {values: [0.1]}}", "stages are base, sr"),
    ("seed=[1", "not valid YAML"),
]
PROGRAM = """
import json, sys, time
from pipeline.errors import UserError
from pipeline.experiment import load_experiment
answers = []
for change in json.load(open(sys.argv[2])):
    began = time.perf_counter()
    try:
        load_experiment(sys.argv[1], [change])
        told = None
    except UserError as error:
        told = str(error)
    answers.append((told, time.perf_counter() - began))
print(json.dumps({"answers": answers, "heavy": sorted({"torch", "ray", "mlflow", "numpy"} & sys.modules.keys())}))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(TEXT)
    return tmp_path / "tiny.yaml"


def test_forty_mutations_are_refused_in_a_sentence_and_without_torch(
    file: Path, tmp_path: Path, record_figure: Any
) -> None:
    assert len(MUTATIONS) == len(dict(MUTATIONS)) == 40
    (tmp_path / "changes.json").write_text(json.dumps([change for change, _ in MUTATIONS]))
    command = [sys.executable, "-c", PROGRAM, str(file), str(tmp_path / "changes.json")]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for (change, words), (told, seconds) in zip(MUTATIONS, found["answers"], strict=True):
        assert told is not None, f"{change} was taken"
        assert words in told, f"{change}: {told}"
        assert "\n" not in told
        assert seconds < 2.0, f"{change} took {seconds:.1f} s"
    assert found["heavy"] == []
    longest = max(seconds for _, seconds in found["answers"])
    record_figure(
        12, "40 mutated experiments", f"clear 40 of 40, the slowest in {longest:.2f} s, torch and Ray not imported"
    )


def test_the_command_line_answers_with_2_and_one_line(file: Path) -> None:
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "run", str(file), "--set", MUTATIONS[0][0]]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)
    assert MUTATIONS[0][1] in answer.stderr


def test_plain_yaml_takes_them(file: Path, record_figure: Any) -> None:
    """The twin: the same file with the same changes, read as nested settings that nobody checks."""
    taken = 0
    for change, _ in MUTATIONS:
        path, _, text = change.partition("=")
        settings: Any = YAML(typ="safe", pure=True).load(TEXT)
        try:
            place = settings
            *above, last = path.split(".")
            for key in above:
                place = place.setdefault(key, {})
            place[last] = YAML(typ="safe", pure=True).load(text)
        except Exception:
            continue
        taken += 1
    assert taken > 30
    record_figure(12, "the same, read as plain YAML", f"taken {taken} of 40", protected=False)
