"""What is used of aiohttp beyond its documentation: an upgrade that changes it fails here."""

from aiohttp import web


def test_the_protocol_has_what_is_used_of_it() -> None:
    slots = {name for cls in web.RequestHandler.__mro__ for name in getattr(cls, "__slots__", ())}
    assert {"_messages", "_parser", "_close", "_force_close", "transport"} <= slots
