"""One key at Hyperstack's HTTP API: https://docs.hyperstack.cloud/docs/api-reference.

Its state changes are GETs, so nothing here sends a GET twice, follows a redirect or goes through a proxy.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
import msgspec

from shared.clouds.throttle import Throttle, TooManyCalls
from shared.config.load import environment, environment_file
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode
from shared.secret_file import SecretFile

KEY_VARIABLE = "HYPERSTACK_API_KEY"
CONNECT_TIMEOUT_S = 3.0
READ_TIMEOUT_S = 10.0
MAX_BODY_BYTES = 8 * 1024 * 1024
DETAIL_LENGTH = 300
READ_CHARACTERS = 16_384
"""Of a text that is cleaned: megabytes would keep everything else waiting."""

T = TypeVar("T")


class HyperstackError(Exception):
    """A call failed. `status` is HTTP's; 0: no response. `may_have_arrived`: Hyperstack may have acted on it."""

    def __init__(self, code: str, detail: str, *, status: int = 0, may_have_arrived: bool = True) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.status = status
        self.may_have_arrived = may_have_arrived


class _ErrorBody(msgspec.Struct):
    message: str | None = None
    error_reason: str | None = None


class HyperstackAccount:
    """One key at one address."""

    def __init__(
        self,
        base_url: str,
        key: str | SecretFile,
        throttle: Throttle,
        *,
        read_timeout_s: float = READ_TIMEOUT_S,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._source = key
        self._key = key if isinstance(key, str) else key.current()
        self._previous_key = self._key
        self._throttle = throttle
        self._now = now
        self.skew: float | None = None
        """Seconds by which our clock is ahead of Hyperstack's, by the last response; None: no response had a date."""
        self._session = aiohttp.ClientSession(
            headers={"accept": "application/json"},
            timeout=aiohttp.ClientTimeout(
                total=CONNECT_TIMEOUT_S + read_timeout_s, connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s
            ),
            connector=aiohttp.TCPConnector(limit=8),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_once,),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, shape: type[T], path: str, **query: str) -> T:
        """Make one call and decode its response.

        Raises:
            HyperstackError: the call failed.
        """
        status, body = await self._request(path, query)
        if status != 200:
            raise HyperstackError(str(status), self._error_text(body) or f"HTTP status {status}", status=status)
        try:
            return decode(body, shape)
        except Unreadable as error:
            raise HyperstackError(
                "answer", f"{path} was not answered as documented: {self.clean(str(error))}"
            ) from None

    async def _request(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        try:
            slot = await self._throttle.acquire()
        except TooManyCalls as error:
            raise HyperstackError("throttled", str(error), may_have_arrived=False) from None
        sent_at = self._now()
        try:
            async with self._session.get(
                self._base_url + path, params=query, headers={"api_key": self._current_key()}, allow_redirects=False
            ) as response:
                if response.status == 401 and isinstance(self._source, SecretFile):
                    self._source.reread()  # for the next call
                self._throttle.record_response(slot, throttled=response.status == 429)
                self._measure_skew(sent_at, response.headers.get("date"))
                return response.status, await _body(response)
        except TimeoutError:
            raise HyperstackError("timeout", "no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HyperstackError("network", self.clean(str(error) or type(error).__name__)) from None

    def _current_key(self) -> str:
        key = self._source if isinstance(self._source, str) else self._source.current()
        if key != self._key:
            self._previous_key, self._key = self._key, key
        return key

    def _measure_skew(self, sent_at: float, date: str | None) -> None:
        try:
            server_time = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        now = self._now()
        # Their clock was read between request and response, and truncated to a whole second.
        self.skew = max(0.0, sent_at - server_time - 1) or min(0.0, now - server_time)

    def _error_text(self, body: bytes) -> str:
        try:
            error = decode(body, _ErrorBody)
        except Unreadable:
            return self.clean(body[:READ_CHARACTERS].decode("utf-8", "replace"))
        reason = f" ({error.error_reason})" if error.error_reason else ""
        return self.clean(f"{error.message or ''}{reason}")

    def clean(self, text: str) -> str:
        """The text on one line, truncated, and without our key in case the response quotes it."""
        text = text[:READ_CHARACTERS].replace(self._key, "…").replace(self._previous_key, "…")
        return " ".join(text.split())[:DETAIL_LENGTH]


class _Lost(aiohttp.ClientError):
    """The connection broke."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET whose connection broke: that might be a second hibernate."""
    try:
        return await handler(request)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise _Lost(str(error) or type(error).__name__) from error


async def _body(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(65_536):
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise HyperstackError("answer", f"longer than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


def api_key() -> str | SecretFile:
    """The API key from the environment, or the file that has it and may be replaced.

    Raises:
        Misconfigured: it is missing or malformed.
    """
    if (path := environment_file(KEY_VARIABLE)) is not None:
        return SecretFile(f"{KEY_VARIABLE}_FILE", path)
    key = environment(KEY_VARIABLE)
    if not key:
        raise Misconfigured(
            f"{KEY_VARIABLE}: not set: put Hyperstack's API key there, or its file in {KEY_VARIABLE}_FILE"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise Misconfigured(f"{KEY_VARIABLE}: it has characters that no key has: copy it from the console again")
    return key
