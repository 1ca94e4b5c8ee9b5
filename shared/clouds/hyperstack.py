"""One key at Hyperstack's HTTP API: https://docs.hyperstack.cloud/docs/api-reference.

Its state changes are GETs, so nothing here sends a GET twice, follows a redirect or goes through a proxy.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
import msgspec

from shared.clouds.throttle import Crowded, Throttle
from shared.config.load import environment
from shared.errors import Misconfigured
from shared.messages.codec import Unreadable, decode

KEY_VARIABLE = "HYPERSTACK_API_KEY"
CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
MAX_BODY_BYTES = 8 * 1024 * 1024
WORDS_LENGTH = 300

T = TypeVar("T")


class HyperstackError(Exception):
    """A call that came to nothing, in words. `status` is HTTP's, 0: no answer. `made`: it may have reached them."""

    def __init__(self, code: str, words: str, *, status: int = 0, made: bool = True) -> None:
        super().__init__(f"{code}: {words}")
        self.code = code
        self.words = words
        self.status = status
        self.made = made


class _Refused(msgspec.Struct):
    message: str | None = None
    error_reason: str | None = None


class HyperstackAccount:
    """One key at one address."""

    def __init__(
        self,
        base_url: str,
        key: str,
        throttle: Throttle,
        *,
        read_seconds: float = READ_SECONDS,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._key = key
        self._throttle = throttle
        self._now = now
        self.skew: float | None = None
        """Seconds that our clock is ahead of theirs, by the last answer; None: none told the time."""
        self._session = aiohttp.ClientSession(
            headers={"api_key": key, "accept": "application/json"},
            timeout=aiohttp.ClientTimeout(
                total=CONNECT_SECONDS + read_seconds, connect=CONNECT_SECONDS, sock_read=read_seconds
            ),
            connector=aiohttp.TCPConnector(limit=8),
            cookie_jar=aiohttp.DummyCookieJar(),
            middlewares=(_once,),
            trust_env=False,
        )

    async def close(self) -> None:
        await self._session.close()

    async def get(self, shape: type[T], path: str, **query: str) -> T:
        """One call, its answer in this shape; `HyperstackError`."""
        status, body = await self._ask(path, query)
        if status != 200:
            raise HyperstackError(str(status), self._words(body) or f"HTTP status {status}", status=status)
        try:
            return decode(body, shape)
        except Unreadable as error:
            raise HyperstackError(
                "answer", f"{path} was not answered as documented: {self.clean(str(error))}"
            ) from None

    async def _ask(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        try:
            turn = await self._throttle.turn()
        except Crowded as crowded:
            raise HyperstackError("throttled", str(crowded), made=False) from None
        asked_at = self._now()
        try:
            async with self._session.get(self._base_url + path, params=query, allow_redirects=False) as answer:
                self._throttle.answered(turn, throttled=answer.status == 429)
                self._compare(asked_at, answer.headers.get("date"))
                return answer.status, await _body(answer)
        except TimeoutError:
            raise HyperstackError("timeout", "no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HyperstackError("network", self.clean(str(error) or type(error).__name__)) from None

    def _compare(self, asked_at: float, date: str | None) -> None:
        try:
            told = parsedate_to_datetime(date or "").timestamp()
        except ValueError:
            return
        now = self._now()
        # Their clock was read between the question and the answer, and cut to a whole second.
        self.skew = max(0.0, asked_at - told - 1) or min(0.0, now - told)

    def _words(self, body: bytes) -> str:
        try:
            told = decode(body, _Refused)
        except Unreadable:
            return self.clean(body.decode("utf-8", "replace"))
        reason = f" ({told.error_reason})" if told.error_reason else ""
        return self.clean(f"{told.message or ''}{reason}")

    def clean(self, text: str) -> str:
        """In one line, cut, and without our key, should they say it back."""
        return " ".join(text.replace(self._key, "…").split())[:WORDS_LENGTH]


class _Lost(aiohttp.ClientError):
    """The connection broke."""


async def _once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """aiohttp sends a GET again when its connection broke, by these two errors: a second hibernate, perhaps."""
    try:
        return await handler(request)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise _Lost(str(error) or type(error).__name__) from error


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in answer.content.iter_chunked(65_536):
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise HyperstackError("answer", f"longer than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


def api_key() -> str:
    """From the environment; `Misconfigured`."""
    key = environment(KEY_VARIABLE)
    if not key:
        raise Misconfigured(
            f"{KEY_VARIABLE}: not set: put Hyperstack's API key there, or its file in {KEY_VARIABLE}_FILE"
        )
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise Misconfigured(f"{KEY_VARIABLE}: it has characters that no key has: copy it from the console again")
    return key
