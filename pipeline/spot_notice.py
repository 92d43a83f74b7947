"""``python -m pipeline.spot_notice``: on a spot instance, drain this machine's Ray node when AWS takes it back.

AWS announces it two minutes ahead in the instance's metadata, which Ray does not read. Draining tells Ray: nothing new
is placed on the node, and training commits what it has (``pipeline.preemption``). Runs beside every node for as long as
it lives, so it needs neither Ray nor torch: ``ray drain-node`` is called once, when there is something to say.

A rebalance recommendation is logged and nothing more: it says that the risk has grown, may come hours ahead or never be
followed by anything, and a node drained for it would be idle until it is taken away.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import psutil

METADATA = "http://169.254.169.254"
EVERY = 5.0  # seconds between two looks, as AWS recommends
MARGIN = 10.0  # seconds before AWS's deadline by which the node is to be left; `ray drain-node` takes some to start
NOTICE = 120.0  # seconds: no announcement comes earlier
TOKEN_SECONDS = 21_600  # how long a token holds, the most that there is
ANSWER_SECONDS = 2.0  # it answers in milliseconds, or is not there
PASSING = (OSError, ValueError, KeyError)  # of metadata: no connection, no answer in time, half an answer

log = logging.getLogger(__name__)


@dataclass
class Metadata:
    """The instance's metadata (IMDSv2) at ``url``. Every verb raises one of PASSING when it does not answer."""

    url: str = METADATA
    _token: str | None = field(default=None, init=False, repr=False)

    def read(self, path: str) -> str | None:
        """The text below ``latest/meta-data/``; None when there is none."""
        for fresh in (False, True):
            if self._token is None or fresh:
                lasting = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
                self._token = self._ask("api/token", "PUT", lasting)
            try:
                return self._ask(f"meta-data/{path}", "GET", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or fresh:  # 401: the token has expired
                    raise
        raise AssertionError("a second attempt returns or raises")

    def deadline(self) -> float | None:
        """When the instance will be taken back (unix time); None when nothing is announced."""
        text = self.read("spot/instance-action")
        if text is None:
            return None
        return datetime.fromisoformat(json.loads(text)["time"]).timestamp()

    def _ask(self, path: str, method: str, headers: dict[str, str]) -> str:
        asked = urllib.request.Request(f"{self.url}/latest/{path}", method=method, headers=headers)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # of this machine, behind no proxy
        with direct.open(asked, timeout=ANSWER_SECONDS) as answer:
            text: str = answer.read().decode()
            return text


@dataclass(frozen=True)
class LocalNode:
    """This machine's Ray node: its id (hex) and where its cluster's head listens."""

    id: str
    cluster: str


def local_node(node_id: str | None = None) -> LocalNode:
    """The node whose raylet runs on this machine, or that one of several. LookupError when it is not to be found."""
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] != "raylet":
            continue
        told = dict(part.lstrip("-").split("=", 1) for part in process.info["cmdline"] or () if "=" in part)
        if told.get("node_id") and told.get("gcs-address") and node_id in (None, told["node_id"]):
            found.append(LocalNode(told["node_id"], told["gcs-address"]))
    if len(found) != 1:
        raise LookupError(f"{len(found)} Ray nodes run on this machine{f' with id {node_id}' if node_id else ''}")
    return found[0]


def drain(node: LocalNode, seconds: int) -> bool:
    """Ask Ray to have ``node`` left within ``seconds``; whether it accepted."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", node.cluster, "--node-id", node.id),
        *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "AWS takes the spot instance back"),
        *("--deadline-remaining-seconds", str(seconds)),
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except subprocess.TimeoutExpired:
        log.warning("ray drain-node did not end within 30 s; once more")
        return False
    if answer.returncode:
        log.warning("ray drain-node: %s; once more", (answer.stderr.strip().splitlines() or ["failed"])[-1])
    return answer.returncode == 0


@dataclass
class Watcher:
    """Looks every ``every`` seconds; has the node left ``margin`` seconds before AWS's deadline."""

    metadata: Metadata
    find: Callable[[], LocalNode]
    every: float = EVERY
    margin: float = MARGIN
    _told: set[str] = field(default_factory=set, init=False)

    def run(self) -> bool:
        """Whether the node was drained: it was, or this instance is not spot."""
        while True:
            try:
                if self.metadata.read("instance-life-cycle") == "on-demand":
                    log.info("this instance is not spot: nothing to watch")
                    return False
                if self.metadata.read("events/recommendations/rebalance") is not None:
                    self._say_once("AWS recommends to leave this instance: the risk of losing it has grown")
                if (deadline := self.metadata.deadline()) is not None:
                    self._leave(deadline)
                    return True
            except PASSING as error:
                self._say_once(f"the instance's metadata cannot be read ({error}); looking on")
            time.sleep(self.every)

    def _leave(self, deadline: float) -> None:
        """Drain the node, until that was accepted."""
        log.warning("AWS takes this instance back in %.0f s", deadline - time.time())
        while True:
            # A clock that is wrong must not make the time longer than it ever is, or negative.
            left = min(deadline - time.time(), NOTICE) - self.margin
            try:
                if drain(self.find(), max(1, math.floor(left))):
                    log.warning("the node drains")
                    return
            except LookupError as error:
                log.warning("%s; looking on", error)
            time.sleep(1.0)

    def _say_once(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            log.warning(sentence)


def main(arguments: Sequence[str] | None = None) -> None:
    """Watch until the node is drained or SIGTERM comes."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.spot_notice", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--metadata", default=METADATA, metavar="URL", help="of the instance's metadata")
    parser.add_argument("--every", type=float, default=EVERY, metavar="SECONDS", help="from one look to the next")
    parser.add_argument(
        "--margin", type=float, default=MARGIN, metavar="SECONDS", help="to leave before AWS's deadline"
    )
    parser.add_argument("--node-id", help="of the Ray node to drain, where several run on this machine")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    metadata = Metadata(given.metadata.rstrip("/"))
    Watcher(metadata, lambda: local_node(given.node_id), given.every, given.margin).run()


if __name__ == "__main__":
    main()
