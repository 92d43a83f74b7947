"""Starting or joining Ray, the way Rayfall needs it."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
    # A busy machine may take more than the default minute to bring the dashboard up.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_usage_stats_enabled": "0",
}


@contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Join the cluster at ``address``, or start one here and end it afterwards. A running connection is used as it is.

    The dashboard is always on: without it Ray Train cannot clean up after a stopped run, and later runs hang.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        # One machine is not taken away with notice: three processes less per training run.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # "local": without it Ray would join whatever cluster somebody else left running on this machine.
        ray.init(address="local", include_dashboard=True, **options)
    else:
        ray.init(address=address, **options)
    try:
        with _sigterm_as_interrupt():
            yield
    finally:
        ray.shutdown()


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
