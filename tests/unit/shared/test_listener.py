"""Sockets for every address of this host: reached by IPv4 and by IPv6."""

import errno
import socket

import pytest

from shared.runtime.listener import bind, origin


def reaches(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize(
    ("host", "reached"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("::1", ["::1"]),
        ("localhost", ["127.0.0.1"]),
        ("0.0.0.0", ["127.0.0.1"]),
        ("::", ["127.0.0.1", "::1"]),
        ("*", ["127.0.0.1", "::1"]),
    ],
)
def test_a_host_is_reached_by_its_addresses(host: str, reached: list[str]) -> None:
    with bind(host, 0) as listening:
        listening.listen()
        port = listening.getsockname()[1]
        assert [address for address in ("127.0.0.1", "::1") if reaches(address, port)] == reached


@pytest.mark.parametrize("host", ["::", "*"])
def test_a_shared_port_is_bound_twice_and_another_never(host: str) -> None:
    with bind(host, 0, shared=True) as first:
        first.listen()
        port = first.getsockname()[1]
        bind(host, port, shared=True).close()
        with pytest.raises(OSError, match="Address already in use"):
            bind(host, port)


def test_every_address_is_ipv4_alone_where_there_is_no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    make = socket.socket

    def without_ipv6(family: int, kind: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, kind)

    monkeypatch.setattr(socket, "socket", without_ipv6)
    with bind("*", 0) as bound:
        assert bound.family == socket.AF_INET
    with pytest.raises(OSError, match="not supported"):
        bind("::", 0)


def test_an_origin_can_be_connected_to() -> None:
    hosts = ("127.0.0.1", "10.0.0.1", "gateway.example", "::1", "::", "*")
    assert [origin(host, 80) for host in hosts] == [
        "http://127.0.0.1:80",
        "http://10.0.0.1:80",
        "http://gateway.example:80",
        "http://[::1]:80",
        "http://[::1]:80",
        "http://127.0.0.1:80",
    ]
