"""An order as a job: told from those that run already, packed, sent."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.addresses import without_secret
from pipeline.cluster import ENVIRONMENT
from pipeline.experiment_spec import Experiment
from pipeline.revision import TOLD
from pipeline.submission import credentials
from pipeline.submission.client import DONE, MARK, Client, Job, attempts
from pipeline.submission.environment import ORDER, STARTED, versions
from pipeline.submission.order import ROOT, Order
from pipeline.submission.package import Cargo, cargo_of, pack, require_small
from pipeline.submission.source import SourceState, source_state

FOLDER = "rayfall-submitted"  # in the package: an experiment from outside of the source tree
ENTRYPOINT = f'exec "${{{credentials.PYTHON}:-python}}" -m jobs.on_cluster'
STOPPING = 60  # seconds that a driver has to end its runs after it was told to


@dataclass(frozen=True)
class Submission:
    """What came of an order: a job that is new, or one that was there."""

    job: Job
    found: Literal["new", "underway", "done"]
    cargo: Cargo | None = None
    seconds: Mapping[str, float] | None = None  # packing and sending, of a new one


def submit(client: Client, order: Order, *, environment: Mapping[str, str] | None = None) -> Submission:
    """Send the job, unless the same is underway, or done and not asked for ``again``. UserError when it cannot be.

    ``environment`` is for every process of the job, and shown by Ray to everybody.
    """
    earlier = attempts(client.jobs(), order.digest)
    underway = [job for job in earlier if not job.over]
    if underway:
        return Submission(underway[-1], "underway")
    if earlier and earlier[-1].state == DONE and not order.again:
        return Submission(earlier[-1], "done")
    credentials.require_private(client.head, list(order.passed))
    began = time.time()
    cargo = cargo_of(ROOT, _own_folders(order.experiment))
    require_small(cargo)
    state = source_state(ROOT)
    attempt = earlier[-1].attempt + 1 if earlier else 1
    name = f"{order.experiment.name}-{order.command}-{order.digest[:10]}-{attempt}"
    with tempfile.TemporaryDirectory(prefix="rayfall-submit-") as folder:
        package = Path(folder) / "rayfall.zip"
        pack(cargo, _added(order, cargo), package)
        metadata = _metadata(order, state, attempt, hashlib.sha256(package.read_bytes()).hexdigest())
        packed = time.time()
        variables = {**_environment(state), **(environment or {})}
        if order.passed:
            variables[credentials.NAME] = credentials.hand_over(client.head, order.passed)
        runtime = {"working_dir": str(package), "worker_process_setup_hook": credentials.HOOK, "env_vars": variables}
        try:
            client.submit_job(entrypoint=ENTRYPOINT, submission_id=name, runtime_env=runtime, metadata=metadata)
        except RuntimeError as error:
            if "already exists" not in str(error):
                raise
            return Submission(client.job(name), "underway")  # somebody else was faster
    return Submission(client.job(name), "new", cargo, {"packing": packed - began, "sending": time.time() - packed})


def _own_folders(experiment: Experiment) -> tuple[str, ...]:
    """A store inside the source tree, as something to leave out."""
    store = Path(str(experiment.store)).expanduser()
    return (f"/{store.relative_to(ROOT)}",) if store.is_absolute() and store.is_relative_to(ROOT) else ()


def _added(order: Order, cargo: Cargo) -> dict[str, bytes]:
    """What the driver is to do, and the experiment where it is not among the files that are carried."""
    file, content = order.file.resolve(), order.file.read_bytes()
    name = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else ""
    added = {}
    if name not in cargo.files:
        name = f"{FOLDER}/{file.name}"
        added[name] = content
    told = {
        "command": order.command,
        "file": name,
        "settings": list(order.settings),
        "only": list(order.only),
        "versions": versions(),
    }
    return added | {ORDER: json.dumps(told, indent=1).encode()}


def _metadata(order: Order, state: SourceState, attempt: int, package: str) -> dict[str, str]:
    told = {
        "experiment": order.experiment.name,
        "command": order.command,
        "digest": order.digest,
        "attempt": str(attempt),
        "store": without_secret(str(order.experiment.store)),
        "revision": state.revision,
        "changes": state.changes,
        "changes_digest": state.digest,
        "package": package,
    }
    return {f"{MARK}{key}": value for key, value in told.items()}


def _environment(state: SourceState) -> dict[str, str]:
    """Of every process of the job; nothing that must not be seen."""
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    settings = {name: value for name, value in ENVIRONMENT.items() if name != "RAY_AUTH_MODE"}  # is the cluster's own
    return {
        **settings,
        TOLD: state.revision,
        # Ray sets it for the workers of the job; here for the process that starts the driver, too.
        WORKER_PROCESS_SETUP_HOOK_ENV_VAR: credentials.HOOK,
        "RAY_JOB_STOP_WAIT_TIME_S": str(STOPPING),
    }


def await_start(client: Client, job: Job, seconds: float) -> Job:
    """Wait until the driver found the cluster fit, or ended, or ``seconds`` are over; the job as it then is."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        job = client.job(job.id)
        if job.over or STARTED in client.get_job_logs(job.id):
            return job
        time.sleep(0.5)
    return job
