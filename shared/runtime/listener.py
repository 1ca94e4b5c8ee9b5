"""Sockets to listen on, and the addresses by which they are announced."""

import errno
import socket

ANY = "*"
"""Every address of this host: IPv6 and IPv4, or IPv4 alone where there is no IPv6."""
_ANY_IPV6 = "::"
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
_LOOPBACK_OF = {ANY: "127.0.0.1", _ANY_IPV6: "[::1]"}


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket that is bound and does not listen yet. `::` and `*` accept IPv4 as well.

    Arguments:
        shared: other processes may bind the same port.

    Raises:
        OSError: the host has no such address, or the port is taken.
    """
    if host != ANY:
        return _bind(_family(host), host, port, shared=shared)
    try:
        return _bind(socket.AF_INET6, _ANY_IPV6, port, shared=shared)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        return _bind(socket.AF_INET, "0.0.0.0", port, shared=shared)  # noqa: S104 - the operator asked for every address


def origin(host: str, port: int) -> str:
    """Return the URL at which this host reaches a socket that is bound to `host`."""
    shown = _LOOPBACK_OF.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"


def _family(host: str) -> socket.AddressFamily:
    families = [family for family, *_ in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    return socket.AF_INET if socket.AF_INET in families else families[0]


def _bind(family: socket.AddressFamily, host: str, port: int, *, shared: bool) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != _ANY_IPV6)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
