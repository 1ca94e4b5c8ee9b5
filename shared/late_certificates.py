"""Keeps imports from reading the system's certificates: a process that makes no TLS connections never needs them.

aiohttp makes two contexts as it is imported, and reads 140 certificates for each.
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _LateContext(ssl.SSLContext):
    """Reads the certificates at its first connection, and is an ordinary context from then on.

    Until then it trusts nobody.
    """

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self._read_certificates()
        return self.wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        self._read_certificates()
        return self.wrap_bio(*arguments, **options)

    def _read_certificates(self) -> None:
        if self.verify_mode != ssl.CERT_NONE:
            super().load_default_certs()
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]  # after the reading: another thread may connect too


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
