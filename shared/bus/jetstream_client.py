"""The NATS client, made to survive any message: nats-py stops reading for good at one that makes it raise.

A bucket's key is a subject, and the server takes any bytes in it but space, tab, CR and LF. nats-py takes a form feed
for the end of a subject too, and then tears the connection down again and again.
"""

import re
from urllib.parse import urlsplit

from nats.aio import transport
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

from shared.bus.rejections import Rejections
from shared.errors import Misconfigured

_SUBJECT = rb"([^ \t\r\n]+)[ \t]+"
parser.MSG_RE = re.compile(rb"\AMSG[ \t]+" + _SUBJECT + rb"(\d+)[ \t]+(" + _SUBJECT + rb")?(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG[ \t]+" + _SUBJECT + rb"(\d+)[ \t]+(" + _SUBJECT + rb")?(\d+)[ \t]+(\d+)\r\n")

WEBSOCKET_SCHEMES = ("ws", "wss")
SCHEMES = ("nats", "tls", *WEBSOCKET_SCHEMES)


class TolerantClient(Client):
    """Shows what is not UTF-8 in a subject as `\\xff`, which no name of ours has, and drops what it cannot take."""

    def __init__(self, rejections: Rejections) -> None:
        super().__init__()
        self._rejections = rejections

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


def _printable(subject: bytes) -> bytes:
    return subject if subject.isascii() else subject.decode("utf-8", "backslashreplace").encode()


def without_secret(url: str) -> str:
    """The URL as it may be logged."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def prepare(url: str) -> None:
    """Make the client able to reach it; `Misconfigured` where it is no URL of a NATS server."""
    check_url(url)
    if urlsplit(url).scheme in WEBSOCKET_SCHEMES:
        import aiohttp

        transport.aiohttp = aiohttp  # type: ignore[attr-defined]  # a command loads the client without it


def check_url(url: str) -> None:
    """Raise `Misconfigured` for what is no URL of a NATS server: nats-py breaks by it, or waits for ever."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        usable = parts.scheme in SCHEMES and parts.port != 0 and bool(parts.hostname) and " " not in parts.netloc
    except ValueError:  # its port is no number, its host no address
        usable = False
    if not usable:
        raise Misconfigured(
            f"{without_secret(url)!r} is no URL of a bus: write nats://host:4222, what is special in a password as %XX"
        )
