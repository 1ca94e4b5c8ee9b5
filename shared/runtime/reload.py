"""Rereads the configuration on SIGHUP, without a drain."""

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import structlog

from shared.config.load import load
from shared.config.reload import RELOADABLE, merge_reloaded
from shared.config.sections import Config
from shared.errors import SpotinferenceError

log = structlog.get_logger()


def reload_on_hangup(
    path: Path,
    config: Config,
    *,
    is_started: Callable[[], bool],
    find_handler: Callable[[], Callable[[Config], None] | None],
    start_again: Callable[[], None],
) -> None:
    """Give the service its new configuration on SIGHUP. A faulty file changes nothing.

    `find_handler` returns what takes the configuration; None for a service that reads it at its start alone. One that
    has not started yet, because it waits for the bus, starts again.
    """
    running = config

    def reload() -> None:
        nonlocal running
        try:
            new = load(path)
            if not is_started():
                log.info("config_reloaded", changed=[], reason="the service was starting, and starts again")
                start_again()
                return
            if (handle := find_handler()) is None:
                merged, waiting = (
                    running,
                    tuple(name for name in Config.__struct_fields__ if getattr(new, name) != getattr(running, name)),
                )
            else:
                merged, waiting = merge_reloaded(running, new)
                handle(merged)
        except SpotinferenceError as error:
            log.error("config_reload_failed", reason=str(error))
            return
        changed = [name for name in RELOADABLE if getattr(merged, name) != getattr(running, name)]
        running = merged
        log.info("config_reloaded", changed=changed)
        for section in waiting:
            log.warning("config_section_not_reloaded", section=section, reason="it takes a restart of the service")

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
