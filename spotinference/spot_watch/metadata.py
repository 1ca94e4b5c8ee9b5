"""EC2's metadata service (IMDSv2) as seen from the machine: whether EC2 takes it back, and when.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import http.client
from datetime import UTC, datetime
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

import msgspec

from shared.errors import SpotinferenceError
from shared.messages.codec import Unreadable, decode
from shared.messages.machine import MachineNotice, NoticeAction

BASE_URL = "http://169.254.169.254"
TOKEN_SECONDS = 21600
TIMEOUT_SECONDS = 2.0
"""The service is on the same host."""
MAX_BODY_BYTES = 64 * 1024


class MetadataError(SpotinferenceError):
    """The metadata service cannot be used."""


class _InstanceAction(msgspec.Struct, frozen=True):
    action: NoticeAction
    time: datetime


class Metadata:
    """One connection per question, and never through a proxy. The token is renewed when it is no longer accepted."""

    def __init__(self, base_url: str = BASE_URL) -> None:
        self._base_url = base_url.rstrip("/")
        self._opener = build_opener(ProxyHandler({}))
        self._token: str | None = None

    def notice(self, machine: str, observed_at: float) -> MachineNotice | None:
        """Return the notice that stands; None: EC2 does not take the machine back.

        Raises:
            MetadataError: the service does not answer, or what it says is no notice.
        """
        status, body = self._ask()
        if status == http.client.UNAUTHORIZED:
            self._token = None
            status, body = self._ask()
        if status == http.client.NOT_FOUND:
            return None
        if status != http.client.OK:
            raise MetadataError(f"{self._base_url}: spot/instance-action: {status}")
        return read_notice(body, machine, observed_at)

    def _ask(self) -> tuple[int, bytes]:
        if self._token is None:
            status, body = self._call("PUT", "api/token", "X-aws-ec2-metadata-token-ttl-seconds", str(TOKEN_SECONDS))
            if status != http.client.OK:
                raise MetadataError(f"{self._base_url}: no token: {status}")
            self._token = body.decode("latin-1").strip()
        return self._call("GET", "meta-data/spot/instance-action", "X-aws-ec2-metadata-token", self._token)

    def _call(self, method: str, path: str, header: str, value: str) -> tuple[int, bytes]:
        request = Request(f"{self._base_url}/latest/{path}", method=method, headers={header: value})  # noqa: S310 - http
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as response:
                return response.status, response.read(MAX_BODY_BYTES)
        except HTTPError as error:
            error.close()
            return error.code, b""
        except (OSError, URLError, http.client.HTTPException, ValueError) as error:
            raise MetadataError(f"{self._base_url}: {error}: this command runs on an EC2 machine") from error


def read_notice(body: bytes, machine: str, observed_at: float) -> MachineNotice:
    """Decode `{"action": "stop", "time": "2026-11-29T08:22:00Z"}`.

    Raises:
        MetadataError: it is something else.
    """
    try:
        action = decode(body, _InstanceAction)
    except Unreadable as error:
        raise MetadataError(f"spot/instance-action is no notice: {error}") from error
    at = action.time if action.time.tzinfo else action.time.replace(tzinfo=UTC)
    return MachineNotice(machine=machine, action=action.action, at=at.timestamp(), observed_at=observed_at)
