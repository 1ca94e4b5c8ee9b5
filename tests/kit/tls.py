"""A certificate authority of the test's own, and proxies that terminate TLS: for HTTP, and for PostgreSQL's wheel."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SSL_REQUEST_BYTES = 8


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1, which is its own authority."""

    certificate: Path
    key: Path


def make_certificate(folder: Path, name: str = "server") -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = Certificate(folder / f"{name}.crt", folder / f"{name}.key")
    paths.certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@asynccontextmanager
async def _forwarding(
    port: Callable[[], int],
    *,
    tls: ssl.SSLContext | None = None,
    begin: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]] | None = None,
) -> AsyncIterator[int]:
    """The port of a server that passes each connection on to `port`, after `begin`."""
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if begin is not None:
            await begin(reader, writer)
        there, back = await asyncio.open_connection("127.0.0.1", port())
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        connections.add(task)
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # a client that does not trust the certificate hangs up

    server = await asyncio.start_server(on_connection, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()


def _server_context(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    return context


@asynccontextmanager
async def postgres_with_tls(certificate: Certificate, port: int) -> AsyncIterator[int]:
    """The port of a server that accepts PostgreSQL's request for TLS and passes the rest on to `port`."""
    context = _server_context(certificate)

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(SSL_REQUEST_BYTES)
        writer.write(b"S")
        await writer.start_tls(context)

    async with _forwarding(lambda: port, begin=begin) as front:
        yield front


@asynccontextmanager
async def https_in_front(certificate: Certificate, port: Callable[[], int]) -> AsyncIterator[int]:
    """The port of a server that terminates TLS for the HTTP server at `port`, which may start later."""
    async with _forwarding(port, tls=_server_context(certificate)) as front:
        yield front
