"""What is refused before anything is sent, and what makes two orders one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.submission.credentials import chosen, require_private
from pipeline.submission.order import read_order
from pipeline.submission.reaching import Head

DEMO = Path(__file__).parents[3] / "jobs/experiments/demo.yaml"
STORE = "store=/mnt/store"


def refusal(*settings: str, command: str = "run", passed: Sequence[str] = ()) -> str:
    with pytest.raises(UserError) as error:
        read_order(DEMO, settings, command, passed)
    return str(error.value)


def test_a_place_that_the_cluster_cannot_see_is_refused() -> None:
    assert "store rayfall-store is a relative path" in refusal()
    assert "data.path data/photos is a relative path" in refusal(STORE, "data={kind: shards, path: data/photos}")
    scorer = "evaluation.scorer={kind: inception, weights: inception.pth}"
    assert "evaluation.scorer.weights inception.pth is a relative path" in refusal(STORE, scorer, "search=null")
    read_order(DEMO, [STORE, "data={kind: shards, path: 's3://bucket/photos'}"], "run")


def test_what_lets_one_in_is_not_written_into_a_job() -> None:
    told = refusal(STORE, "tracking.uri=http://me:canary@host")
    assert "tracking.uri is http://host and more that lets one in" in told
    assert "canary" not in told


def test_commands_need_their_sections() -> None:
    assert "has no ablation section" in refusal(STORE, command="ablate")
    assert "has no search section" in refusal(STORE, "search=null", command="search")
    assert "one of run, train, search, ablate, evaluate" in refusal(STORE, command="sample")


def test_the_digest_is_of_what_is_done_not_of_where() -> None:
    first = read_order(DEMO, [STORE], "run")
    assert read_order(DEMO, [STORE, "resources.workers=2", "description=x"], "run").digest == first.digest
    others = [read_order(DEMO, [STORE, "seed=1"], "run"), read_order(DEMO, [STORE], "train")]
    others.append(read_order(DEMO, ["store=/mnt/other"], "run"))
    assert len({first.digest, *(other.digest for other in others)}) == 4


def test_a_training_may_be_of_some_stages() -> None:
    def order(*only: str, command: str = "train") -> str:
        return read_order(DEMO, [STORE], command, only=only).digest

    assert len({order(), order("sr16"), order("base8", "sr16")}) == 3
    assert order("sr16", "base8") == order("base8", "sr16")
    with pytest.raises(UserError, match="--only sr64: the experiment's stages are base8, sr16, sr32"):
        order("sr64")
    with pytest.raises(UserError, match="one stage alone can be trained"):
        order("sr16", command="run")


def test_a_bucket_asks_for_an_address_of_mlflow_before_anything_is_sent() -> None:
    assert "tracking.uri must be set where the store is s3://bucket/x" in refusal("store=s3://bucket/x")
    read_order(DEMO, ["store=s3://bucket/x", "tracking.uri=http://mlflow:5000"], "run")


def test_variables_are_named_and_never_given(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"AWS_A": "1", "AWS_B": "2", "HF_TOKEN": "3", "PATH": "/bin", "RAY_AUTH_TOKEN": "4"}
    assert chosen(["AWS_*", "HF_TOKEN"], environment) == {"AWS_A": "1", "AWS_B": "2", "HF_TOKEN": "3"}
    for name, told in (("NOPE", "no such variable"), ("PATH", "the cluster's own"), ("RAY_*", "the cluster's own")):
        with pytest.raises(UserError, match=told):
            chosen([name], environment)
    with pytest.raises(UserError, match="give the name alone") as error:
        chosen(["HF_TOKEN=canary"], environment)
    assert "canary" not in str(error.value)


def test_credentials_do_not_travel_in_clear() -> None:
    with pytest.raises(UserError, match=r"would send HF_TOKEN in clear over http://10\.0\.0\.5:8265; go through SSH"):
        require_private(Head("http://10.0.0.5:8265"), ["HF_TOKEN"])
    for address in ("http://127.0.0.1:8265", "http://localhost:8265", "https://ray.example.org"):
        require_private(Head(address), ["HF_TOKEN"])
    require_private(Head("http://10.0.0.5:8265"), [])
