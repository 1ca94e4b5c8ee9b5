"""The operator's command and the launcher that runs the whole suite on one host."""

from shared.blocked_imports import SQLALCHEMY_SESSIONS, import_without, leave_out

import_without("aiohttp", "nats")  # two fifths of a command's start, for websockets alone: the bus loads it for them
leave_out(*SQLALCHEMY_SESSIONS)
