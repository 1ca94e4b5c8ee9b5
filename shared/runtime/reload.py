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


def reload_on_hangup(path: Path, config: Config, find_handler: Callable[[], Callable[[Config], None] | None]) -> None:
    """Give the service its new configuration on SIGHUP. A faulty file changes nothing.

    `find_handler` returns what takes the configuration; None while nothing can.
    """
    running = config

    def reload() -> None:
        nonlocal running
        handle = find_handler()
        if handle is None:
            log.warning("config_reload_ignored", reason="this service reads its configuration at its start: restart it")
            return
        try:
            merged, waiting = merge_reloaded(running, load(path))
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
