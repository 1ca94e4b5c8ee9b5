"""Calls to EC2 for one account and region: on threads, bounded in time and rate, and never silently repeated."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from threading import Lock
from typing import Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.loaders import create_loader

from services.waker.adapters.ec2_failures import THROTTLED, Failure, code_of, failure
from shared.clouds.throttle import Throttle

CONNECT_SECONDS = 3
READ_SECONDS = 10
CALL_SECONDS = 15.0
"""Seconds for one call: the connection, the response, and some slack."""
DESCRIBE_SECONDS = 25.0
"""Seconds for a read, which is tried up to three times."""
DESCRIBE_ATTEMPTS = 3
THREADS = 8

_MODELS = create_loader()
"""EC2's description for the SDK, several megabytes, which each session would read anew."""
_CHANGES = {"StartInstances": "start_instances", "StopInstances": "stop_instances"}
_DESCRIBES = {
    "DescribeInstances": "describe_instances",
    "DescribeSpotInstanceRequests": "describe_spot_instance_requests",
}


class Ec2Account:
    """`clock` is ours, in Unix seconds."""

    def __init__(
        self,
        region: str,
        endpoint_url: str | None,
        throttle: Throttle,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._region = region
        self._endpoint_url = endpoint_url
        self._throttle = throttle
        self._clock = clock
        self._session: Any = None
        self._clients: dict[int, Any] = {}
        self._making = Lock()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ec2")
        self.skew = 0.0
        """Seconds by which our clock was behind EC2's at its last response."""

    async def change(self, action: str, **parameters: Any) -> Mapping[str, Any]:
        """Make a call that changes something, once.

        Raises:
            Failure: it was refused, or its result is unknown.
        """
        return await self._call(action, _CHANGES[action], 1, CALL_SECONDS, parameters)

    async def describe(self, action: str, **parameters: Any) -> Mapping[str, Any]:
        """Make a call that only reads.

        Raises:
            Failure: it failed at every attempt.
        """
        return await self._call(action, _DESCRIBES[action], DESCRIBE_ATTEMPTS, DESCRIBE_SECONDS, parameters)

    async def close(self) -> None:
        """Abandon the calls under way; they end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients.values():
            client.close()

    async def _call(
        self, action: str, method: str, attempts: int, seconds: float, parameters: dict[str, Any]
    ) -> Mapping[str, Any]:
        sent_at = 0.0
        try:
            sent_at = await self._throttle.acquire()
            async with asyncio.timeout(seconds):
                response = await asyncio.get_running_loop().run_in_executor(
                    self._threads, self._send, method, attempts, time.monotonic() + seconds, parameters
                )
        except Exception as error:
            if isinstance(error, ClientError):
                self._record_response(sent_at, error.response, throttled=code_of(error) in THROTTLED)
            raise self._failure(error, action) from error
        self._record_response(sent_at, response, throttled=False)
        return response

    def _failure(self, error: Exception, action: str) -> Failure:
        fault = failure(error, action, self.skew)
        if fault.result.scope == "account":
            # Only a new session reads renewed credentials.
            self._session, self._clients = None, {}
        return fault

    def _send(self, method: str, attempts: int, until: float, parameters: dict[str, Any]) -> Mapping[str, Any]:
        """Make the call, on a thread. Creating a client reads files and may ask the host for credentials."""
        with self._making:
            client = self._clients.get(attempts) or self._clients.setdefault(attempts, self._client(attempts))
        if time.monotonic() > until:
            raise TimeoutError  # nobody waits for it any more, so it must not happen
        response: Mapping[str, Any] = getattr(client, method)(**parameters)
        return response

    def _client(self, attempts: int) -> Any:
        """A client that makes up to `attempts` attempts."""
        self._session = self._session or _session()
        config = Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=THREADS,
            tcp_keepalive=True,
        )
        return self._session.client("ec2", region_name=self._region, endpoint_url=self._endpoint_url, config=config)

    def _record_response(self, sent_at: float, response: Mapping[str, Any], *, throttled: bool) -> None:
        metadata = response.get("ResponseMetadata", {})
        self._throttle.record_response(sent_at, throttled=throttled, repeats=metadata.get("RetryAttempts", 0))
        with contextlib.suppress(ValueError):
            date = metadata.get("HTTPHeaders", {}).get("date", "")
            self.skew = parsedate_to_datetime(date).timestamp() - self._clock()


def _session() -> Any:
    """One that finds its credentials anew."""
    session = botocore.session.Session()
    session.register_component("data_loader", _MODELS)
    return boto3.session.Session(botocore_session=session)
