"""EC2's metadata service as a spot machine sees it: a token first, then whether EC2 takes the machine back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

from tests.kit.ports import free_port


@dataclass
class MetadataService:
    """`action` is the body of `spot/instance-action`; None: there is none."""

    url: str
    action: bytes | None = None
    tokens: list[str] = field(default_factory=list)
    """Those that were given out; only the last is accepted."""
    is_broken: bool = False
    requests: int = 0

    async def give_token(self, request: web.Request) -> web.Response:
        assert request.headers["X-aws-ec2-metadata-token-ttl-seconds"].isdigit()
        self.tokens.append(f"AQAEA-{len(self.tokens)}==")
        return web.Response(text=self.tokens[-1])

    async def answer(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.is_broken:
            return web.Response(status=500)
        if request.headers.get("X-aws-ec2-metadata-token") not in self.tokens[-1:]:
            return web.Response(status=401)
        return web.Response(status=404) if self.action is None else web.Response(body=self.action)


@asynccontextmanager
async def metadata_service() -> AsyncIterator[MetadataService]:
    port = free_port()
    service = MetadataService(f"http://127.0.0.1:{port}")
    app = web.Application()
    app.router.add_put("/latest/api/token", service.give_token)
    app.router.add_get("/latest/meta-data/spot/instance-action", service.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield service
    finally:
        await runner.cleanup()
