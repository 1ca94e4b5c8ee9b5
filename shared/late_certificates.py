"""Keeps imports from reading the system's certificates: a process that makes no TLS connections never needs them.

aiohttp makes two contexts as it is imported, and reads 140 certificates for each.
"""

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _LateContext(ssl.SSLContext):
    """Reads the certificates at its first connection, and is an ordinary context from then on.

    Until then it trusts nobody.
    """

    # Not by `super()` or a method of `self`: its class may change meanwhile, by another thread's first connection.

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        _read_certificates(self)
        return ssl.SSLContext.wrap_socket(self, *arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        _read_certificates(self)
        return ssl.SSLContext.wrap_bio(self, *arguments, **options)


_reading = threading.Lock()


def _read_certificates(context: ssl.SSLContext) -> None:
    with _reading:
        if isinstance(context, _LateContext):
            if context.verify_mode != ssl.CERT_NONE:
                ssl.SSLContext.load_default_certs(context)
            context.__class__ = ssl.SSLContext  # type: ignore[assignment]  # they have one layout


def _defer(context: ssl.SSLContext, _purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
    context.__class__ = _LateContext


@contextmanager
def late_certificates() -> Iterator[None]:
    """Contexts for clients that are made meanwhile read the system's certificates when they first connect."""
    names = ("load_default_certs", "set_default_verify_paths")
    originals = [(name, getattr(ssl.SSLContext, name)) for name in names]
    for name in names:
        setattr(ssl.SSLContext, name, _defer)
    try:
        yield
    finally:
        for name, original in originals:
            setattr(ssl.SSLContext, name, original)
