"""What anybody would write first: aiohttp on both sides. It checks key and model, no more."""

import asyncio
import json
import sys

import aiohttp
import uvloop
from aiohttp import web

PASSED_ON = ("Content-Type", "Accept")


async def main(engine: str, key: str, model: str) -> None:
    unbounded = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=unbounded, auto_decompress=False) as session:

        async def pass_on(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != f"Bearer {key}":
                return web.Response(status=401)
            body = await request.read()
            if json.loads(body)["model"] != model:
                return web.Response(status=404)
            headers = {name: request.headers[name] for name in PASSED_ON if name in request.headers}
            async with session.post(f"{engine}{request.path}", data=body, headers=headers) as upstream:
                answer = web.StreamResponse(status=upstream.status, headers={"Content-Type": upstream.content_type})
                answer.content_length = upstream.content_length
                await answer.prepare(request)
                async for data in upstream.content.iter_any():
                    await answer.write(data)
                return answer

        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_post("/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
