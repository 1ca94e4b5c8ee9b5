"""Runs a service whose reference cycles stay until they are asked for, in a process of its own.

Use: `python -m tests.kit.service_without_collection FILE SERVICE …`, then SIGUSR1: it writes what only a garbage
collection frees to FILE, one line for each object, and frees it.
"""

import gc
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

MOST_SHOWN = 300
"""Characters of an object that a line shows."""


def describe(garbage: object) -> str:
    """Return an object's type, and what it holds."""
    kind = f"{type(garbage).__module__}.{type(garbage).__qualname__}"
    try:
        shown = repr(garbage)
    except Exception as error:  # noqa: BLE001 - half of an object may be gone by now
        shown = f"({error})"
    return f"{kind} {shown}"[:MOST_SHOWN].replace("\n", " ")


def report_to(path: Path) -> Callable[[int, FrameType | None], None]:
    """Return the handler of the signal."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        lines = [describe(garbage) for garbage in gc.garbage]
        gc.garbage.clear()
        gc.set_debug(0)
        gc.collect()
        unfinished = path.with_suffix(".part")
        unfinished.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        unfinished.replace(path)

    return on_signal


def main() -> None:
    """Run the service; nothing that it does turns the collection on."""
    path, service = Path(sys.argv[1]), sys.argv[2]
    gc.enable = lambda: None
    gc.disable()
    signal.signal(signal.SIGUSR1, report_to(path))
    sys.argv = [f"services.{service}", *sys.argv[3:]]
    runpy.run_module(f"services.{service}", run_name="__main__")


if __name__ == "__main__":
    main()
