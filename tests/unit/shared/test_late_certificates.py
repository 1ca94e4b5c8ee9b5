"""A context that reads the system's certificates late trusts the same servers as one that reads them at once."""

import ssl
from pathlib import Path

import pytest

from shared.late_certificates import late_certificates
from tests.kit.tls import Certificate, make_certificate


@pytest.fixture
def late_context() -> ssl.SSLContext:
    with late_certificates():
        return ssl.create_default_context()


def _handshake(client: ssl.SSLContext, certificate: Certificate) -> ssl.SSLObject:
    """Connect in memory to a server with this certificate. `ssl.SSLError` if it is not trusted."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(certificate.certificate, certificate.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    peers = [
        client.wrap_bio(to_client, to_server, server_hostname="127.0.0.1"),
        server_context.wrap_bio(to_server, to_client, server_side=True),
    ]
    for peer in peers * 3:
        try:
            peer.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return peers[0]


def test_trusts_the_systems_authorities_at_its_first_connection(
    late_context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert late_context.cert_store_stats()["x509"] == 0
    certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.certificate))
    assert _handshake(late_context, certificate).version() == "TLSv1.3"
    assert type(late_context) is ssl.SSLContext


def test_trusts_no_other_authority(
    late_context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path, "trusted").certificate))
    with pytest.raises(ssl.SSLCertVerificationError):
        _handshake(late_context, make_certificate(tmp_path, "other"))


def test_context_that_verifies_nothing_needs_no_certificates(tmp_path: Path) -> None:
    with late_certificates():
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_default_verify_paths()
    assert _handshake(context, make_certificate(tmp_path)).version() == "TLSv1.3"


def test_contexts_made_afterwards_read_certificates_at_once(
    late_context: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(make_certificate(tmp_path).certificate))
    context = ssl.create_default_context()
    assert type(context) is not type(late_context)
    assert context.cert_store_stats()["x509"] == 1


def test_thread_that_connects_while_another_reads_the_certificates(late_context: ssl.SSLContext) -> None:
    connect = late_context.wrap_bio  # it is this far when the other one is done
    for wrap in (late_context.wrap_bio, connect):
        wrap(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="127.0.0.1")
    assert late_context.verify_mode is ssl.CERT_REQUIRED
