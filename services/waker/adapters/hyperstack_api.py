"""Hyperstack's HTTP API, as much of it as a waker needs: https://docs.hyperstack.cloud/docs/api-reference.

Its state changes are GETs, so nothing here sends a GET twice, follows a redirect or goes through a proxy.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from services.waker.adapters.throttle import Crowded, Throttle
from shared.config import environment
from shared.errors import Misconfigured

KEY_VARIABLE = "HYPERSTACK_API_KEY"
CONNECT_SECONDS = 3.0
READ_SECONDS = 10.0
PAGE_SIZE = 100
MAX_PAGES = 50
MAX_BODY_BYTES = 8 * 1024 * 1024
WORDS_LENGTH = 300

T = TypeVar("T")


class Fault(Exception):
    """A call that came to nothing, in words. `status` is HTTP's, 0: no answer. `made`: it may have reached them."""

    def __init__(self, code: str, words: str, *, status: int = 0, made: bool = True) -> None:
        super().__init__(f"{code}: {words}")
        self.code = code
        self.words = words
        self.status = status
        self.made = made


class Flavor(msgspec.Struct, frozen=True):
    name: str | None = None
    gpu: str | None = None
    gpu_count: int | None = None
    features: dict[str, Any] | None = None


class Environment(msgspec.Struct, frozen=True):
    region: str | None = None


class Vm(msgspec.Struct, frozen=True):
    """A virtual machine. Not told: `locked`, whose meaning nobody documents."""

    id: int
    status: str | None = None
    flavor: Flavor | None = None
    environment: Environment | None = None
    labels: list[str] | None = None

    @property
    def word(self) -> str:
        return (self.status or "UNKNOWN").upper()

    @property
    def region(self) -> str:
        return (self.environment and self.environment.region) or "?"

    @property
    def pool(self) -> str:
        return f"{(self.flavor and self.flavor.name) or '?'}/{self.region}"

    @property
    def hibernates(self) -> bool:
        """False only where its flavor says so."""
        features = (self.flavor and self.flavor.features) or {}
        return features.get("no_hibernation") is not True


class _Listing(msgspec.Struct):
    instances: list[Vm] | None = None
    count: int | None = None
    page_size: int | None = None


class _Single(msgspec.Struct):
    instance: Vm


class _Done(msgspec.Struct):
    status: bool
    message: str | None = None


class VmEvent(msgspec.Struct, frozen=True):
    """`type` is such as `RestoreHibernationInstanceFailed`."""

    type: str | None = None
    message: str | None = None
    reason: str | None = None
    time: str | None = None


class _Events(msgspec.Struct):
    instance_events: list[VmEvent] | None = None


class Stocked(msgspec.Struct, frozen=True):
    """A GPU model's stock; `configurations` counts machines by their size, as `{"2x": 3}`."""

    model: str | None = None
    configurations: dict[str, int | None] | None = None


class StockRegion(msgspec.Struct, frozen=True):
    region: str | None = None
    models: list[Stocked] | None = None


class _Stocks(msgspec.Struct):
    stocks: list[StockRegion] | None = None


class _Refused(msgspec.Struct):
    message: str | None = None
    error_reason: str | None = None


class HyperstackApi:
    """One key at one address. Every method is one call, but for `machines`; each raises `Fault`."""

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

    async def machines(self) -> list[Vm]:
        """All that the key may see, in every region, page by page; the first `MAX_PAGES` of them."""
        found: dict[int, Vm] = {}
        for page in range(1, MAX_PAGES + 1):
            try:
                listing = await self._get(_Listing, "/core/virtual-machines", page=str(page), pageSize=str(PAGE_SIZE))
            except Fault as fault:
                if fault.status == 404 and page > 1:
                    break  # past the last page
                raise
            told = listing.instances or []
            found |= {vm.id: vm for vm in told}
            # Whether `count` is the page's or the whole's is not documented, and a page may be smaller than asked for.
            short = len(told) < (listing.page_size or PAGE_SIZE) and len(found) >= (listing.count or 0)
            if short or not told:
                break
        return list(found.values())

    async def machine(self, instance: str) -> Vm:
        return (await self._get(_Single, _path(instance))).instance

    async def events(self, instance: str) -> list[VmEvent]:
        return (await self._get(_Events, _path(instance) + "/events")).instance_events or []

    async def stocks(self) -> list[StockRegion]:
        return (await self._get(_Stocks, "/core/stocks")).stocks or []

    async def hibernate(self, instance: str) -> None:
        """From `ACTIVE`. Without `retain_ip` it would come back under another address."""
        await self._change(_path(instance) + "/hibernate", retain_ip="true")

    async def restore(self, instance: str) -> None:
        """From `HIBERNATED`."""
        await self._change(_path(instance) + "/hibernate-restore")

    async def start(self, instance: str) -> None:
        """From `SHUTOFF`."""
        await self._change(_path(instance) + "/start")

    async def _change(self, path: str, **query: str) -> None:
        done = await self._get(_Done, path, **query)
        if not done.status:
            # A refusal under a wrong status: judged by its words, as a 400 is.
            raise Fault("200", self._clean(done.message or "") or "status: false", status=400)

    async def _get(self, shape: type[T], path: str, **query: str) -> T:
        status, body = await self._ask(path, query)
        if status != 200:
            raise Fault(str(status), self._words(body) or f"HTTP status {status}", status=status)
        try:
            return msgspec.json.decode(body, type=shape)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Fault("answer", f"{path} was not answered as documented: {self._clean(str(error))}") from None

    async def _ask(self, path: str, query: dict[str, str]) -> tuple[int, bytes]:
        try:
            turn = await self._throttle.turn()
        except Crowded as crowded:
            raise Fault("throttled", str(crowded), made=False) from None
        asked_at = self._now()
        try:
            async with self._session.get(self._base_url + path, params=query, allow_redirects=False) as answer:
                self._throttle.answered(turn, throttled=answer.status == 429)
                self._compare(asked_at, answer.headers.get("date"))
                return answer.status, await _body(answer)
        except TimeoutError:
            raise Fault("timeout", "no answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Fault("network", self._clean(str(error) or type(error).__name__)) from None

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
            told = msgspec.json.decode(body, type=_Refused)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._clean(body.decode("utf-8", "replace"))
        reason = f" ({told.error_reason})" if told.error_reason else ""
        return self._clean(f"{told.message or ''}{reason}")

    def _clean(self, text: str) -> str:
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
            raise Fault("answer", f"longer than {MAX_BODY_BYTES} bytes")
    return b"".join(parts)


def _path(instance: str) -> str:
    return f"/core/virtual-machines/{quote(instance, safe='')}"


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
