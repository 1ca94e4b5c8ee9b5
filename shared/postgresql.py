"""Connects to PostgreSQL by its usual URLs: several hosts, `sslmode`, `sslrootcert` and so on, as libpq reads them."""

import os
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
from sqlalchemy import event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared.errors import Misconfigured

SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SSL_ALIASES = {"true": "require", "false": "disable"}
UNSUPPORTED = frozenset(
    {"channel_binding", "client_encoding", "connect_timeout", "fallback_application_name", "gssencmode", "keepalives"}
    | {
        "keepalives_count",
        "keepalives_idle",
        "keepalives_interval",
        "load_balance_hosts",
        "replication",
        "require_auth",
    }
    | {"sslcompression", "sslsni", "tcp_user_timeout"}
)
"""libpq's own, which asyncpg would send to the server as its settings. It rejects them obscurely."""
FILES = frozenset({"sslcert", "sslcrl", "sslkey", "sslrootcert"})
CACHE_SIZE = "prepared_statement_cache_size"
"""SQLAlchemy's parameter; 0 for PgBouncer in transaction mode."""
READ_ONLY = "25006"
"""SQLSTATE of a write on a read-only server, such as one that was the primary before a failover."""


def create_postgresql_engine(url: str, *, connect_seconds: float, command_seconds: float | None) -> AsyncEngine:
    """Return a pooled engine. After a write on a read-only server, it opens new connections.

    Raises:
        Misconfigured: the URL is wrong; the text says where, without the password.
    """
    base, _, query = url.partition("?")
    parameters = _parameters(query)
    cache = {CACHE_SIZE: int(parameters.pop(CACHE_SIZE))} if CACHE_SIZE in parameters else {}
    if "," in urlsplit(base).netloc:  # several hosts: the services write, so they need the primary
        parameters.setdefault("target_session_attrs", "read-write")
    dsn = f"postgresql{base[base.index('://') :]}?{urlencode(parameters)}".rstrip("?")
    connect = partial(_connect, dsn, timeout=connect_seconds, command_timeout=command_seconds)
    engine = create_async_engine(
        "postgresql+asyncpg://", pool_pre_ping=True, connect_args={"async_creator_fn": connect, **cache}
    )
    event.listen(engine.sync_engine, "handle_error", _on_error)
    return engine


def _parameters(query: str) -> dict[str, str]:
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    if "ssl" in parameters:  # asyncpg's own name for it
        mode = parameters.pop("ssl")
        parameters.setdefault("sslmode", SSL_ALIASES.get(mode, mode))
    if parameters.get("sslmode", "disable") not in SSL_MODES:
        raise Misconfigured(
            f"database.url: sslmode must be one of {', '.join(SSL_MODES)}, got {parameters['sslmode']!r}"
        )
    if not parameters.get(CACHE_SIZE, "0").isdecimal():
        raise Misconfigured(f"database.url: {CACHE_SIZE} must be a whole number, got {parameters[CACHE_SIZE]!r}")
    if unsupported := sorted(UNSUPPORTED & parameters.keys()):
        raise Misconfigured(f"database.url: {', '.join(unsupported)} is not supported: remove it from the URL")
    for name in FILES & parameters.keys():
        if not os.access(parameters[name], os.R_OK):
            raise Misconfigured(f"database.url: {name}: {parameters[name]} cannot be read")
    return parameters


async def _connect(dsn: str, **options: Any) -> Any:
    try:
        return await asyncpg.connect(dsn, **options)
    except asyncpg.ClientConfigurationError as error:
        raise Misconfigured(f"database.url: {error}") from error
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise ConnectionError("no host of database.url accepts writes: is a failover in progress?") from error


def _on_error(context: ExceptionContext) -> None:
    """Treat a read-only server as gone: the connections of the pool would lead to it for ever."""
    if getattr(context.original_exception, "sqlstate", None) == READ_ONLY:
        context.is_disconnect = True
