"""An engine as the audit sees it: a page of counters that a test sets, or any other answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from tests.kit.waiting import until


class CountingEngine:
    """`page` replaces the counters with another answer."""

    def __init__(self) -> None:
        self.prompt = self.completion = self.running = self.requests = 0
        self.readings = 0
        self.page: web.Response | None = None
        self.hangs = False
        self.endpoint = ""

    def work(self, prompt: int, completion: int) -> None:
        self.prompt, self.completion, self.requests = (
            self.prompt + prompt,
            self.completion + completion,
            self.requests + 1,
        )

    def restart(self) -> None:
        self.prompt = self.completion = self.requests = 0

    async def wait_for_readings(self, more: int = 1) -> None:
        """Return once it was read so many times from now on, and the last answer is out."""
        expected_reads = self.readings + more + 1

        async def readings() -> int:
            return self.readings

        await until(readings, lambda seen: seen >= expected_reads)

    async def metrics(self, _request: web.Request) -> web.Response:
        self.readings += 1
        if self.hangs:
            await asyncio.sleep(3600)
        if self.page is not None:
            return web.Response(status=self.page.status, body=self.page.body, headers=self.page.headers)
        return web.Response(
            text=f'vllm:prompt_tokens_total{{engine="0"}} {float(self.prompt)}\n'
            f'vllm:generation_tokens_total{{engine="0"}} {float(self.completion)}\n'
            f'vllm:request_success_total{{finished_reason="stop"}} {float(self.requests)}\n'
            f"vllm:num_requests_running {self.running}\n"
        )


@asynccontextmanager
async def counting_engine() -> AsyncIterator[CountingEngine]:
    engine = CountingEngine()
    app = web.Application()
    app.router.add_get("/metrics", engine.metrics)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        engine.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield engine
    finally:
        await runner.cleanup()
