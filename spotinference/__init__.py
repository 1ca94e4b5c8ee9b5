"""The operator's command and the launcher that runs the whole suite on one host."""

from shared.blocked_imports import import_without

import_without("aiohttp", "nats")  # two fifths of a command's start, for websockets alone: the bus loads it for them
