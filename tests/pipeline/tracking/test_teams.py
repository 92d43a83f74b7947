"""What a team has: MLflow's server on PostgreSQL, with artifacts in a real S3 store and passwords for its people."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.tracking.outages import connect
from pipeline.tracking.registry import ChosenPoint, register, registered
from pipeline.tracking.runs import Tracker
from pipeline.tracking.sending import Sender

pytestmark = pytest.mark.s3
WHEN = 1_700_000_000_000
WRITERS, STEPS = 4, 50
POINT = ChosenPoint(
    weights={"base": "s3://results/base", "sr": "s3://results/sr"},
    sampling={"base": {"steps": 4}, "sr": {"steps": 2}},
    settings={"stages.sr.sampling.level": 0.1},
    scores={"fid": 3.25},
)
# A client as its person has it: no key of the S3 store, and none of the machine's.
CLIENT = """
import sys
from pathlib import Path
from pipeline.tracking.runs import Tracker
tracker, folder = Tracker(sys.argv[1]), Path(sys.argv[2])
run = tracker.run(tracker.open_experiment("teams"), name="keyless", kind="evaluation", key="keyless")
tracker.log_file(run, folder / "report.html")
tracker.log_dict(run, {"fid": 3.25}, "passports.json")
print(run)
"""


@pytest.fixture(scope="module")
def server(mlflow_server: Any, postgres: Any, s3_store: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """PostgreSQL behind it, artifacts in a bucket of Ceph's: the server alone has its keys."""
    arguments = ["--artifacts-destination", f"s3://{s3_store.bucket()}/artifacts"]
    keys = {**s3_store.environment, "MLFLOW_S3_ENDPOINT_URL": s3_store.endpoint}
    return mlflow_server(tmp_path_factory.mktemp("teams"), postgres.new("runs"), *arguments, **keys)


@pytest.fixture
def tracker(server: Any, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    return Tracker(server.uri)


def test_everything_that_is_recorded_comes_back(tracker: Tracker, tmp_path: Path) -> None:
    experiment = tracker.open_experiment("teams")
    parent = tracker.run(experiment, name="demo", kind="experiment", key="demo", params={"seed": 0}, tags={"a": "b"})
    run = tracker.run(experiment, name="evaluate/sr", kind="evaluation", key="e", parent=parent, params={"samples": 9})
    image = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    html = tmp_path / "report.html"
    html.write_text("<p>done</p>" * 300_000)  # 3 MB, as reports are
    tracker.log_figures(run, {"chained_fid": 1 / 3, "seconds": 1e-300})
    tracker.log_image(run, image, "grids/chained.png")
    tracker.log_file(run, html)
    tracker.log_dict(run, {"fid": 0.1}, "passports.json")
    version = register(tracker, "teams", POINT, run=run)
    tracker.finish(run)
    found = tracker.client.get_run(run)
    assert found.data.metrics == {"chained_fid": 1 / 3, "seconds": 1e-300}
    assert found.data.params == {"samples": "9"}
    assert (found.data.tags["mlflow.parentRunId"], found.info.status) == (parent, "FINISHED")
    fetched = Path(tracker.client.download_artifacts(run, "", str(tmp_path)))
    assert (fetched / "report.html").read_bytes() == html.read_bytes()
    assert np.array_equal(np.asarray(Image.open(fetched / "grids/chained.png")), image)
    assert (fetched / "passports.json").read_text() == '{\n  "fid": 0.1\n}'
    assert registered(tracker, "teams") == POINT
    assert version == "1"


def test_artifacts_pass_through_the_server_and_lie_in_the_bucket(server: Any, s3_store: Any, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<p>of somebody without keys</p>")
    keyless = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, server.uri, str(tmp_path)], env=keyless, cwd=Path(__file__).parents[3],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert client.returncode == 0, client.stderr
    run, bucket = client.stdout.split()[-1], server.command[-1].removeprefix("s3://").partition("/")[0]
    (stored,) = [
        one["Key"]
        for one in s3_store.client().list_objects_v2(Bucket=bucket, Prefix="artifacts/")["Contents"]
        if run in one["Key"] and one["Key"].endswith("report.html")
    ]
    body = s3_store.client().get_object(Bucket=bucket, Key=stored)["Body"].read()
    assert body == b"<p>of somebody without keys</p>"


def test_several_writers_at_once_lose_and_double_nothing(tracker: Tracker) -> None:
    run = tracker.run(tracker.open_experiment("teams"), name="w", kind="stage", key="writers")
    failed: list[Exception] = []

    def write(mine: int) -> None:
        sender = Sender(Tracker(tracker.uri))
        try:
            for step in range(STEPS):
                sender.send(run, [(f"loss{mine}", step / 3, step, WHEN), ("shared", step / 3, step, WHEN)])
        except Exception as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(mine,)) for mine in range(WRITERS)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    every = [(step, step / 3, WHEN) for step in range(STEPS)]
    for name in ("shared", *(f"loss{mine}" for mine in range(WRITERS))):
        found = [(point.step, point.value, point.timestamp) for point in tracker.client.get_metric_history(run, name)]
        assert sorted(found) == every, name


def test_postgresql_keeps_one_of_a_point_that_is_written_twice(tracker: Tracker) -> None:
    run = tracker.run(tracker.open_experiment("teams"), name="t", kind="stage", key="twice")
    for written in ((1, 2), (2, 3)):
        tracker.log_points(run, [("loss", 1 / step, step, WHEN) for step in written])
    assert [point.step for point in tracker.client.get_metric_history(run, "loss")] == [1, 2, 3]


@pytest.mark.slow
def test_a_server_that_asks_for_a_password(mlflow_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flask_wtf", reason="no flask_wtf: install the extra `teams`")
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = ann\n"
        "admin_password = longer-than-12\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    told = {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of tests"}
    server = mlflow_server(tmp_path, None, "--app-name", "basic-auth", **told)
    with pytest.raises(UserError, match="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") as caught:
        connect(server.uri)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "longer-than-12")
    tracker = connect(server.uri)
    run = tracker.run(tracker.open_experiment("mine"), name="a", kind="stage", key="a")
    assert tracker.client.get_run(run).info.status == "RUNNING"
