"""Credentials of the client in the processes of its job, and nowhere else.

Ray shows a job's ``runtime_env`` to everybody: in job info, on the dashboard, in logs. So values do not stand there.
The client stores them in the memory of the cluster's head, through the same authenticated channel as the code, under a
name nobody can guess; the job is told the name. The driver takes them into its environment, and a hook that Ray calls
at the start of every worker process of the job does the same there. Nothing is written to a disk.

The head forgets them by itself: the store is Ray's own for packages, where what nobody holds is dropped. While the job
lives, the driver holds them with leases of minutes; when it ends it drops them at once; when it is killed the last
lease runs out. At no time can code outside the cluster read them; code that runs on it can, as it can read all else.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.submission.reaching import Head

NAME = "RAYFALL_CREDENTIALS"  # environment of a job's processes: the name under which the head has them
PYTHON = "RAYFALL_PYTHON"  # of the process that starts the driver: the interpreter that Ray runs in
HOOK = "pipeline.submission.credentials.enter_worker"
USUAL = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
LEASE = 600  # seconds; what a client that dies between two requests, or a killed driver, leaves lasts so long
RENEWAL = 180.0
# What makes a process of the cluster what it is; another machine's values would break it.
_FORBIDDEN = re.compile(r"RAY_|RAYFALL_|LD_|PYTHON|(PATH|HOME|USER|SHELL|TMPDIR|VIRTUAL_ENV)$")


def chosen(wanted: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that ``wanted`` names, such as HF_TOKEN or ``AWS_*``. UserError for what is not set or not ours."""
    found: dict[str, str] = {}
    for pattern in wanted:
        names = [name for name in environment if fnmatch.fnmatchcase(name, pattern)]
        if "=" in pattern:
            told = pattern.partition("=")[0]
            raise UserError(f"--pass-env {told}=...: give the name alone; the value is taken from the environment")
        if not names:
            raise UserError(f"--pass-env {pattern}: no such variable is set here")
        if bad := next((name for name in names if _FORBIDDEN.match(name)), None):
            raise UserError(f"--pass-env {pattern}: {bad} is the cluster's own to set")
        found |= {name: environment[name] for name in sorted(names)}
    return found


def require_private(head: Head, names: Sequence[str]) -> None:
    """UserError when ``names`` would travel readable for others."""
    if names and not head.is_private:
        raise UserError(
            f"--pass-env would send {', '.join(names)} in clear over {head.told}; go through SSH (`ray dashboard "
            "cluster.yaml`, then --address http://127.0.0.1:8265) or use an https address"
        )


def hand_over(head: Head, values: Mapping[str, str]) -> str:
    """Give ``values`` to the cluster's head for one lease; returns their name there."""
    import requests

    name = f"rayfall_credentials_{secrets.token_hex(16)}.zip"  # Ray asks for the ending; it is no zip
    url = f"{head.address}/api/packages/gcs/{name}"
    # The first request makes the lease, as Ray's own client has it: what is stored without one would stay.
    requests.get(url, headers=dict(head.headers), timeout=10)
    answer = requests.put(url, data=json.dumps(dict(values)).encode(), headers=dict(head.headers), timeout=30)
    if answer.status_code != 200:
        raise RuntimeError(f"the cluster did not take the credentials (HTTP {answer.status_code}); nothing was started")
    return f"gcs://{name}"


@contextmanager
def held_by_driver() -> Iterator[None]:
    """In a job's driver: its credentials in the environment, and kept for its workers until the block ends."""
    name = os.environ.get(NAME)
    if not name:
        yield
        return
    from ray._raylet import GcsClient  # type: ignore[attr-defined]

    head = GcsClient(address=os.environ["RAY_ADDRESS"])
    head.pin_runtime_env_uri(name, LEASE)
    stored = head.internal_kv_get(name.encode(), None)
    if stored is None:
        raise UserError(
            f"the credentials of this job are gone: it started more than {LEASE // 60} minutes after it was submitted; "
            "submit it again"
        )
    os.environ.update(json.loads(stored))
    over = threading.Event()
    keeper = threading.Thread(target=_hold, args=(head, name, over), name="rayfall-credentials", daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        head.internal_kv_del(name.encode(), False, None)


def _hold(head: Any, name: str, over: threading.Event) -> None:
    while not over.wait(RENEWAL):
        try:
            head.pin_runtime_env_uri(name, LEASE)
        except Exception as error:  # a head that is busy; there are two more tries in a lease
            print(f"credentials: the lease was not renewed: {type(error).__name__}", file=sys.stderr, flush=True)


def enter_worker() -> None:
    """Ray calls this at the start of every worker process of a job. It must not raise: Ray would start it over and
    over."""
    os.environ[PYTHON] = sys.executable
    name = os.environ.get(NAME)
    if not name:
        return
    try:
        from ray.experimental.internal_kv import _internal_kv_get

        stored = _internal_kv_get(name.encode())
        if stored is not None:  # None: the job is over
            os.environ.update(json.loads(stored))
    except Exception as error:
        print(f"credentials: this worker got none: {type(error).__name__}", file=sys.stderr, flush=True)
