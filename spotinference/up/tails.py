"""What the services log, copied to our stderr."""

import asyncio
import sys
from pathlib import Path


class Tails:
    """Reads their files, so that no service depends on our reading."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets = {path: path.stat().st_size for path in folder.glob("*.log")}

    def copy(self) -> None:
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                if data := file.read():
                    sys.stderr.buffer.write(data)
                    sys.stderr.flush()
                self._offsets[path] = file.tell()

    async def run(self) -> None:
        while True:
            self.copy()
            await asyncio.sleep(0.2)
