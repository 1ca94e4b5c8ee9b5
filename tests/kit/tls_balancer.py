"""A balancer that terminates TLS in front of plain HTTP, as a cluster's Gateway does: the replicas in turn."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

from tests.kit.tls import Certificate

CLIENT = "203.0.113.7"
"""Where it says that each request comes from."""
HOP_BY_HOP = {"Connection", "Keep-Alive", "Transfer-Encoding", "Content-Length"}


@dataclass
class Balancer:
    """`backends`: the origins of the replicas, which may be added while it runs."""

    url: str = ""
    backends: list[str] = field(default_factory=list)
    _requests: int = 0

    async def forward(self, request: web.Request) -> web.StreamResponse:
        backend = self.backends[self._requests % len(self.backends)]
        self._requests += 1
        added = {"X-Forwarded-For": CLIENT, "X-Forwarded-Proto": "https"}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as http,
            http.request(
                request.method,
                f"{backend}{request.raw_path}",
                headers={**request.headers, **added},
                data=await request.read(),
                allow_redirects=False,
            ) as answer,
        ):
            response = web.Response(status=answer.status, body=await answer.read())
            for name, value in answer.headers.items():
                if name not in HOP_BY_HOP:
                    response.headers.add(name, value)
            return response


@asynccontextmanager
async def running_balancer(certificate: Certificate) -> AsyncIterator[Balancer]:
    balancer = Balancer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", balancer.forward)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    balancer.url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield balancer
    finally:
        await runner.cleanup()
