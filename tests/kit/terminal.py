"""A terminal for a command that draws: what it shows, and Ctrl-C."""

import asyncio
import contextlib
import os
import pty
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.kit.waiting import PATIENCE_SECONDS, until


class Terminal:
    """140 columns, and one process that writes to them."""

    def __init__(self, descriptor: int, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._descriptor = descriptor
        self._text = ""
        self._seen = 0
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    async def wait_for_text(self, pattern: str) -> None:
        """After what it showed last, colours and moves of the cursor left out."""

        async def plain() -> str:
            return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._text)[self._seen :]

        text = await until(plain, lambda text: re.search(pattern, text) is not None)
        match = re.search(pattern, text)
        assert match is not None
        self._seen += match.end()

    async def send_ctrl_c(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return await self.wait()

    async def wait(self) -> int:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await self.process.wait()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _read(self) -> None:
        try:
            self._text += os.read(self._descriptor, 65536).decode("utf-8", "replace")
        except OSError:  # its last writer has gone
            asyncio.get_running_loop().remove_reader(self._descriptor)


@asynccontextmanager
async def terminal(*command: str) -> AsyncIterator[Terminal]:
    """A command with a terminal of its own; it is killed if it still runs afterwards."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    process = await asyncio.create_subprocess_exec(*command, stdin=its, stdout=its, stderr=its, env=environment)
    os.close(its)
    screen = Terminal(ours, process)
    try:
        yield screen
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        screen.close()
