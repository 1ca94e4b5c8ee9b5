"""Publishes what no client of ours would: any bytes in a subject."""

import socket
from urllib.parse import urlsplit

SECONDS = 10.0


def publish_raw(url: str, subject: bytes, data: bytes) -> None:
    """Returns once the server has read it."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), SECONDS) as server:
        server.settimeout(SECONDS)
        server.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        server.sendall(b"PUB %s %d\r\n%s\r\nPING\r\n" % (subject, len(data), data))
        read = b""
        while b"PONG\r\n" not in read:
            part = server.recv(4096)
            assert part, read
            assert b"-ERR" not in read + part, read + part
            read += part
