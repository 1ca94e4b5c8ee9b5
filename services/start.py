"""Imported first by each service's `__main__`: SIGTERM ends the process from here on, and imports get a third cheaper.

As PID 1 a process without a handler never receives SIGTERM, and importing a service takes most of a second.
"""

import gc
import importlib
import os
import signal

from shared.blocked_imports import SQLALCHEMY_SESSIONS, import_without, leave_out
from shared.late_certificates import late_certificates

# Nothing has started, so there is nothing to drain. `shared.runtime.process` replaces the handlers with its own.
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: os._exit(0))
# SIGHUP rereads the configuration, which has not been read yet.
signal.signal(signal.SIGHUP, signal.SIG_IGN)
# A process that started again has blocked them meanwhile.
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
# Importing makes objects and hardly any garbage, and every collection looks at all of them: `run` turns it on again.
gc.disable()
# It would load rich to show tracebacks in color: our logs are JSON.
import_without("rich", "structlog")
leave_out(*SQLALCHEMY_SESSIONS)
with late_certificates():
    importlib.import_module("aiohttp")
