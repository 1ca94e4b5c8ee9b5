"""`python -m bench.readers ORIGIN PATH…`: a hundred people who each read a page per second, until the input ends.

Then it prints how many pages they have read.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from shared.tasks import cancel_and_wait

READERS = 100
PAUSE_SECONDS = 1.0
"""Between two pages of a reader."""


class ReaderStopped(Exception):
    """A page could not be read."""


@asynccontextmanager
async def reading(origin: str, paths: Sequence[str]) -> AsyncIterator[list[int]]:
    """Read page after page; yields how many have been read."""
    pages = [0]

    async def read(number: int, client: aiohttp.ClientSession) -> None:
        await asyncio.sleep(PAUSE_SECONDS * number / READERS)
        while True:
            async with client.get(paths[(number + pages[0]) % len(paths)]) as response:
                response.raise_for_status()
                await response.read()
            pages[0] += 1
            await asyncio.sleep(PAUSE_SECONDS)

    async with aiohttp.ClientSession(
        origin,
        connector=aiohttp.TCPConnector(limit=READERS),
        headers={"Accept-Encoding": "gzip"},
        auto_decompress=False,
    ) as client:
        tasks = [asyncio.create_task(read(number, client)) for number in range(READERS)]
        try:
            yield pages
            failed = next((task for task in tasks if task.done()), None)
            if failed is not None:
                raise ReaderStopped(f"a reader stopped: {failed.exception()!r}")
        finally:
            await cancel_and_wait(tasks)


async def _read_to_the_end(origin: str, paths: Sequence[str]) -> int:
    async with reading(origin, paths) as pages:
        await asyncio.to_thread(sys.stdin.read)
    return pages[0]


def main() -> int:
    origin, *paths = sys.argv[1:]
    print(asyncio.run(_read_to_the_end(origin, paths)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
