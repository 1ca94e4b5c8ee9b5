"""A NATS client that survives every message: nats-py stops reading for good at one that makes it raise.

A bucket's key is a subject, and the server accepts any bytes in it except space, tab, CR and LF. nats-py also treats a
form feed as the end of a subject, and then drops the connection again and again.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import nats.errors
import structlog
from nats.aio import transport
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

from shared.bus.access import BusAccess, without_secret
from shared.bus.rejections import Rejections
from shared.errors import BusRefused, BusUnavailable, Misconfigured
from shared.tasks import cancel_and_wait

log = structlog.get_logger()

_SUBJECT = rb"([^ \t\r\n]+)[ \t]+"
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+" + _SUBJECT + rb"(\d+)[ \t]+(" + _SUBJECT + rb")?(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG[ \t]+" + _SUBJECT + rb"(\d+)[ \t]+(" + _SUBJECT + rb")?(\d+)[ \t]+(\d+)\r\n")

WEBSOCKET_SCHEMES = ("ws", "wss")
MAX_ERRORS = 100
"""Different errors that one connection logs."""
SCHEMES = ("nats", "tls", *WEBSOCKET_SCHEMES)
CLOSE_SECONDS = 2.0  # for the last flush: a server that is gone does not answer


class TolerantClient(Client):
    """Escapes bytes of a subject that are not UTF-8 as `\\xff`, which no name of ours has. Drops broken messages."""

    def __init__(self, rejections: Rejections) -> None:
        super().__init__()
        self._rejections = rejections
        self.read_seed: Callable[[], str] | None = None
        """Returns the user's seed, if it has one: read at each connection, so that a key can be replaced."""

    def _connect_command(self) -> bytes:
        if self.read_seed is not None:
            with suppress(Misconfigured):  # then the previous one may still do
                self._nkeys_seed_str = self.read_seed()
                self._setup_nkeys_seed_connect()
        command: bytes = super()._connect_command()
        return command

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect where the client would close for good: a user whose key was replaced may have the new one."""
        error = str(err_msg).strip("'")
        if parser.PERMISSIONS_ERR in f"nats: {error}" or parser.STALE_CONNECTION in error or not self.is_connected:
            await super()._process_err(err_msg)
        else:
            await self._error_cb(nats.errors.Error(f"nats: {error}"))
            await self._process_op_err(nats.errors.Error(f"nats: {error}"))

    async def disconnect(self) -> None:
        """Close the connection, within `CLOSE_SECONDS`."""
        # In a task of its own: `close` cancels a reconnection that waits for the old connection to end, and with that
        # the wait for that end, which is its own too.
        closing = asyncio.create_task(self.close(), name="disconnect from the bus")
        await asyncio.wait([closing], timeout=CLOSE_SECONDS)
        await cancel_and_wait([closing])

    async def _process_pong(self) -> None:
        """Take a late answer of a server that hung: whoever timed out has cancelled the future.

        The client would fail at it and stop reading, and notice only by its own pings, half a minute later.
        """
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except Exception as error:  # noqa: BLE001 - whatever it is, it concerns this message alone
            self._rejections.record("client", error, traceback=True, subject=subject.decode("utf-8", "replace"))

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        message: Msg = super()._build_message(sid, _printable(subject), _printable(reply), data, headers)
        return message


RECONNECT_SECONDS: Any = 0.2  # the client declares int and sleeps any number


class ConnectionReport:
    """Logs what happens to the connection. While servers are gone, the same errors come five times a second."""

    def __init__(self) -> None:
        self.last_error = ""
        self.closing = False
        self._logged: set[str] = set()

    def failure(self, text: str) -> BusUnavailable:
        """Return the error of a connection that was not made: by the last one, the server may refuse this user."""
        return BusRefused(text) if "authorization violation" in self.last_error.lower() else BusUnavailable(text)

    async def on_disconnect(self) -> None:
        self._logged.clear()
        if not self.closing:
            log.warning("bus_disconnected")

    async def on_error(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__
        if self.last_error not in self._logged and len(self._logged) < MAX_ERRORS:
            self._logged.add(self.last_error)
            log.warning("bus_error_reported", error=self.last_error)


async def connect_client(
    client: TolerantClient,
    access: BusAccess,
    *,
    name: str,
    report: ConnectionReport,
    on_reconnect: Callable[[], Awaitable[None]],
) -> None:
    """Connect, however long that takes: a client that may reconnect also tries the first connection for ever."""
    if access.nkey_file is not None:
        client.read_seed = access.seed
    await client.connect(
        list(access.urls),
        name=name,
        connect_timeout=2,
        reconnect_time_wait=RECONNECT_SECONDS,
        max_reconnect_attempts=-1,
        ping_interval=10,  # a dead peer that does not close its side is noticed after two of these
        reconnected_cb=on_reconnect,
        disconnected_cb=report.on_disconnect,
        error_cb=report.on_error,
        **access.options(),
    )


def _printable(subject: bytes) -> bytes:
    return subject if subject.isascii() else subject.decode("utf-8", "backslashreplace").encode()


def prepare(urls: Sequence[str]) -> None:
    """Prepare the client for these URLs. Raises `Misconfigured` if one is no URL of a NATS server."""
    for url in urls:
        check_url(url)
    if any(urlsplit(url).scheme in WEBSOCKET_SCHEMES for url in urls):
        import aiohttp

        transport.aiohttp = aiohttp  # type: ignore[attr-defined]  # commands load the client without aiohttp


def check_url(url: str) -> None:
    """Raise `Misconfigured` for anything but a NATS URL: nats-py would fail obscurely, or wait for ever."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        usable = parts.scheme in SCHEMES and parts.port != 0 and bool(parts.hostname) and " " not in parts.netloc
    except ValueError:  # its port is no number, its host no address
        usable = False
    if not usable:
        raise Misconfigured(
            f"{without_secret(url)!r} is no URL of a bus: write nats://host:4222, with special characters of a "
            "password as %XX"
        )
