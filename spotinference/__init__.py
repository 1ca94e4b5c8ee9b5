"""The operator's command and the launcher that runs the whole suite on one host."""

from shared.blocked_imports import SQLALCHEMY_SESSIONS, import_without, leave_out
from shared.without_collection import without_collection

with without_collection():
    # Two fifths of a command's start, for websockets alone: the bus loads it for them.
    import_without("aiohttp", "nats")
    # It would load rich to show tracebacks in color: our logs are JSON.
    import_without("rich", "structlog")
leave_out(*SQLALCHEMY_SESSIONS)
