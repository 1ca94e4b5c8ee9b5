"""The attributes of aiohttp that `request_parsing` and `ClientResponse` rely on: an upgrade that changes them fails here."""

import inspect

from aiohttp import web, web_protocol
from aiohttp.http import HttpRequestParser, RawRequestMessage
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader


def test_the_protocol_has_what_is_used_of_it() -> None:
    slots = {name for cls in web.RequestHandler.__mro__ for name in getattr(cls, "__slots__", ())}
    assert {"_messages", "_parser", "_close", "_force_close", "transport"} <= slots
