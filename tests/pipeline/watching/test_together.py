"""Several experiments watched at once: whose lines are whose, and that all of them end."""

from __future__ import annotations

from pathlib import Path

from pipeline.experiment import load_experiment
from pipeline.nodes import Nodes
from pipeline.storage import open_storage
from pipeline.watching.together import Together

TEXT = """\
name: together
data: {kind: drawn, size: 16, train: 80, val: 40}
stages:
  base:
    size: 8
    net: {kind: unet, channels: 8, multipliers: [1, 2], blocks: 1, head_width: 8}
    training: {steps: 8, batch_size: 8}
    sampling: {steps: 3}
evaluation:
  samples: 24
  reference: 60
  classifier: {steps: 5, channels: [16, 16]}
  during: {every: 3, samples: 20, reference: 60}
"""


def test_watches_take_turns_say_whose_they_are_and_end_together(tmp_path: Path) -> None:
    (tmp_path / "together.yaml").write_text(TEXT)
    made = [
        load_experiment(
            tmp_path / "together.yaml", [f"store={tmp_path}", "evaluation.classifier.seed=0", f"seed={seed}"]
        )
        for seed in (0, 1)
    ]
    said: list[str] = []
    watched = {f"seed {one.seed}": (Nodes(one), ["base"]) for one in made}

    with Together(watched, open_storage(tmp_path), said.append) as watch:
        assert len({node.digest for node in watch.targets}) == len(watch.targets) == 2, "both have the same classifiers"
        assert len({id(one.turn) for one in watch.watches}) == 1
        assert all(one.thread.is_alive() for one in watch.watches)

    assert not any(one.thread.is_alive() for one in watch.watches)
    assert len(said) == 1, "what holds for all of them is said once"
    assert said[0].startswith("scores during training: KID only")
    watch.watches[1].say("step 3")
    assert said[1] == "seed 1: step 3"
