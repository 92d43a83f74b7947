"""One request to an S3 store at a time: the client of this process, repeated tries, and sentences for what fails.

Retries are ours and botocore's are off, for two reasons: botocore does not repeat an answer that broke off, and
its errors name neither the object nor the attempts. Endpoint and credentials come from where every AWS tool takes
them (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ..., or ~/.aws); botocore alone holds them, and they stand in no message,
representation or pickle. Which requests there are, ``s3`` knows.
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from boto3.session import Session
from botocore import exceptions as aws
from botocore.config import Config
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from pipeline.addresses import without_secret
from pipeline.errors import UserError
from pipeline.objects import MissingObject, StoreError

Result = TypeVar("Result")

FIRST_WAIT, LONGEST_WAIT = 0.25, 16.0  # seconds; each wait is twice the one before
FIRST_CONTACT = 6.0  # seconds after which an endpoint that never answered is not asked again

_BROKEN = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, ResponseParserError, HTTPError)
_NO_CREDENTIALS = (aws.NoCredentialsError, aws.PartialCredentialsError, aws.CredentialRetrievalError)
_PASSING_STATUS = {429, 500, 502, 503, 504}
_ALTERED = {"BadDigest", "XAmzContentSHA256Mismatch"}  # on its way to the store
# What says nothing of a store that is busy: it is asked again soon, and so often in a row that it can be no accident.
_ASKED_AGAIN_SOON = _ALTERED
MOST_IN_A_ROW = 12  # then some device on the way alters all of it
_PASSING_CODES = {
    *_ALTERED,
    *("ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "Throttling", "TooManyRequests"),
}
_REFUSALS = {"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}


class NotStored(Exception):  # noqa: N818 - it states what happened
    """What the store holds is not what it was given, maybe not yet; the message says in what way."""


@dataclass
class _Connection:
    client: Any
    endpoint: str
    answered: bool = False  # there is somebody at the endpoint
    served: bool = False  # who did what was asked


@dataclass(frozen=True)
class S3Requests:
    """How requests are made: at most ``attempts`` tries of each, ``sleep`` between them; timeouts in seconds."""

    attempts: int = 8
    sleep: Callable[[float], None] = time.sleep
    connect_timeout: float = 3.0
    read_timeout: float = 30.0
    first_contact: float = FIRST_CONTACT
    # One for each process: after a fork, two processes must not talk over the socket that one of them opened.
    _connections: dict[int, _Connection] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_connections": {}}

    @property
    def served(self) -> bool:
        """Whether the store has done anything for this process yet, so that endpoint, keys and bucket are right."""
        return any(connection.served for pid, connection in self._connections.items() if pid == os.getpid())

    def place(self, what: str) -> tuple[str | None, str | None]:
        """The endpoint, None where it is AWS's own, and the region, None where nothing says one: for other clients."""
        meta = self._connection(what).client.meta
        host = urlsplit(meta.endpoint_url).hostname or ""
        of_aws = host.endswith((".amazonaws.com", ".amazonaws.com.cn"))
        return None if of_aws else meta.endpoint_url, None if meta.region_name == "aws-global" else meta.region_name

    def tried(self, what: str, act: Callable[[Any], Result]) -> Result:
        """``act(client)``, again while what goes wrong may pass: with growing waits, or soon where it was altered.

        ``what`` is the full address of what is asked for. Raises MissingObject, StoreError when the attempts are used
        up, and UserError for what no repetition mends.
        """
        connection, started, altered = self._connection(what), time.monotonic(), 0
        for attempt in itertools.count(1):
            try:
                result = act(connection.client)
            except (aws.ClientError, aws.BotoCoreError, *_BROKEN, NotStored) as error:
                connection.answered |= isinstance(error, aws.ClientError)
                reason = passing_reason(error, what, connection.endpoint)
                altered = altered + 1 if code_of(error) in _ASKED_AGAIN_SOON else 0
                wait = self._wait(1 if altered else attempt)
                hopeless = not connection.answered and time.monotonic() - started + wait > self.first_contact
                hopeless |= altered == MOST_IN_A_ROW
                if attempt >= self.attempts or hopeless:
                    tries = f"gave up after {attempt} attempt{'s' * (attempt > 1)}, the last: {reason}"
                    asked = "" if connection.answered else "; check AWS_ENDPOINT_URL and the network"
                    raise StoreError(f"{what} at {connection.endpoint}: {tries}{asked}") from error
                self.sleep(wait)
            else:
                connection.answered = connection.served = True
                return result
        raise AssertionError("itertools.count does not end")

    def _wait(self, attempt: int) -> float:
        # Spread, so that the readers a store has turned away do not come back all at once; with a seed of the
        # machine's, since equal seeds would not spread, and nothing but time depends on it.
        return min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 1)) * random.SystemRandom().uniform(0.5, 1.0)

    def _connection(self, what: str) -> _Connection:
        if os.getpid() not in self._connections:
            config = Config(
                connect_timeout=self.connect_timeout,
                read_timeout=self.read_timeout,
                retries={"total_max_attempts": 1},
                max_pool_connections=32,
                # By default uploads would be sent in signed chunks, which stores other than AWS refuse.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            try:
                client = Session().client("s3", config=config)
            except (aws.BotoCoreError, ValueError) as error:
                told = f"{what} cannot be asked for ({type(error).__name__} of botocore)"
                raise UserError(f"{told}; check AWS_ENDPOINT_URL, AWS_PROFILE and ~/.aws") from error
            client.meta.events.register("before-parse.s3", _refuse_cut)
            endpoint = without_secret(client.meta.endpoint_url)
            self._connections.setdefault(os.getpid(), _Connection(client, endpoint))
        return self._connections[os.getpid()]


def _refuse_cut(response_dict: dict[str, Any], operation_model: Any, **_: object) -> None:
    """Botocore compares the length of what it streams, but takes a listing that broke off at once for an empty one."""
    body, told = response_dict["body"], response_dict["headers"].get("content-length")
    of_body = isinstance(body, bytes) and operation_model.http["method"] != "HEAD"
    if of_body and told is not None and len(body) != int(told):
        raise aws.IncompleteReadError(actual_bytes=len(body), expected_bytes=int(told))


def code_of(error: Exception) -> str | None:
    """What the store calls the error, where it is the store's."""
    return error.response["Error"]["Code"] if isinstance(error, aws.ClientError) else None


def passing_reason(error: Exception, what: str, endpoint: str) -> str:
    """Why a request failed, if it may pass; raises the sentence to be told where it cannot."""
    if isinstance(error, aws.ClientError):
        code, status = error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
        if status in _PASSING_STATUS or code in _PASSING_CODES:
            return f"HTTP {status} {code}" + ", altered on its way to the store" * (code in _ALTERED)
        if code in ("NoSuchKey", "404"):
            raise MissingObject(f"{what} is not there") from error
        if code == "NoSuchBucket":
            raise UserError(f"there is no such bucket at {endpoint}: {what}") from error
        if status == 403 or code in _REFUSALS:
            asked = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what they may do there"
            raise UserError(f"{endpoint} refuses access to {what} ({code}); {asked}") from error
        raise UserError(f"{endpoint} answers {code} (HTTP {status}) for {what}") from error
    if isinstance(error, _NO_CREDENTIALS):
        asked = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise UserError(f"there are no credentials for {what}; {asked}") from error
    if isinstance(error, NotStored):
        return str(error)
    if isinstance(error, aws.SSLError):
        return "no trusted TLS connection"
    if isinstance(error, aws.ConnectionError):
        return "no connection"
    if isinstance(error, aws.ReadTimeoutError):
        return "no answer in time"
    if isinstance(error, _BROKEN):
        return "the answer broke off"
    raise UserError(f"{what} cannot be asked for ({type(error).__name__} of botocore)") from error
