"""Starting or joining Ray, the way Rayfall needs it."""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.errors import UserError
from pipeline.submission.reaching import require_cluster
from stages.processor import HUGE_PAGES

ENVIRONMENT = {
    # A local cluster is this user's own; every process must agree on the mode, so it is said, not guessed.
    "RAY_AUTH_MODE": "disabled",
    # The controller of a training run looks for results this often (seconds); the default adds seconds to each run.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Paths in settings are absolute already; a worker that changes folder only surprises.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray writes to buckets through pyarrow, whose uploads by default are in a form that only AWS itself takes.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
    # A busy machine may take more than the default minute to bring the dashboard up.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_usage_stats_enabled": "0",
    **HUGE_PAGES,
}
# Bytes. A socket's name has 107 at most, and Python adds "/pymp-" and "/listener-", each with eight characters.
LONGEST_TEMPORARY = 107 - len("/pymp-12345678/listener-12345678")
# What begins so is of the processes that do the work.
OF_WORKERS = ("AWS_", "GLIBC_", "RAY_ACCEL_", "RAY_CHDIR_", "RAY_TRAIN_")


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Join the cluster at ``address``, or start one here and end it afterwards. A running connection is used as it is.
    Raises UserError when there is no cluster at ``address``, or none can be started.

    The dashboard is always on: without it Ray Train cannot clean up after a stopped run, and later runs hang.
    """
    absent = {name: value for name, value in ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(absent)
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        require_room_for_sockets()
        # One machine is not taken away with notice: three processes less per training run.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # "local": without it Ray would join whatever cluster somebody else left running on this machine.
        ray.init(address="local", include_dashboard=True, **options)
    else:
        _join(address, absent, options)
    try:
        with _sigterm_as_interrupt():
            yield
    finally:
        ray.shutdown()


def require_room_for_sockets() -> None:
    """UserError where the temporary folder has so long a name that Ray's dashboard would wait for minutes and fail:
    Python puts sockets there for the processes of its own that the dashboard starts."""
    folder = tempfile.gettempdir()
    if len(os.fsencode(folder)) > LONGEST_TEMPORARY:
        raise UserError(
            f"the temporary folder {folder} has {len(os.fsencode(folder))} bytes in its name, and Ray needs sockets in "
            f"it, for which {LONGEST_TEMPORARY} are the most; set TMPDIR to a shorter one, such as /tmp"
        )


def _join(address: str, absent: Mapping[str, str], options: dict[str, Any]) -> None:
    """Join a cluster, or say within seconds that there is none: Ray itself tries for minutes.

    Its processes were started by somebody else: what is ``absent`` here, and theirs to know, they are told.
    """
    import ray

    require_cluster(address)
    told = {name: value for name, value in absent.items() if name.startswith(OF_WORKERS)}
    try:
        ray.init(address=address, runtime_env={"env_vars": told}, **options)
    except ConnectionError as error:
        if address != "auto":
            raise
        raise UserError(
            "resources.address auto: no Ray cluster runs on this machine; leave resources.address out to start one, or "
            "give HOST:PORT of one elsewhere"
        ) from error


def node_count() -> int:
    """Nodes of the cluster that this process is connected to."""
    import ray

    return sum(node["Alive"] for node in ray.nodes())


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the driver as Ctrl-C does: Ray's own handler would abort it and leave its noise behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
